"""Which pruned matrices are packed without their zeros: those where it measures faster here.

`backends.native_weights` asks for each matrix it packs. Where of each four weights two are zero
(2:4, symmetric codes of 4 or 8 bits), the first of a width and format is packed both ways and
raced, dense against sparse, as plans are (`backends.tuning`); what won is kept in a small file
beside the plans. Both forms give the same bits, so a choice changes time and memory only.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from slipstream.backends.choice_file import read_choices, write_choices
from slipstream.backends.tuning import Choice, choose
from slipstream.formats.tensor import AffineTensor, Tensor
from slipstream.machine import cache_dir, machine, tuning_wanted

SparseMode = Literal["measured", "always", "never"]
SparseChoices = dict[str, Choice[str]]  # by shape
DENSE, SPARSE = "dense", "2:4"

RACED_BYTES = 40 << 20  # of dense copies, more than caches keep: weights are read from memory
SAMPLE_BYTES = 3 << 20
COPIES_MOST = 256
MANY_ROWS = 64
MANY_ROUNDS = 7
LOSS_MOST = 0.1  # of a prompt's time: what a gain in every token may cost
AddMatrix = Callable[[Any, Tensor, bool], int]  # builder, tensor, sparse → the matrix's number


def resolved(mode: SparseMode) -> SparseMode:
    """Nothing is timed, and all is dense, where SLIPSTREAM_TUNE is 0."""
    return "never" if mode == "measured" and not tuning_wanted() else mode


def sparse_path(isa: str, threads: int) -> Path:
    """Where the choices of this machine are kept."""
    return cache_dir() / "linears" / f"{machine().fingerprint}-{isa}-{threads}-sparse.json"


def sparse_key(tensor: AffineTensor) -> str:
    """What decides whether leaving out zeros pays: ``2048 int4/32 float16``."""
    group = tensor.format.group or tensor.shape[1]
    return f"{tensor.shape[1]} int{tensor.format.bits}/{group} {tensor.scales.dtype.name}"


@dataclass
class SparseForms:
    """The choices of one load. `make_builder` gives an empty builder, to race in."""

    mode: SparseMode
    path: Path
    make_builder: Callable[[], Any]
    choices: SparseChoices = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode == "measured":
            self.choices = read_sparse(self.path)

    def wanted(self, builder: Any, tensor: Tensor, add: AddMatrix) -> bool:
        """Whether this matrix shall be packed without its zeros."""
        if self.mode == "never" or not can_be_sparse(builder, tensor):
            return False
        assert isinstance(tensor, AffineTensor)
        if self.mode == "always":
            return True
        key = sparse_key(tensor)
        if key not in self.choices:
            self.choices[key] = race(self.make_builder(), tensor, add)
            write_choices(self.path, {name: asdict(c) for name, c in self.choices.items()})
        return self.choices[key].plan is not None


def can_be_sparse(builder: Any, tensor: Tensor) -> bool:
    """Whether the kernels have a form of this matrix without its zeros."""
    if not isinstance(tensor, AffineTensor) or tensor.format.zero != "symmetric":
        return False
    if tensor.format.bits not in {4, 8}:
        return False
    return bool(builder.is_two_of_four(tensor.codes, f"int{tensor.format.bits}"))


def race(builder: Any, tensor: AffineTensor, add: AddMatrix) -> Choice[str]:
    """Copies of the matrix that no cache holds, dense and sparse in turn: sparse is taken if it
    wins with one row, and is not slower than the noise of it with many.
    """
    size = max(1, tensor.size_bytes)
    count = min(COPIES_MOST, -(-RACED_BYTES // size))
    at_once = min(count, -(-SAMPLE_BYTES // size))
    copies = {
        form: [add(builder, tensor, form == SPARSE) for _ in range(count)]
        for form in (DENSE, SPARSE)
    }
    cursors = dict.fromkeys(copies, 0)

    def time_s(form: str) -> float:
        start = cursors[form]
        cursors[form] = start + at_once
        numbers = [copies[form][(start + i) % count] for i in range(at_once)]
        return float(builder.time_matrices(numbers, 1)) * 1e-9

    def time_many_s(form: str) -> float:
        return float(builder.time_matrices(copies[form][:1], MANY_ROWS)) * 1e-9

    for form in copies:
        time_s(form)
    choice = choose(DENSE, [SPARSE], time_s)
    if choice.plan is None:
        return choice
    loss = slowdown(time_many_s)
    if loss > LOSS_MOST:
        return Choice(None, choice.gain, choice.noise, f"{loss:.0%} slower with {MANY_ROWS} rows")
    return choice


def slowdown(time_s: Callable[[str], float]) -> float:
    """By what share of its time sparse is slower than dense, the median of rounds in turn."""
    shares = sorted(time_s(SPARSE) / max(time_s(DENSE), 1e-9) - 1 for _ in range(MANY_ROUNDS))
    return shares[MANY_ROUNDS // 2]


def read_sparse(path: Path) -> SparseChoices:
    """What was found on this machine; nothing where the file is missing or damaged."""
    return read_choices(path, _read_choice) or {}


def _read_choice(data: dict[str, Any]) -> Choice[str]:
    if data["plan"] not in {None, SPARSE}:
        raise ValueError("no such form")
    return Choice(data["plan"], float(data["gain"]), float(data["noise"]), str(data["note"]))
