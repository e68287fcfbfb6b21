"""Carries out a recipe on a model's weights, one input group at a time.

What is held at once is one group of linears in float32 and its Hessian's factor; what is returned
is the changed tensors only, to be laid over the stored ones with `overlay`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slipstream.compress.blas import one_blas_thread
from slipstream.compress.calibrate import Hessians
from slipstream.compress.inputs import InputGroup, input_groups
from slipstream.compress.passes.gptq import gptq
from slipstream.compress.passes.rtn import round_to_nearest
from slipstream.compress.recipe import Recipe, Step, plan
from slipstream.compress.store import overlay
from slipstream.errors import NumericError
from slipstream.formats.tensor import AffineTensor, Tensor
from slipstream.graph.graph import Graph

__all__ = ["Memo", "OnWeight", "calibrated_groups", "groups_of", "overlay", "quantize_weights"]

OnWeight = Callable[[str], None]  # told the name of each weight when it is done
# What was rounded before, by everything that decides the outcome: recipes that share it need not
# round it again, and get the very same codes.
Memo = dict[tuple[object, ...], dict[str, Tensor]]


@dataclass(frozen=True)
class _Source:
    """What the steps read."""

    weights: Mapping[str, Tensor]
    recipe: Recipe
    hessians: Hessians | None
    memo: Memo


def quantize_weights(
    graph: Graph,
    weights: Mapping[str, Tensor],
    recipe: Recipe,
    hessians: Hessians | None = None,
    on_weight: OnWeight | None = None,
    *,
    memo: Memo | None = None,
) -> dict[str, Tensor]:
    """The tensors that `recipe` changes, by name.

    `memo` is for several recipes over the same weights and Hessians: it is read and added to.
    `hessians` must hold the groups of all GPTQ weights (KeyError names the one it lacks). A layer
    that cannot be quantized is named in a NumericError.
    """
    source = _Source(weights, recipe, hessians, {} if memo is None else memo)
    changed: dict[str, Tensor] = {}
    with one_blas_thread():
        for steps, group in _by_group(plan(recipe, graph, weights), groups_of(graph, weights)):
            for name, tensor in _quantize_group(steps, group, source).items():
                changed[name] = tensor
                if on_weight is not None:
                    on_weight(name)
    return changed


def groups_of(graph: Graph, weights: Mapping[str, Tensor]) -> tuple[InputGroup, ...]:
    """The graph's input groups, with the widths of these weights."""
    return input_groups(graph, lambda name: weights[name].shape[1])


def calibrated_groups(
    graph: Graph, weights: Mapping[str, Tensor], recipes: Sequence[Recipe]
) -> tuple[InputGroup, ...]:
    """The groups whose Hessians at least one of the recipes reads."""
    needed = {
        step.weight
        for recipe in recipes
        for step in plan(recipe, graph, weights)
        if step.method == "gptq" and step.format is not None
    }
    return tuple(g for g in groups_of(graph, weights) if needed.intersection(g.weights))


def _by_group(
    steps: Sequence[Step], groups: Sequence[InputGroup]
) -> list[tuple[list[Step], InputGroup | None]]:
    """Steps that read one input together (None: an embedding that is no linear)."""
    group_of = {name: group for group in groups for name in group.weights}
    together: dict[str, tuple[list[Step], InputGroup | None]] = {}
    for step in steps:
        if step.format is None:
            continue
        group = group_of.get(step.weight)
        together.setdefault(group.key if group else step.weight, ([], group))[0].append(step)
    return list(together.values())


def _quantize_group(
    steps: Sequence[Step], group: InputGroup | None, source: _Source
) -> dict[str, Tensor]:
    """The steps of one group; GPTQ steps with equal settings run stacked, since rows are apart."""
    stacks: dict[object, list[Step]] = {}
    for step in steps:
        alone = step.weight if step.method == "rtn" else ""
        stacks.setdefault((alone, step.format, step.method, step.clip), []).append(step)
    changed: dict[str, Tensor] = {}
    for alike in stacks.values():
        changed.update(_remembered(alike, group, source))
    return changed


def _remembered(
    alike: Sequence[Step], group: InputGroup | None, source: _Source
) -> dict[str, Tensor]:
    """One stack, rounded unless the memo has it."""
    recipe = source.recipe
    key = (*alike, recipe.damping, recipe.act_order)
    if key not in source.memo:
        if alike[0].method == "gptq":
            assert group is not None, "only linears are calibrated"
            source.memo[key] = _gptq_stack(alike, group, source)
        else:
            source.memo[key] = {step.weight: _round(step, source) for step in alike}
    return source.memo[key]


def _round(step: Step, source: _Source) -> Tensor:
    assert step.format is not None
    return round_to_nearest(_dense(source, step.weight), step.format, step.clip)


def _gptq_stack(steps: Sequence[Step], group: InputGroup, source: _Source) -> dict[str, Tensor]:
    recipe, format = source.recipe, steps[0].format
    assert source.hessians is not None and format is not None, "GPTQ without calibration"
    factor = source.hessians.factor(group.key, recipe.damping, recipe.act_order)
    stacked = np.concatenate([_dense(source, step.weight) for step in steps])
    tensor = gptq(stacked, factor, format, steps[0].clip).tensor
    ends = np.cumsum([source.weights[step.weight].shape[0] for step in steps])
    return {
        step.weight: _rows(tensor, slice(end - source.weights[step.weight].shape[0], end))
        for step, end in zip(steps, ends, strict=True)
    }


def _dense(source: _Source, name: str) -> np.ndarray:
    weight = source.weights[name].dequantize()
    if not np.isfinite(weight).all():
        raise NumericError(f"{name}: the stored weights hold infinities or NaN")
    return weight


def _rows(tensor: AffineTensor, rows: slice) -> AffineTensor:
    """Some rows of a matrix, as an own tensor."""
    offsets = None if tensor.offsets is None else tensor.offsets[rows].copy()
    codes, scales = tensor.codes[rows].copy(), tensor.scales[rows].copy()
    return AffineTensor(tensor.format, codes, scales, offsets)
