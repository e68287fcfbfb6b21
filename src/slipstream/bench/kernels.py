"""How near each kernel comes to this machine's ceilings, operation by operation and shape by shape.

`slipstream bench kernels` prints what `measure_kernels` returns. The kernels are timed where they
work: inside native steps of the model itself, so that threads, barriers and the order of memory are
those of serving. Every step is taken by two names in turn (A/A), which gives each row its noise.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slipstream.backends.batch import PAGE_SIZE, Batch
from slipstream.backends.native import NativeKV, NativeProgram
from slipstream.bench.compare import noise_band
from slipstream.bench.samples import Samples, gather
from slipstream.formats.kv import KVType
from slipstream.formats.tensor import AffineTensor, CodebookTensor, DenseTensor, Tensor
from slipstream.graph import ops
from slipstream.graph.cost import Cost, Size, StepShape, costs_of, predict_s
from slipstream.graph.graph import Graph, Node, weights_of
from slipstream.machine import Ceilings

CHUNK = 256  # rows of a step that only fills the cache
PROMPT_ROWS = 128  # from here on the rows of a step are one prompt, below one row a sequence
ARMS = 2


@dataclass(frozen=True)
class Steps:
    """Which steps are timed: one for each number of rows, each `repeats` times in both arms."""

    rows: tuple[int, ...]
    depth: int
    repeats: int


@dataclass(frozen=True)
class Weights:
    """What costs and names need of every weight: its size, and its format in a word."""

    sizes: Mapping[str, Size]
    formats: Mapping[str, str]


@dataclass(frozen=True)
class Kernel:
    """One operation of one shape: the nodes of the graph that are equal in both."""

    name: str  # "gated linear 576 → 1536, int4/32"
    kind: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One kernel at one number of rows, per call: its cost, its times, the share of the roof."""

    kernel: Kernel
    rows: int
    cost: Cost
    seconds: Samples
    roof_s: float
    noise: float

    @property
    def bytes_per_s(self) -> float:
        """Weights and cached keys and values."""
        return (self.cost.bytes_weights + self.cost.bytes_kv) / self.seconds.median

    @property
    def operations_per_s(self) -> float:
        """A multiply-add is two."""
        return self.cost.operations / self.seconds.median

    @property
    def share(self) -> float:
        """The least time by the measured ceilings, as a share of the time taken."""
        return self.roof_s / self.seconds.median


def look_at(graph: Graph, weights: Mapping[str, Tensor], form: str = "dense") -> Weights:
    """Reads every weight once. Affine ones are packed in `form`, and counted as packed."""
    sizes, formats = {}, {}
    for name in graph.weight_names():
        tensor = weights[name]
        size_bytes, formats[name] = tensor.size_bytes, format_word(tensor)
        if form != "dense" and isinstance(tensor, AffineTensor):
            dense_bits = tensor.shape[0] * tensor.shape[1] * tensor.format.bits
            size_bytes -= (dense_bits - _packed_bits(tensor, form)) // 8
            formats[name] += f" {form}"
        sizes[name] = Size(tuple(tensor.shape), size_bytes)
    return Weights(sizes, formats)


