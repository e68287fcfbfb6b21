"""What a user may choose about an engine, and the complete settings it becomes.

`resolve` is called once, when an engine is opened; after that nothing changes. What is not chosen
follows from the model and the machine.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from slipstream.backends.batch import PAGE_SIZE
from slipstream.engine.page_room import PageRoom
from slipstream.engine.scheduler import Batching, Limits
from slipstream.errors import MachineError, UnsupportedError
from slipstream.formats.kv import KV_FORMATS, KVType, kv_position_bytes
from slipstream.graph.graph import Graph
from slipstream.machine import Machine

__all__ = ["Batching", "EngineOptions", "Settings", "kv_bytes", "kv_bytes_per_position", "resolve"]

Backend = Literal["native", "reference"]
Activations = Literal["auto", "f32", "bf16", "int8"]

MAX_BATCH = 32
TOKEN_BUDGET = 256  # prefill is near its full speed from here on, and a decode waits no longer
KV_MEMORY_SHARE = 0.25  # of the machine's memory, unless the batch needs less
POSITIONS_TYPICAL = 1024  # of a request; longer ones take what shorter ones leave, or wait
MAX_WAIT_S = 60.0


@dataclass(frozen=True)
class EngineOptions:
    """Choices; None leaves one to `resolve`.

    backend          native (C++ kernels) or reference (numpy: slow, the truth)
    max_batch        requests running at once
    token_budget     rows of one step: prompts are cut into chunks that fit
    context          most positions of prompt and answer together
    kv_memory_bytes  most memory of the KV pages; None: enough for a batch of typical requests
    kv_dtype         of stored keys and values, see `formats.kv`; None: what the model was made for,
                     else bfloat16
    activations      inputs of linears, see `graph.passes.activations`
    threads          of the native backend
    prefix_cache     keep pages for prompts that begin the same
    batching         when requests join a running batch: see `scheduler.Limits`
    max_wait_s       how long a "dynamic" batch waits to be full
    keep_packed      keep the kernels' form of the weights in the cache, for the next start to map
    verify           run an artifact's stored prompts, and refuse one that answers otherwise
    """

    backend: Backend = "native"
    max_batch: int = MAX_BATCH
    token_budget: int | None = None
    context: int | None = None
    kv_memory_bytes: int | None = None
    kv_dtype: KVType | None = None
    activations: Activations = "auto"
    threads: int | None = None
    prefix_cache: bool = True
    batching: Batching = "continuous"
    max_wait_s: float = 0.05
    keep_packed: bool = True
    verify: bool = True


@dataclass(frozen=True)
class Settings:
    """Complete: every field decided. `threads` None means that the backend asks the machine."""

    backend: Backend
    limits: Limits
    context: int
    page_counts: tuple[int, ...]  # of each kind of attention: see `Graph.windows`
    kv_dtype: KVType
    activations: Activations
    threads: int | None
    prefix_cache: bool = True
    keep_packed: bool = True


def resolve(options: EngineOptions, graph: Graph, machine: Machine) -> Settings:
    """Decides everything. Refused: values out of range, and a context that memory cannot hold."""
    _check(options, graph)
    context = options.context or graph.context
    budget = options.token_budget or max(TOKEN_BUDGET, options.max_batch)
    limits = Limits(options.max_batch, budget, options.batching, options.max_wait_s, graph.windows)
    kv = options.kv_dtype or graph.kv or "bfloat16"
    memory = options.kv_memory_bytes or int(machine.memory_bytes * KV_MEMORY_SHARE)
    page_bytes = tuple(PAGE_SIZE * each for each in _bytes_per_position(graph, kv))
    room = PageRoom(limits.sights, page_bytes, memory)
    fitting = room.context(context)
    if fitting < context and (options.context is not None or fitting < PAGE_SIZE):
        raise MachineError(
            f"{context} positions need {room.bytes_for(context) / 1e6:.0f} MB "
            f"of KV pages, {memory / 1e6:.0f} MB are allowed; lower the context or allow more"
        )
    return Settings(
        backend=options.backend,
        limits=limits,
        context=fitting,
        page_counts=room.counts(fitting, *_pages_wanted(options, limits, fitting)),
        kv_dtype=kv,
        activations=options.activations,
        threads=options.threads,
        prefix_cache=options.prefix_cache,
        keep_packed=options.keep_packed,
    )


def _pages_wanted(options: EngineOptions, limits: Limits, context: int) -> list[list[int]]:
    """Pages of each kind for one request of full length beside a batch of typical ones; then,
    where memory was given for it, for a whole batch of full length.
    """
    longest = [sight.pages_most(context) for sight in limits.sights]
    typical = [sight.pages_most(min(context, POSITIONS_TYPICAL)) for sight in limits.sights]
    others = options.max_batch - 1
    stages = [[one + others * each for one, each in zip(longest, typical, strict=True)]]
    if options.kv_memory_bytes is not None:
        stages.append([each * options.max_batch for each in longest])
    return stages


def kv_bytes_per_position(graph: Graph, kv_dtype: KVType) -> int:
    """Bytes of keys and values that one position takes in all layers."""
    return sum(_bytes_per_position(graph, kv_dtype))


def kv_bytes(graph: Graph, settings: Settings) -> int:
    """Bytes of all KV pages."""
    each = _bytes_per_position(graph, settings.kv_dtype)
    return PAGE_SIZE * sum(n * size for n, size in zip(settings.page_counts, each, strict=True))


def _bytes_per_position(graph: Graph, kv_dtype: KVType) -> list[int]:
    """The same for each kind of attention."""
    sizes = dict.fromkeys(graph.windows, 0)
    for layer in graph.attentions:
        sizes[layer.window] += kv_position_bytes(kv_dtype, layer.kv_heads, layer.head_dim)
    return list(sizes.values())


def _check(options: EngineOptions, graph: Graph) -> None:
    if options.max_batch < 1:
        raise UnsupportedError(f"max_batch must be at least 1, not {options.max_batch}")
    if options.token_budget is not None and options.token_budget < options.max_batch:
        raise UnsupportedError(
            f"token_budget ({options.token_budget}) must be at least max_batch "
            f"({options.max_batch}): each running request needs a row in every step"
        )
    if options.context is not None and not 2 <= options.context <= graph.context:
        raise UnsupportedError(
            f"context must be in 2…{graph.context}, for which the model was made, "
            f"not {options.context}"
        )
    if options.kv_dtype is not None and options.kv_dtype not in KV_FORMATS:
        raise UnsupportedError(f"kv_dtype must be one of {', '.join(KV_FORMATS)}")
    if options.threads is not None and options.threads < 1:
        raise UnsupportedError(f"threads must be at least 1, not {options.threads}")
    if options.batching not in get_args(Batching):
        raise UnsupportedError(f"batching must be one of {', '.join(get_args(Batching))}")
    if not 0 <= options.max_wait_s <= MAX_WAIT_S:
        raise UnsupportedError(f"max_wait_s must be in 0…{MAX_WAIT_S}, not {options.max_wait_s}")
    if options.kv_memory_bytes is not None and options.kv_memory_bytes < 1:
        raise UnsupportedError("kv_memory_bytes must be above 0")
