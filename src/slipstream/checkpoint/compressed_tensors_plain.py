"""Compressed-tensors for loaders that read no packed zero points and no packed embeddings.

transformers 5.23 makes room for packed zero points as if they were not packed, and refuses any file
that has them. `cli.export` writes such models a second time: the same integers, a byte for each.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipstream.checkpoint.artifact import SHARD_BYTES
from slipstream.checkpoint.artifact_shards import ShardWriter
from slipstream.checkpoint.compressed_tensors_write import plan_layout
from slipstream.checkpoint.json_write import write_json
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import Tensor
from slipstream.graph.ops import Activations


def write_plain(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    activations: Mapping[str, Activations],
) -> None:
    """Writes config and weights into an existing folder.

    UnsupportedError for what only Slipstream reads: codebooks, float minimums, layers that differ.
    """
    refuse_own_words(config)
    tied = bool(config.get("tie_word_embeddings"))
    plan = plan_layout(tensors, activations, tied=tied, plain=True)
    content = {key: value for key, value in config.items() if key != "quantization_config"}
    if plan is not None:
        content["quantization_config"] = dict(plan.config)
    write_json(folder / "config.json", content)
    ShardWriter(folder, SHARD_BYTES).write(tensors, plan)


def refuse_own_words(config: Mapping[str, Any]) -> None:
    """UnsupportedError where the section "slipstream" changes what the model computes."""
    section = dict(config.get("slipstream") or {})
    if section.keys() - {"kv"}:
        raise UnsupportedError(
            "layers that differ, shared or factored matrices and centered keys have no words in "
            f"other libraries' configs, and this model has {', '.join(sorted(section))}"
        )
