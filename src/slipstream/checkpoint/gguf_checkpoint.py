"""A GGUF file as a checkpoint: a Hugging Face config and Hugging Face names, nothing re-quantized.

`open_checkpoint` makes it. What llama.cpp's converter changed is changed back: the order of rows in
queries and keys, and the 1 in Gemma's norms. All other values stay as they are stored.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.checkpoint import TokenizerData
from slipstream.checkpoint.gguf import GGUFFile
from slipstream.checkpoint.gguf_config import hugging_face_config
from slipstream.checkpoint.gguf_names import hugging_face_names
from slipstream.errors import GGUFError
from slipstream.formats.tensor import DenseTensor, Tensor, map_arrays
from slipstream.graph.ops import Activations

_TOKENIZER = "tokenizer.ggml."

# llama.cpp turns neighbouring pairs of a head in these, Hugging Face pairs half a head apart.
_PAIRED = frozenset(["llama", "smollm3"])

# Here its converter has added the 1 to the weights of norms that Hugging Face adds when it runs.
_RAISED = frozenset(["gemma2", "gemma3"])


class GGUFCheckpoint:
    """One GGUF model. Tensors are decoded when asked for; tokenizer lists when first read."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.file = GGUFFile(path)
        self.path: Path = self.file.path
        self.architecture = self._architecture()
        self._stored = hugging_face_names(self.architecture, self.file.tensors)
        self.config: Mapping[str, Any] = hugging_face_config(self.file, self.architecture)
        self.tokenizer: TokenizerData = _tokenizer(self.file.metadata)
        self.activations: Mapping[str, Activations] = {}

    def names(self) -> list[str]:
        """The tensor names, Hugging Face spelling, sorted."""
        return sorted(self._stored)

    def tensor(self, name: str) -> Tensor:
        """One tensor, its values unchanged, its rows in Hugging Face's order."""
        tensor = self.file.tensor(self._stored[name])
        if self.architecture in _PAIRED:
            if ".q_proj." in name:
                return _unpair_rows(tensor, self.config["num_attention_heads"], name)
            if ".k_proj." in name:
                return _unpair_rows(tensor, self.config["num_key_value_heads"], name)
        if self.architecture in _RAISED and name.endswith("norm.weight"):
            # Exact for what was converted from bfloat16 or float16: the sum had room for all bits.
            return DenseTensor(tensor.dequantize() - np.float32(1))
        return tensor

    def files(self) -> tuple[Path, ...]:
        """The file, or all its parts."""
        return self.file.paths

    def release(self) -> None:
        """Lets the pages of the mapped files go."""
        self.file.release()

    def identity(self) -> str:
        """SHA-256 of the file; of the files one after the other where there are several."""
        return self._identity

    @cached_property
    def _identity(self) -> str:
        digest = hashlib.sha256()
        for path in self.file.paths:
            with open(path, "rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
        return digest.hexdigest()

    def _architecture(self) -> str:
        value = self.file.metadata.get("general.architecture")
        if not isinstance(value, str):
            raise GGUFError(f"{self.path.name} does not name its architecture: is it a model?")
        return value


def _unpair_rows(tensor: Tensor, heads: int, name: str) -> Tensor:
    """Rows of each head from llama.cpp's order (0, n, 1, n+1, …) to (0, 1, …, n, n+1, …)."""
    rows = tensor.shape[0]
    if rows % (2 * heads):
        raise GGUFError(f"{name} has {rows} rows, which {heads} heads cannot share in pairs")
    return map_arrays(tensor, lambda array: _unpaired(array, heads))


def _unpaired(array: NDArray, heads: int) -> NDArray:
    pairs = array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(array.shape)


class _Section(Mapping[str, Any]):
    """The keys of a mapping that begin with a prefix, without it; values are read late."""

    def __init__(self, whole: Mapping[str, Any], prefix: str) -> None:
        self._whole = whole
        self._prefix = prefix
        self._keys = [key[len(prefix) :] for key in whole if key.startswith(prefix)]

    def __getitem__(self, key: str) -> Any:
        return self._whole[self._prefix + key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _tokenizer(metadata: Mapping[str, Any]) -> TokenizerData:
    """The tokenizer's part of the metadata, its long lists still undecoded."""
    section = _Section(metadata, _TOKENIZER)
    template = metadata.get("tokenizer.chat_template")
    config = {
        key: section[key]
        for key in ("add_bos_token", "add_eos_token", "add_space_prefix")
        if type(section.get(key)) is bool
    }
    return TokenizerData(
        gguf=section, config=config, chat_template=template if isinstance(template, str) else None
    )
