"""A student to distil into: evenly spread blocks of the model, or a new model of another shape.

DistilBERT begins with every second layer of its teacher (Sanh et al. 2019,
https://arxiv.org/abs/1910.01108). A model of another shape begins with random weights; it keeps
the tokenizer, so it can also draft for its teacher in speculation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np

from slipstream.compress.passes.drop_blocks import without
from slipstream.compress.store import StoredTensors, save_tensors
from slipstream.compress.work import F32, Drive, Edition, flat
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import DenseTensor, Tensor
from slipstream.graph import ops
from slipstream.graph.graph import Graph
from slipstream.models.blocks import Blueprint
from slipstream.models.registry import blueprint_of

SPREAD = 0.02  # of random weights; outputs of blocks get less, by the depth, as GPT-2's do
KEPT = ("vocab_size", "model_type")  # what a student has in common with its teacher


@dataclass(frozen=True, kw_only=True)
class Student:
    """every: one block of so many stays; config: fields of config.json to change, for a new model.

    ``config = {hidden_size = 192, num_hidden_layers = 4, head_dim = 48 …}``
    """

    every: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def calibrated(self) -> bool:
        """Needs no text."""
        return False

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """The student before it has learned anything."""
        if not self._new(edition):
            return thinned(edition, self.every)
        config = changed_config(edition.config, self.config)
        blueprint = blueprint_of(config)
        path = drive.folder / "student.safetensors"
        if not path.exists():
            drive.folder.mkdir(parents=True, exist_ok=True)
            save_tensors(path, random_weights(blueprint, self.seed), {"notes": []})
        return Edition(config, blueprint.graph, StoredTensors([path]), notes=edition.notes)

    def outline(self, edition: Edition) -> Edition:
        """The shapes of the student."""
        if not self._new(edition):
            return thinned(edition, self.every)
        config = changed_config(edition.config, self.config)
        blueprint = blueprint_of(config)
        weights = {
            name: flat(DenseTensor(np.broadcast_to(np.float32(0), shape)))
            for name, shape in blueprint.shapes.items()
        }
        return Edition(config, blueprint.graph, weights, notes=edition.notes)

    def _new(self, edition: Edition) -> bool:
        """Whether it is another shape; UnsupportedError unless exactly one of the two is asked."""
        if bool(self.config) == (self.every >= 2):
            raise UnsupportedError("student: give every = 2 or more, or a config, and not both")
        return bool(self.config)


def thinned(edition: Edition, every: int) -> Edition:
    """One block of `every`, evenly spread, the first and the last among them."""
    count = len(edition.graph.attentions)
    kept = set(np.linspace(0, count - 1, ceil(count / every)).round().astype(int).tolist())
    return without(edition, tuple(number for number in range(count) if number not in kept))


def changed_config(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The teacher's config with other fields; UnsupportedError for what the two must share."""
    for name in KEPT:
        if name in changes and changes[name] != config.get(name):
            raise UnsupportedError(f"student: {name} must be that of its teacher")
    inherited = {k: v for k, v in config.items() if k not in ("slipstream", "quantization_config")}
    if "hidden_size" in changes and "head_dim" not in changes:
        inherited.pop("head_dim", None)
    return {**inherited, **changes}


def random_weights(blueprint: Blueprint, seed: int) -> dict[str, Tensor]:
    """Norms at one, biases at zero, matrices normal: by name, so that order does not matter."""
    fixed = _fixed(blueprint.graph)
    depth = (2 * max(1, len(blueprint.graph.attentions))) ** -0.5
    random = np.random.default_rng(seed)
    found: dict[str, Tensor] = {}
    for name in sorted(blueprint.shapes):
        shape = blueprint.shapes[name]
        if name in fixed or len(shape) == 1:
            values: F32 = np.full(shape, fixed.get(name, 0.0), np.float32)
        else:
            last = name.endswith(("o_proj.weight", "down_proj.weight"))
            scale = SPREAD * (depth if last else 1.0)
            values = random.normal(scale=scale, size=shape).astype(np.float32)
        found[name] = DenseTensor(values)
    return found


def _fixed(graph: Graph) -> dict[str, float]:
    """What norms begin with: one, as their architecture stores it."""
    norms = [node.op for node in graph if isinstance(node.op, ops.Norm)]
    return {norm.weight: 1.0 - norm.weight_offset for norm in norms}
