"""The model's keys and values are stored rounded when it is served: the recipe says how.

No weight changes: the format goes into the config, engines take it where nothing else is asked
(`--kv`), and the proof of the artifact is measured with it. Scales are of each position and head
(`formats.kv`), so nothing is calibrated: rotating a head did more on SmolLM2 than smoothing its
channels by calibration (lab/2026-11-21-attention.md).
"""

from dataclasses import dataclass, replace
from typing import Literal

from slipstream.compress.work import Drive, Edition
from slipstream.errors import UnsupportedError
from slipstream.formats.kv import KV_WIDEST
from slipstream.models.registry import graph_of


@dataclass(frozen=True, kw_only=True)
class KVCache:
    """format: of the pages; int8 costs least, int4 holds the longest contexts."""

    format: Literal["bfloat16", "int8", "k8v4", "int4"] = "int8"

    @property
    def calibrated(self) -> bool:
        """Needs no text."""
        return False

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """The same edition, its pages rounded."""
        return self.outline(edition)

    def outline(self, edition: Edition) -> Edition:
        """UnsupportedError for heads that are too wide to be stored as codes."""
        widest = max((one.head_dim for one in edition.graph.attentions), default=0)
        if self.format != "bfloat16" and widest > KV_WIDEST:
            raise UnsupportedError(f"kv_cache: heads of {widest} dimensions stay in bfloat16")
        section = {**(edition.config.get("slipstream") or {}), "kv": self.format}
        config = {**edition.config, "slipstream": section}
        return replace(edition, config=config, graph=graph_of(config))
