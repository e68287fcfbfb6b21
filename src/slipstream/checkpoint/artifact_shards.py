"""The weights of an artifact on their way into files: one, or numbered shards with their index.

`artifact.write_artifact` and `gptq_write` call this; tensors are read one after the other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import NDArray

from slipstream.checkpoint.compressed_tensors_write import LayoutPlan, encode
from slipstream.checkpoint.json_write import write_json
from slipstream.checkpoint.safetensors_write import write_safetensors
from slipstream.formats.tensor import Tensor

Encode = Callable[[str, Tensor], dict[str, NDArray]]  # the arrays that stand for one tensor


@dataclass
class ShardWriter:
    """Writes tensors into files of at most `shard_bytes`; a larger tensor has one of its own."""

    folder: Path
    shard_bytes: int

    def write(self, tensors: Mapping[str, Tensor], plan: LayoutPlan | None) -> None:
        """In the compressed-tensors layout."""
        self.write_encoded(tensors, lambda name, tensor: encode(name, tensor, plan))

    def write_encoded(self, tensors: Mapping[str, Tensor], encode: Encode) -> None:
        """One ``model.safetensors``, or numbered shards with their index."""
        shards: list[list[str]] = []
        total = held_bytes = 0
        held: dict[str, NDArray] = {}
        for name in sorted(tensors):
            arrays = encode(name, tensors[name])
            size = sum(array.nbytes for array in arrays.values())
            if held and held_bytes + size > self.shard_bytes:
                shards.append(self._flush(held, len(shards)))
                held, held_bytes = {}, 0
            held |= arrays
            held_bytes += size
            total += size
        shards.append(self._flush(held, len(shards)))
        self._name(shards, total)

    def _flush(self, arrays: dict[str, NDArray], index: int) -> list[str]:
        write_safetensors(self.folder / f"shard-{index}", arrays, {"format": "pt"})
        return list(arrays)

    def _name(self, shards: list[list[str]], total: int) -> None:
        """Only now is the number of shards known, which their names have to tell."""
        count = len(shards)
        homes: dict[str, str] = {}
        for index, names in enumerate(shards):
            name = f"model-{index + 1:05}-of-{count:05}.safetensors"
            name = name if count > 1 else "model.safetensors"
            (self.folder / f"shard-{index}").rename(self.folder / name)
            homes |= dict.fromkeys(names, name)
        if count > 1:
            index_content = {"metadata": {"total_size": total}, "weight_map": homes}
            write_json(self.folder / "model.safetensors.index.json", index_content)
