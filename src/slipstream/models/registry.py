"""Which page describes which architecture: the one list of what Slipstream can run.

`load` and tests call it with a checkpoint's config. Promises an UnsupportedError that names the
architecture, and those that are served, for anything else.
"""

from collections.abc import Callable, Mapping
from typing import Any

from slipstream.errors import FileFormatError, UnsupportedError
from slipstream.graph.graph import Graph
from slipstream.models import gemma2, gemma3, gpt2, llama, olmo2, phi3, qwen2, qwen3, smollm3
from slipstream.models.adapted import adapted
from slipstream.models.blocks import Blueprint
from slipstream.models.config import Config

# By "model_type" of config.json, as Hugging Face spells it.
PAGES: dict[str, Callable[[Config], Blueprint]] = {
    "llama": llama.build,
    "mistral": llama.build_mistral,
    "qwen2": qwen2.build,
    "qwen3": qwen3.build,
    "smollm3": smollm3.build,
    "gemma2": gemma2.build,
    "gemma3": gemma3.build_multimodal,
    "gemma3_text": gemma3.build,
    "phi3": phi3.build,
    "olmo2": olmo2.build,
    "gpt2": gpt2.build,
}


def blueprint_of(config: Mapping[str, Any]) -> Blueprint:
    """The graph of a config, and the shape of every weight it reads."""
    if not isinstance(config, Mapping):
        raise FileFormatError("config.json must hold an object")
    kind = config.get("model_type")
    page = PAGES.get(kind) if isinstance(kind, str) else None
    if page is None:
        names = ", ".join(sorted(PAGES))
        raise UnsupportedError(f"the architecture {kind!r} is not supported; supported are {names}")
    return adapted(page(Config(config)), Config(config))


def graph_of(config: Mapping[str, Any]) -> Graph:
    """The graph of a config."""
    return blueprint_of(config).graph
