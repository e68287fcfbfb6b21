"""Which pruned matrices are packed without their zeros: those where it measures faster here.

`backends.native_weights` asks for each matrix it packs. Symmetric codes of 4 or 8 bits have two
sparse forms: 2:4, where of each four weights two are zero, and a bit mask, where zeros are anywhere
and many. The first matrix of a width, format and share of zeros is packed in each form that it can
have and raced, against dense, as plans are (`backends.tuning`); what won is kept in a small file
beside the plans. All forms give the same bits, so a choice changes time and memory only.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from slipstream.backends.choice_file import read_choices, write_choices
from slipstream.backends.tuning import Choice, choose
from slipstream.formats.tensor import AffineTensor, Tensor
from slipstream.machine import cache_dir, machine, tuning_wanted

SparseMode = Literal["measured", "always", "mask", "never"]
Form = Literal["dense", "2:4", "mask"]
SparseChoices = dict[str, Choice[Form]]  # by shape
DENSE: Final = "dense"
SPARSE: tuple[Form, ...] = ("2:4", "mask")

PANEL_OUTPUTS, PADDED_INPUTS = 16, 64  # of csrc/kernels/pack.h
MASK_MOST = 0.8  # of the dense bytes of the fullest panel: expanding is not worth less
MASK_MOST_BESIDE = 0.9  # of those of 2:4, which needs no expanding
RACED_BYTES = 40 << 20  # of dense copies, more than caches keep: weights are read from memory
SAMPLE_BYTES = 3 << 20
COPIES_MOST = 256
MANY_ROWS = 64
MANY_ROUNDS = 7
LOSS_MOST = 0.1  # of a prompt's time: what a gain in every token may cost
AddMatrix = Callable[[Any, Tensor, Form], int]  # builder, tensor, form → the matrix's number


def resolved(mode: SparseMode) -> SparseMode:
    """Nothing is timed, and all is dense, where SLIPSTREAM_TUNE is 0."""
    return "never" if mode == "measured" and not tuning_wanted() else mode


def sparse_path(isa: str, threads: int) -> Path:
    """Where the choices of this machine are kept."""
    return cache_dir() / "linears" / f"{machine().fingerprint}-{isa}-{threads}-sparse.json"


@dataclass(frozen=True)
class Sparsity:
    """The sparse forms that a matrix can have, and the share of its weights that are zero (where a
    mask is one of them; it was not counted elsewhere).
    """

    forms: tuple[Form, ...] = ()
    zeros: float = 0.0

    def key(self, tensor: AffineTensor) -> str:
        """What decides which form pays: ``2048 int8/32 float16, mask at 60 %``."""
        group = tensor.format.group or tensor.shape[1]
        format = f"{tensor.shape[1]} int{tensor.format.bits}/{group} {tensor.scales.dtype.name}"
        band = f" at {round(self.zeros * 10)}0 %" if "mask" in self.forms else ""
        return f"{format}, {' or '.join(self.forms)}{band}"


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

    def form_of(self, builder: Any, tensor: Tensor, add: AddMatrix) -> Form:
        """How this matrix shall be packed."""
        if self.mode == "never" or not _has_sparse_kernels(tensor):
            return DENSE
        assert isinstance(tensor, AffineTensor)
        if self.mode == "mask":
            return "mask"
        sparsity = sparsity_of(builder, tensor)
        if not sparsity.forms or self.mode == "always":
            return sparsity.forms[0] if sparsity.forms else DENSE
        key = sparsity.key(tensor)
        if key not in self.choices:
            self.choices[key] = race(self.make_builder(), tensor, sparsity.forms, add)
            write_choices(self.path, {name: asdict(c) for name, c in self.choices.items()})
        chosen = self.choices[key].plan
        return chosen if chosen in sparsity.forms else DENSE


def sparsity_of(builder: Any, tensor: Tensor) -> Sparsity:
    """What the zeros of this matrix allow. A matrix with few of them is soon left."""
    if not _has_sparse_kernels(tensor):
        return Sparsity()
    assert isinstance(tensor, AffineTensor)
    bits, kind = tensor.format.bits, f"int{tensor.format.bits}"
    outputs, inputs = tensor.shape
    dense_bytes = -(-inputs // PADDED_INPUTS) * PADDED_INPUTS * PANEL_OUTPUTS * bits // 8
    fits = bool(builder.is_two_of_four(tensor.codes, kind))
    places = dense_bytes // bits  # two bits for each code that is kept
    most = MASK_MOST_BESIDE * (dense_bytes // 2 + places) if fits else MASK_MOST * dense_bytes
    kept, panel_bytes = builder.masked_size(tensor.codes, kind, int(most))
    forms: tuple[Form, ...] = ("2:4",) if fits else ()
    if panel_bytes > most:
        return Sparsity(forms)
    return Sparsity((*forms, "mask"), 1 - kept / (outputs * inputs))


def _has_sparse_kernels(tensor: Tensor) -> bool:
    if not isinstance(tensor, AffineTensor) or tensor.format.zero != "symmetric":
        return False
    return tensor.format.bits in {4, 8}


def race(builder: Any, tensor: AffineTensor, forms: Sequence[Form], add: AddMatrix) -> Choice[Form]:
    """Copies of the matrix that no cache holds, dense and sparse in turn: a sparse form is taken if
    it wins with one row, and is not slower than the noise of it with many.
    """
    size = max(1, tensor.size_bytes)
    count = min(COPIES_MOST, -(-RACED_BYTES // size))
    at_once = min(count, -(-SAMPLE_BYTES // size))
    every: tuple[Form, ...] = (DENSE, *forms)
    copies = {form: [add(builder, tensor, form) for _ in range(count)] for form in every}
    cursors = dict.fromkeys(copies, 0)

    def time_s(form: Form) -> float:
        start = cursors[form]
        cursors[form] = start + at_once
        numbers = [copies[form][(start + i) % count] for i in range(at_once)]
        return float(builder.time_matrices(numbers, 1)) * 1e-9

    def time_many_s(form: Form) -> float:
        return float(builder.time_matrices(copies[form][:1], MANY_ROWS)) * 1e-9

    for form in copies:
        time_s(form)
    choice = choose(DENSE, forms, time_s)
    if choice.plan is None:
        return choice
    loss = slowdown(choice.plan, time_many_s)
    if loss > LOSS_MOST:
        return Choice(None, choice.gain, choice.noise, f"{loss:.0%} slower with {MANY_ROWS} rows")
    return choice


def slowdown(form: Form, time_s: Callable[[Form], float]) -> float:
    """By what share of its time a form is slower than dense, the median of rounds in turn."""
    shares = sorted(time_s(form) / max(time_s(DENSE), 1e-9) - 1 for _ in range(MANY_ROUNDS))
    return shares[MANY_ROUNDS // 2]


def read_sparse(path: Path) -> SparseChoices:
    """What was found on this machine; nothing where the file is missing or damaged."""
    return read_choices(path, _read_choice) or {}


def _read_choice(data: dict[str, Any]) -> Choice[Form]:
    if data["plan"] is not None and data["plan"] not in SPARSE:
        raise ValueError("no such form")
    return Choice(data["plan"], float(data["gain"]), float(data["noise"]), str(data["note"]))
