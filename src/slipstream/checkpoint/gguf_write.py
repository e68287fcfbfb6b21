"""Writing a model as GGUF, for llama.cpp, Ollama and whoever else reads it; with `gguf`'s writer.

`cli.export` calls `write_gguf`. What llama.cpp's converter changes is changed here, so that
`gguf_checkpoint` changes it back: the order of rows in queries and keys, and the 1 in Gemma's
norms. A file is written whole or not at all, one tensor in memory at a time.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.gguf_config_write import gguf_architecture, gguf_metadata
from slipstream.checkpoint.gguf_names import gguf_names
from slipstream.errors import MachineError, UnsupportedError
from slipstream.formats.ggml_write import dense_bytes
from slipstream.formats.tensor import DenseTensor, Tensor, map_arrays

_PAIRED = frozenset(["llama", "smollm3"])  # see `gguf_checkpoint`
_RAISED = frozenset(["gemma2", "gemma3"])


class Encoder(Protocol):
    """Which type a matrix is stored as, and its bytes; `compress.gguf_round` has them."""

    def type_of(self, name: str, tensor: Tensor) -> str:
        """A name of `formats.ggml_types`, by the tensor's GGUF name."""
        ...

    def encode(self, name: str, tensor: Tensor, type: str) -> NDArray[np.uint8]:
        """uint8 [O, bytes of a row]."""
        ...


@dataclass(frozen=True)
class GGUFContent:
    """What a file is made of: config and tensors as Hugging Face names them, the rest as GGUF."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]  # may be lazy; read once to plan, once to write
    metadata: Mapping[str, Any]  # tokenizer and general keys, whole


def write_gguf(
    path: Path,
    content: GGUFContent,
    encoder: Encoder,
    *,
    check: Callable[[Path], None] | None = None,
    on_tensor: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """Writes `path`, replacing what is there; returns the type of each tensor by its GGUF name.

    `check` is given the finished file before it takes its name, and may raise. UnsupportedError for
    what GGUF cannot hold, MachineError without the package ``gguf``.
    """
    gguf = _library()
    architecture = gguf_architecture(content.config)
    tensors = _gguf_tensors(content, architecture)
    metadata, factors = gguf_metadata(content.config, architecture)
    tensors |= {name: partial(DenseTensor, part) for name, part in factors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    try:
        writer = gguf.GGUFWriter(unfinished, architecture)
        _add_metadata(writer, {**content.metadata, **metadata})
        types = {name: _type_of(encoder, name, read()) for name, read in tensors.items()}
        for name, read in tensors.items():
            _announce(gguf, writer, name, types[name], read().shape)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, read in tensors.items():
            writer.write_tensor_data(_encoded(encoder, name, read(), types[name]))
            if on_tensor is not None:
                on_tensor(name)
        writer.close()
        if check is not None:
            check(Path(unfinished))
        _finish(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    return types


def _library() -> Any:
    try:
        import gguf  # noqa: PLC0415  optional
    except ImportError:
        raise MachineError(
            "writing GGUF needs the package gguf: pip install 'slipstream[export]'"
        ) from None
    return gguf


def _gguf_tensors(content: GGUFContent, architecture: str) -> dict[str, Callable[[], Tensor]]:
    """By GGUF name, in the order of layers: how to read each, as llama.cpp wants it."""
    names = gguf_names(architecture, content.tensors)
    return {
        theirs: partial(_converted, content, architecture, ours) for ours, theirs in names.items()
    }


def _converted(content: GGUFContent, architecture: str, name: str) -> Tensor:
    tensor, config = content.tensors[name], content.config
    if architecture in _PAIRED and ".q_proj." in name:
        return pair_rows(tensor, config["num_attention_heads"], name)
    if architecture in _PAIRED and ".k_proj." in name:
        heads = config.get("num_key_value_heads") or config["num_attention_heads"]
        return pair_rows(tensor, heads, name)
    if architecture in _RAISED and name.endswith("norm.weight"):
        return DenseTensor(tensor.dequantize() + np.float32(1))
    if architecture == "gpt2" and ".h." in name and len(tensor.shape) == 2:
        return _upright(tensor, config, name)
    return tensor


def _upright(tensor: Tensor, config: Mapping[str, Any], name: str) -> Tensor:
    """GPT-2's matrices are [in, out] at Hugging Face."""
    if config.get("slipstream_conv1d") is False:
        return tensor
    if not isinstance(tensor, DenseTensor):
        raise UnsupportedError(f"{name} is quantized along the wrong side for GGUF")
    return DenseTensor(np.ascontiguousarray(tensor.data.T))


def pair_rows(tensor: Tensor, heads: int, name: str) -> Tensor:
    """Rows of each head from (0, 1, …, n, n+1, …) to llama.cpp's (0, n, 1, n+1, …)."""
    rows = tensor.shape[0]
    if rows % (2 * heads):
        raise UnsupportedError(f"{name} has {rows} rows, which {heads} heads cannot share in pairs")
    return map_arrays(tensor, lambda array: _paired(array, heads))


def _paired(array: NDArray, heads: int) -> NDArray:
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)


def _type_of(encoder: Encoder, name: str, tensor: Tensor) -> str:
    return encoder.type_of(name, tensor) if len(tensor.shape) == 2 else "F32"


def _encoded(encoder: Encoder, name: str, tensor: Tensor, type: str) -> NDArray[np.uint8]:
    if len(tensor.shape) != 2:
        return dense_bytes(tensor.dequantize(), "F32")
    return np.ascontiguousarray(encoder.encode(name, tensor, type))


def _announce(gguf: Any, writer: Any, name: str, type: str, shape: tuple[int, ...]) -> None:
    kind = gguf.GGMLQuantizationType[type]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    row = shape[-1] // block * size
    bytes_shape = (*shape[:-1], row)
    total = int(np.prod(bytes_shape, dtype=np.int64))
    writer.add_tensor_info(name, bytes_shape, np.dtype(np.uint8), total, kind)


def _add_metadata(writer: Any, metadata: Mapping[str, Any]) -> None:
    """Each key with the type that llama.cpp expects of it: counts are unsigned, the rest as is."""
    for key, value in metadata.items():
        if key == "general.architecture" or value is None:
            continue  # the writer has it
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif len(value):
            writer.add_array(key, list(value))


def _finish(unfinished: str, path: Path) -> None:
    """Onto the disk, then under its name."""
    handle = os.open(unfinished, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    os.chmod(unfinished, 0o644)
    os.replace(unfinished, path)
