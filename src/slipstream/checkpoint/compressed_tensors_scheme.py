"""The ``quantization_config`` of compressed-tensors: which module is stored how.

    config_groups: {"group_0": {targets: ["Linear"], weights: {...}, input_activations: {...}}}

A target is a module's name, ``re:`` and a pattern, or a class of modules; the more exact one wins.
`compressed_tensors` reads with this, `compressed_tensors_write` writes what it reads.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from slipstream.errors import FileFormatError, UnsupportedError
from slipstream.formats.tensor import Affine, Codebook
from slipstream.graph.ops import Activations

Layout = Literal["pack-quantized", "int-quantized", "mxfp4-pack-quantized", "slipstream-codebook"]
LAYOUTS = (
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "mxfp4-pack-quantized",
    "slipstream-codebook",
    "mixed-precision",
    "naive-quantized",
    "dense",
)
EMBEDDINGS = frozenset({"embed_tokens", "wte", "wpe", "word_embeddings", "embed_in"})
HEAD = "lm_head"
SMALLEST_GROUP = 16
MXFP4_GROUP = 32  # 16 would be NVFP4
LONGEST_PATTERN = 300
NESTED_REPEAT = re.compile(r"[+*}]\)*\)[+*{]")


@dataclass(frozen=True)
class FP8:
    """Floats of 8 bits, read only; a scale per `block` (None: per row, group or tensor)."""

    block: tuple[int, int] | None = None


@dataclass(frozen=True)
class Scheme:
    """How the modules of one group are stored and run."""

    format: Affine | FP8 | Codebook
    activations: Activations  # without a fixed scale
    layout: Layout | None = None
    static: bool = False  # inputs have one scale, fixed beforehand: the tensor X.input_scale


@dataclass(frozen=True)
class Schemes:
    """All groups of a config, by the three kinds of target."""

    exact: Mapping[str, Scheme]
    patterns: Sequence[tuple[re.Pattern[str], Scheme]]
    classes: Mapping[str, Scheme]

    def of(self, module: str) -> Scheme:
        """The scheme of one quantized module; FileFormatError if no target fits it."""
        if module in self.exact:
            return self.exact[module]
        for pattern, scheme in self.patterns:
            if pattern.match(module):
                return scheme
        kind = "Embedding" if is_embedding(module) else "Linear"
        if kind not in self.classes:
            raise FileFormatError(f"quantization_config says nothing of the module {module!r}")
        return self.classes[kind]


def is_embedding(module: str) -> bool:
    """Whether a module is a table of rows, by its name."""
    return module.rsplit(".", 1)[-1] in EMBEDDINGS


def read_schemes(settings: Mapping[str, Any]) -> Schemes:
    """Every group of a ``quantization_config``; what is not served here is an UnsupportedError."""
    layout = settings.get("format")
    if layout not in LAYOUTS:
        raise UnsupportedError(
            f"compressed-tensors of the format {str(layout)[:40]!r} are not supported: use one of "
            "pack-quantized, int-quantized or float-quantized, or the original model"
        )
    groups = settings.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise FileFormatError("quantization_config has no config_groups")
    exact: dict[str, Scheme] = {}
    patterns: list[tuple[re.Pattern[str], Scheme]] = []
    classes: dict[str, Scheme] = {}
    for name, group in groups.items():
        scheme = _scheme(str(name), group)
        for target in _targets(str(name), group):
            if target.startswith("re:"):
                patterns.append((_pattern(target[3:]), scheme))
            elif "." in target or target[:1].islower():
                exact[target] = scheme
            else:
                classes[target] = scheme
    return Schemes(exact, patterns, classes)


def _targets(name: str, group: Mapping[str, Any]) -> list[str]:
    targets = group.get("targets")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise FileFormatError(f"the group {name!r} of quantization_config has no list of targets")
    return targets


def _pattern(text: str) -> re.Pattern[str]:
    if len(text) > LONGEST_PATTERN or NESTED_REPEAT.search(text):
        raise UnsupportedError(f"the target pattern {text[:60]!r} could take for ever to match")
    try:
        return re.compile(text)
    except re.error as error:
        raise FileFormatError(f"the target pattern {text[:60]!r} is damaged: {error}") from error


def _scheme(name: str, group: Any) -> Scheme:
    if not isinstance(group, dict):
        raise UnsupportedError(
            f"the group {name!r} of quantization_config is a preset, not spelled out"
        )
    weights = group.get("weights")
    if not isinstance(weights, dict):
        raise UnsupportedError(
            f"the group {name!r} of quantization_config leaves its weights dense"
        )
    if group.get("output_activations") is not None:
        raise UnsupportedError(f"the group {name!r} quantizes its outputs, which is not supported")
    layout = group.get("format")
    known: Layout | None = layout if layout in get_args(Layout) else None
    inputs = group.get("input_activations")
    static = _static(inputs)
    activations = Activations(8) if static else _activations(name, inputs)
    return Scheme(_weights(name, weights), activations, known, static)


def _weights(name: str, entry: Mapping[str, Any]) -> Affine | FP8 | Codebook:
    bits, kind = entry.get("num_bits", 8), entry.get("type", "int")
    if kind in ("nf4", "iq4_nl") and bits == 4:
        group = entry.get("group_size")
        return Codebook(kind, None if group is None else _group_size(name, group))
    if kind == "float" and bits == 4 and entry.get("group_size") == MXFP4_GROUP:
        return Codebook("mxfp4", MXFP4_GROUP)
    if entry.get("type") == "float" and bits == 8:
        return FP8(_block(name, entry))
    if entry.get("type", "int") != "int" or bits not in (2, 3, 4, 5, 6, 8):
        kind = f"{entry.get('type', 'int')} weights of {bits} bits"
        raise UnsupportedError(
            f"the group {name!r} has {kind}; only int of 2 to 6 or 8 and float of 8 are supported"
        )
    strategy = entry.get("strategy") or _implied_strategy(entry.get("group_size"))
    if strategy not in ("group", "channel", "tensor"):
        raise UnsupportedError(
            f"the group {name!r} scales its weights per {strategy}: not supported"
        )
    group = _group_size(name, entry.get("group_size")) if strategy == "group" else None
    return Affine(bits, group, "symmetric" if entry.get("symmetric", True) else "zero_point")


def _block(name: str, entry: Mapping[str, Any]) -> tuple[int, int] | None:
    if entry.get("strategy") != "block":
        return None
    sizes = entry.get("block_structure")
    valid = isinstance(sizes, list) and len(sizes) == 2
    if not valid or not all(type(size) is int and 0 < size < 1 << 31 for size in sizes or []):
        raise FileFormatError(f"the group {name!r} of quantization_config has no block_structure")
    assert sizes is not None
    return sizes[0], sizes[1]


def _implied_strategy(group: Any) -> str:
    if group is None:
        return "tensor"
    return "group" if group != -1 else "channel"


def _group_size(name: str, value: Any) -> int:
    if type(value) is not int or value <= 0:
        raise FileFormatError(f"the group {name!r} of quantization_config has no valid group_size")
    if value % SMALLEST_GROUP:
        raise UnsupportedError(
            f"the group {name!r} has a group_size of {value}, no multiple of {SMALLEST_GROUP}"
        )
    return value


def _static(entry: Any) -> bool:
    """Whether inputs are int8 with one scale of the tensor, as calibration found it."""
    if not isinstance(entry, dict):
        return False
    wanted = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False}
    found = {key: entry.get(key, default) for key, default in wanted.items()}
    return found == wanted and (entry.get("strategy") or "tensor") == "tensor"


def _activations(name: str, entry: Any) -> Activations:
    if entry is None:
        return Activations()
    if not isinstance(entry, dict):
        raise FileFormatError(f"the group {name!r} has input_activations that are no object")
    if entry.get("type") == "float" and entry.get("num_bits") == 8:
        return Activations()  # nearer to the original than FP8 inputs, which CPUs lack
    wanted = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True}
    found = {key: entry.get(key, default) for key, default in {**wanted, "dynamic": False}.items()}
    strategy = entry.get("strategy")
    if found != wanted or strategy not in ("token", "group"):
        raise UnsupportedError(
            f"the group {name!r} rounds activations in a way that is not supported: only symmetric "
            "int8 is, dynamic per token or per group, or static per tensor"
        )
    group = _group_size(name, entry.get("group_size")) if strategy == "group" else None
    return Activations(8, group)


def write_group(scheme: Scheme, targets: Sequence[str]) -> dict[str, Any]:
    """One entry of ``config_groups``, as `read_schemes` reads it."""
    assert not isinstance(scheme.format, FP8), "FP8 is only read"
    book = scheme.format if isinstance(scheme.format, Codebook) else None
    weights = {
        "num_bits": scheme.format.bits,
        "type": "int" if book is None else "float" if book.name == "mxfp4" else book.name,
        "symmetric": not isinstance(scheme.format, Affine) or scheme.format.zero == "symmetric",
        "strategy": "channel" if scheme.format.group is None else "group",
        "group_size": scheme.format.group,
        "dynamic": False,
    }
    return {
        "targets": list(targets),
        "weights": weights,
        "input_activations": _write_activations(scheme),
        "output_activations": None,
        "format": scheme.layout,
    }


def _write_activations(scheme: Scheme) -> dict[str, Any] | None:
    activations = scheme.activations
    if activations.bits == 32:
        return None
    strategy = "token" if activations.group is None else "group"
    return {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "strategy": "tensor" if scheme.static else strategy,
        "group_size": activations.group,
        "dynamic": not scheme.static,
    }