def _packed_bits(tensor: AffineTensor, form: str) -> int:
    """Of the codes of a matrix without its zeros, and of where they belong."""
    bits, weights = tensor.format.bits, tensor.shape[0] * tensor.shape[1]
    if form == "2:4":
        return weights * (bits // 2 + 1)
    codes = tensor.codes
    if bits == 8:
        return weights + 8 * int(np.count_nonzero(codes))
    kept = np.count_nonzero(codes & 15 != 8) + np.count_nonzero(codes >> 4 != 8)
    return weights + 4 * int(kept)


def format_word(tensor: Tensor) -> str:
    """``int4/32``, ``int8/row``, ``nf4/64``, ``bfloat16``; ``+m`` where groups have offsets."""
    if isinstance(tensor, DenseTensor):
        return str(tensor.data.dtype)
    group = tensor.format.group or "row"
    if isinstance(tensor, CodebookTensor):
        return f"{tensor.format.name}/{group}"
    plus = "" if tensor.format.zero == "symmetric" else "+m"
    return f"int{tensor.format.bits}/{group}{plus}"


def kernels_of(graph: Graph, weights: Weights) -> list[Kernel]:
    """The graph's operations, equal ones together, in order of first appearance."""
    found: dict[str, list[Node]] = {}
    for node in graph:
        found.setdefault(_name(node, weights), []).append(node)
    return [
        Kernel(name, _kind(nodes[0].op), tuple(node.name for node in nodes))
        for name, nodes in found.items()
    ]


def measure_kernels(
    program: NativeProgram, weights: Weights, steps: Steps, ceilings: Ceilings
) -> Iterator[Row]:
    """Rows of the table, number of rows by number of rows, each as soon as it is measured."""
    kernels = kernels_of(program.graph, weights)
    for count in steps.rows:
        shape = step_shape(count, steps.depth, program.graph.kv or "bfloat16")
        times = _times(program, shape, steps.repeats)
        costs = costs_of(program.graph, weights.sizes, shape)
        for kernel in kernels:
            yield _row(kernel, count, costs, times, ceilings)


def step_shape(rows: int, depth: int, kv: KVType = "bfloat16") -> StepShape:
    """Decoding: `rows` sequences at `depth`. From PROMPT_ROWS on: a prompt behind nothing."""
    if rows >= PROMPT_ROWS:
        return StepShape((rows,), (0,), kv)
    return StepShape((1,) * rows, (depth,) * rows, kv)


def batch_of(shape: StepShape, vocabulary: int) -> Batch:
    """The step itself: random ids, every sequence on pages of its own, logits of each last row."""
    ends = np.cumsum(shape.rows).astype(np.int32)
    each = _pages_each(shape)
    pages = np.arange(len(shape.rows) * each, dtype=np.int32)
    ids = np.random.default_rng(0).integers(vocabulary, size=shape.row_count, dtype=np.int32)
    return Batch(
        ids=ids,
        row_starts=np.append(np.int32(0), ends),
        lengths=np.array(shape.contexts, np.int32),
        pages=pages.reshape(-1, each),
        logit_rows=ends - 1,
    )


def _pages_each(shape: StepShape) -> int:
    return -(-(shape.contexts[0] + shape.rows[0]) // PAGE_SIZE)


def _times(
    program: NativeProgram, shape: StepShape, repeats: int
) -> tuple[list[Mapping[str, float]], ...]:
    """Seconds of every node, one mapping a step, for both arms of the A/A run."""
    each = _pages_each(shape)
    kv = program.new_kv(each * len(shape.rows))
    _fill(program, kv, shape.contexts[0], each, len(shape.rows))
    batch = batch_of(shape, program.graph.vocabulary)
    program.step(batch, kv)
    arms: tuple[list[Mapping[str, float]], ...] = tuple([] for _ in range(ARMS))
    for turn in range(repeats):
        for arm in arms if turn % 2 else reversed(arms):  # neither arm always comes first
            arm.append(program.step_timed(batch, kv)[1])
    return arms


def _fill(program: NativeProgram, kv: NativeKV, depth: int, each: int, sequences: int) -> None:
    """Real keys and values in every page: memory that nobody wrote is read from the caches."""
    ids = np.random.default_rng(1).integers(program.graph.vocabulary, size=depth, dtype=np.int32)
    for start in range(0, depth, CHUNK):
        part = ids[start : start + CHUNK]
        pages = np.arange(each, dtype=np.int32)[None, :]
        rows, last = np.array([0, len(part)], np.int32), np.array([len(part) - 1], np.int32)
        program.step(Batch(part, rows, np.array([start], np.int32), pages, last), kv)
    for sequence in range(1, sequences):
        for page in range(-(-depth // PAGE_SIZE)):
            kv.copy_page(page, sequence * each + page)


def _row(
    kernel: Kernel,
    rows: int,
    costs: Mapping[str, Cost],
    times: Sequence[Sequence[Mapping[str, float]]],
    ceilings: Ceilings,
) -> Row:
    calls = len(kernel.nodes)
    arms = [
        gather(max(1e-9, sum(step[name] for name in kernel.nodes) / calls) for step in arm)
        for arm in times
    ]
    cost = costs[kernel.nodes[0]]
    return Row(
        kernel=kernel,
        rows=rows,
        cost=cost,
        seconds=gather(value for arm in arms for value in arm.values),
        roof_s=predict_s(cost, ceilings),
        noise=noise_band(arms[0], arms[1]),
    )


def _kind(op: ops.Op) -> str:
    """``GatedLinear`` → ``gated linear``."""
    return "".join(f" {c.lower()}" if c.isupper() else c for c in type(op).__name__).strip()


def _name(node: Node, weights: Weights) -> str:
    kind = _kind(node.op)
    match node.op:
        case ops.Linear() | ops.GatedLinear():
            names = weights_of(node.op)
            matrices = [name for name in names if len(weights.sizes[name].shape) == 2]
            inputs = weights.sizes[matrices[0]].shape[1]
            outputs = "+".join(str(weights.sizes[name].shape[0]) for name in matrices)
            formats = "+".join(dict.fromkeys(weights.formats[name] for name in matrices))
            return f"{kind} {inputs} → {outputs}, {formats}"
        case ops.Attention() as op:
            window = f", window {op.window}" if op.window else ""
            return f"{kind} {op.heads}/{op.kv_heads} heads of {op.head_dim}{window}"
        case _:
            return kind
