"""A recipe: what becomes of each weight, and how the linears' inputs are stored.

Rules are tried in order and the first that names a weight decides; a weight that no rule names
stays as it is stored. A recipe is data: it is printed, searched over, written into the artifact's
manifest and read back.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from slipstream.compress.passes.grid import Clip
from slipstream.formats.tensor import Affine, Codebook, Tensor
from slipstream.graph import ops
from slipstream.graph.graph import Graph
from slipstream.graph.ops import Activations

Method = Literal["rtn", "gptq"]
Role = Literal["embedding", "head", "linear"]


_EIGHT_BITS = Activations(8, 32)


@dataclass(frozen=True)
class Rule:
    """One format for the weights that `select` names.

    select  a role (``embedding``, ``head``, ``linear``; a tied head is both of the first two), or
            a pattern over weight names (``*.down_proj.weight``)
    format  None: as stored
    """

    select: str
    format: Affine | None
    method: Method = "rtn"
    clip: Clip = "mse"


@dataclass(frozen=True)
class Recipe:
    """A complete description of one compression; nothing is left to defaults elsewhere.

    damping  share of the mean diagonal that is added to Hessians; None: as much as so many rows
             want (`moments.damping_of`)
    """

    rules: tuple[Rule, ...]
    activations: Activations = _EIGHT_BITS
    damping: float | None = None
    act_order: bool = True

    @property
    def needs_calibration(self) -> bool:
        """Whether some rule reads Hessians."""
        return any(rule.method == "gptq" and rule.format is not None for rule in self.rules)

    def to_json(self) -> dict[str, Any]:
        """Plain data; the inverse is `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Recipe":
        """Reads what `to_json` wrote."""
        rules = tuple(
            Rule(**{**rule, "format": Affine(**rule["format"]) if rule["format"] else None})
            for rule in data["rules"]
        )
        activations = Activations(**data["activations"])
        damping = None if data["damping"] is None else float(data["damping"])
        return cls(rules, activations, damping, bool(data["act_order"]))

    def label(self) -> str:
        """A short name: ``int4 g64 gptq, *.down_proj int8 row · a8 g32``."""
        parts = [_rule_label(rule) for rule in self.rules if rule.format is not None]
        return f"{', '.join(parts) or 'as stored'} · {activations_label(self.activations)}"


@dataclass(frozen=True)
class Step:
    """What the recipe does to one weight of a given model."""

    weight: str
    format: Affine | None  # with a group that fits; None: as stored
    method: Method
    clip: Clip


@dataclass(frozen=True)
class Roles:
    """Which weight plays which part in a graph."""

    by_weight: Mapping[str, frozenset[Role]] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph) -> "Roles":
        """The head is the linear that reads selected rows; every other linear is a ``linear``."""
        roles: dict[str, set[Role]] = {}
        selected = values_after_select(graph)
        for node in graph:
            match node.op:
                case ops.Embed(weight=name):
                    roles.setdefault(name, set()).add("embedding")
                case ops.Linear(weights=names):
                    role: Role = "head" if node.inputs[0] in selected else "linear"
                    for name in names:
                        roles.setdefault(name, set()).add(role)
                case ops.GatedLinear(gate=gate, up=up):
                    roles.setdefault(gate, set()).add("linear")
                    roles.setdefault(up, set()).add("linear")
        return cls({name: frozenset(parts) for name, parts in roles.items()})


def values_after_select(graph: Graph) -> frozenset[str]:
    """The values computed from selected rows, directly or through norms and the like."""
    reached: set[str] = set()
    for node in graph:
        if isinstance(node.op, ops.Select) or reached.intersection(node.inputs):
            reached.update(node.outputs)
    return frozenset(reached)


def plan(recipe: Recipe, graph: Graph, weights: Mapping[str, Tensor]) -> tuple[Step, ...]:
    """One step for every matrix of the graph's embeddings and linears, in graph order."""
    roles = Roles.of(graph).by_weight
    return tuple(
        _step(name, _rule_for(recipe, name, parts), weights[name], recipe.activations)
        for name, parts in roles.items()
    )


def fitting_group(wanted: int | None, width: int, activations: Activations) -> int | None:
    """`wanted` if it divides `width`, else the largest smaller group that does; None: the row.

    A group is a multiple of 16, and it and the activations' group must divide one another, since
    the kernels merge them. SmolLM2's width of 576 takes 64 or 96 but not 128: there 128 becomes 96.
    """
    if wanted is None or wanted >= width:
        return None
    for group in range(wanted - wanted % 16, 15, -16):
        if width % group == 0 and _divide(group, activations.group):
            return group
    return None


def _divide(group: int, other: int | None) -> bool:
    return other is None or group % other == 0 or other % group == 0


def _rule_for(recipe: Recipe, name: str, roles: frozenset[Role]) -> Rule | None:
    for rule in recipe.rules:
        if rule.select in roles or fnmatchcase(name, rule.select):
            return rule
    return None


def _step(name: str, rule: Rule | None, stored: Tensor, activations: Activations) -> Step:
    if rule is None or rule.format is None:
        return Step(name, None, "rtn", "minmax")
    wanted = rule.format
    group = fitting_group(wanted.group, stored.shape[1], activations)
    return Step(name, Affine(wanted.bits, group, wanted.zero), rule.method, rule.clip)


def _rule_label(rule: Rule) -> str:
    assert rule.format is not None
    label = format_label(rule.format)
    if rule.method != "rtn":
        label += f" {rule.method}"
    return label if rule.select == "linear" else f"{rule.select.removesuffix('.weight')} {label}"


def format_label(format: Affine | Codebook) -> str:
    """``int4 g64``, ``nf4 g64``, ``int8 row``; ``asym`` or ``min`` where it is not symmetric."""
    group = "row" if format.group is None else f"g{format.group}"
    if isinstance(format, Codebook):
        return f"{format.name} {group}"
    zero = {"symmetric": "", "zero_point": " asym", "minimum": " min"}[format.zero]
    return f"int{format.bits} {group}{zero}"


def activations_label(activations: Activations) -> str:
    """``a32`` or ``a8 g32``."""
    if activations.bits != 8:
        return f"a{activations.bits}"
    if activations.scale is not None:
        return "a8 static"
    return f"a8 {'row' if activations.group is None else f'g{activations.group}'}"
