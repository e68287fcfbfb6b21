"""The model's keys and values are stored rounded when it is served: the recipe says how.

The format goes into the config, engines take it where nothing else is asked (`--kv`), and the proof
of the artifact is measured with it. Scales are of each position and head (`formats.kv`). What can
be calibrated is a constant for each channel of the keys: a layer's mean key m, taken after rotary.
q·(k - m) is q·k less q·m, the same for all keys that a query meets, so no softmax sees it; but what
is left to round is smaller. SmolLM2, int4: lab/2026-11-21-attention.md.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from slipstream.backends.batch import PAGE_SIZE, single
from slipstream.compress.passes.observe import observe, remembered
from slipstream.compress.stages import Stage, row_numbers, stage_graph, with_rows
from slipstream.compress.store import overlay
from slipstream.compress.work import Drive, Edition, Visit
from slipstream.errors import UnsupportedError
from slipstream.formats.kv import KV_WIDEST
from slipstream.formats.tensor import DenseTensor, Tensor
from slipstream.graph import ops
from slipstream.models.adapted import key_shift_name
from slipstream.models.registry import graph_of


@dataclass(frozen=True, kw_only=True)
class KVCache:
    """format: of the pages; int8 costs least, int4 holds the longest contexts.

    center  keys are stored less their mean, which is calibrated: worth it at int4
    """

    format: Literal["bfloat16", "int8", "k8v4", "int4"] = "int8"
    center: bool = False

    @property
    def calibrated(self) -> bool:
        """Needs a text for the means of keys."""
        return self.center

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """The same edition, its pages rounded."""
        if not self.center:
            return self._stored(edition, {})
        self._stored(edition, self._unknown(edition))  # refusals come before the work
        means = remembered(drive, lambda: mean_keys(edition, drive))
        return self._stored(edition, {n: np.array(m, np.float32) for n, m in means.items()})

    def outline(self, edition: Edition) -> Edition:
        """UnsupportedError for what cannot be stored so."""
        return self._stored(edition, self._unknown(edition))

    def _unknown(self, edition: Edition) -> dict[str, np.ndarray]:
        """Zeros in place of means."""
        sizes = [one.kv_heads * one.head_dim for one in edition.graph.attentions if self.center]
        return {key_shift_name(i): np.zeros(size, np.float32) for i, size in enumerate(sizes)}

    def _stored(self, edition: Edition, shifts: dict[str, np.ndarray]) -> Edition:
        """UnsupportedError for heads that are too wide to be stored as codes, and capped scores."""
        attentions = edition.graph.attentions
        widest = max((one.head_dim for one in attentions), default=0)
        if self.format != "bfloat16" and widest > KV_WIDEST:
            raise UnsupportedError(f"kv_cache: heads of {widest} dimensions stay in bfloat16")
        if shifts and any(one.soft_cap is not None for one in attentions):
            raise UnsupportedError("kv_cache: scores are capped here, so keys cannot be centered")
        section = {**(edition.config.get("slipstream") or {}), "kv": self.format}
        if shifts:
            section["kv_centered"] = True
        config = {**edition.config, "slipstream": section}
        new: dict[str, Tensor] = {name: DenseTensor(shift) for name, shift in shifts.items()}
        weights = overlay(edition.weights, new) if new else edition.weights
        return replace(edition, config=config, graph=graph_of(config), weights=weights)


def mean_keys(edition: Edition, drive: Drive) -> dict[str, list[float]]:
    """What is to be added to each layer's keys, by the name of the vector: minus their means.

    UnsupportedError where they are centered already.
    """
    found: dict[str, list[float]] = {}

    def look(visit: Visit) -> None:
        if visit.stage.layer is not None:
            keys = np.negative(_mean_key(visit, drive), dtype=np.float64)
            found[key_shift_name(visit.stage.layer)] = keys.tolist()

    observe(edition, drive, look, "measuring keys")
    return found


def _mean_key(visit: Visit, drive: Drive) -> np.ndarray:
    """float64 [K·D]: over all rows that enter the block."""
    assert visit.rows is not None and drive.chunks is not None
    stage, weights = _until_key(visit.stage), visit.edition.weights
    held = with_rows({name: weights[name] for name in stage.weights}, visit.rows)
    graph = stage_graph(stage, visit.edition.graph, len(visit.rows))
    program = drive.compile(graph, held)
    kv = program.new_kv(-(-drive.chunks.shape[1] // PAGE_SIZE))
    total = np.float64(0)
    for chunk in row_numbers(drive.chunks):
        keys = program.step(single(chunk, all_logits=True), kv)
        total = total + np.asarray(keys, np.float64).sum(axis=0)
    mean: np.ndarray = np.asarray(total / drive.chunks.size)
    if not np.isfinite(mean).all():
        raise UnsupportedError(f"kv_cache: keys of {visit.stage.name} are not finite")
    return mean


def _until_key(stage: Stage) -> Stage:
    """The block as far as its attention, and what it writes is the key."""
    attention = next(node for node in stage.nodes if isinstance(node.op, ops.Attention))
    return replace(stage, writes=attention.inputs[1])
