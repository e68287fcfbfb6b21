"""Writing the layouts of GPTQ and AWQ, for the libraries that load nothing else; see `gptq`.

`cli.export` calls `write_gptq` with a model that is quantized already: codes, zeros and scales go
over as they are. Embeddings and the head, which these libraries keep dense, become float16.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.artifact import SHARD_BYTES
from slipstream.checkpoint.artifact_shards import ShardWriter
from slipstream.checkpoint.compressed_tensors_scheme import HEAD, is_embedding
from slipstream.checkpoint.compressed_tensors_write import pack_words
from slipstream.checkpoint.gptq import AWQ_ORDER
from slipstream.checkpoint.json_write import write_json
from slipstream.errors import UnsupportedError
from slipstream.formats.nibbles import unpack_nibbles
from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor, Tensor

Library = Literal["gptq", "awq"]
SETTINGS = "quantize_config.json"  # where older loaders look for what config.json says


def write_gptq(
    folder: Path, library: Library, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Writes config and weights into an existing folder.

    UnsupportedError unless every quantized linear has the same format, and one that the library
    has: 2, 3, 4 or 8 bits (AWQ: 4), symmetric or with zero points, scales that float16 holds.
    """
    form = common_format(library, tensors)
    settings = _settings(library, form, _dense_linears(tensors))
    content = {key: value for key, value in config.items() if not key.startswith("torch_dtype")}
    content |= {"dtype": "float16", "quantization_config": settings}
    write_json(folder / "config.json", content)
    write_json(folder / SETTINGS, settings)
    ShardWriter(folder, SHARD_BYTES).write_encoded(
        tensors, lambda name, tensor: encode(library, name, tensor)
    )


def common_format(library: Library, tensors: Mapping[str, Tensor]) -> Affine:
    """The one format of all quantized linears, zero points where any has them."""
    found: set[tuple[Any, int | None]] = set()
    zeros: set[str] = set()
    for name in tensors:
        tensor = tensors[name]
        if isinstance(tensor, DenseTensor) or not _is_linear(name):
            continue
        if isinstance(tensor, AffineTensor):
            found.add((tensor.format.bits, tensor.format.group))
            zeros.add(tensor.format.zero)
        else:
            found.add((f"{type(tensor).__name__}s of {tensor.format.bits}", tensor.format.group))
    known = (4,) if library == "awq" else (2, 3, 4, 8)
    if len(found) != 1 or "minimum" in zeros or not {bits for bits, _ in found} <= set(known):
        raise UnsupportedError(
            f"{library} holds one format, integers of {', '.join(map(str, known))} bits, for all"
            f" linears of a model; this one has {_shown(found, zeros)}. Quantize the original so:"
            " slipstream quantize MODEL --bits 4 --group 64 -o OUT"
        )
    bits, group = found.pop()
    return Affine(bits, group, "zero_point" if "zero_point" in zeros else "symmetric")


def encode(library: Library, name: str, tensor: Tensor) -> dict[str, NDArray]:
    """The arrays that stand for one tensor."""
    if not isinstance(tensor, AffineTensor) or not _is_linear(name):
        return {name: _half(name, tensor.dequantize())}
    module = name.removesuffix(".weight")
    codes, zeros = _unsigned(tensor)
    scales = _half(name, tensor.scales.T)
    if scales.astype(np.float32).tobytes() != tensor.scales.T.astype(np.float32).tobytes():
        raise UnsupportedError(f"{name} has scales that float16 does not hold")
    bits = tensor.format.bits
    outputs, inputs = codes.shape
    if outputs * bits % 32 or inputs * bits % 32:
        raise UnsupportedError(f"{name} is {outputs} x {inputs}, no whole words of {bits} bits")
    parts: dict[str, NDArray] = {"scales": scales}
    if library == "awq":
        parts["qweight"], parts["qzeros"] = _interleaved(codes.T), _interleaved(zeros.T)
    else:
        less = (zeros - np.uint8(1)) & np.uint8((1 << bits) - 1)
        parts["qweight"] = np.ascontiguousarray(pack_words(codes, bits).T)
        parts["qzeros"] = pack_words(np.ascontiguousarray(less.T), bits)
        size = inputs // scales.shape[0]
        parts["g_idx"] = (np.arange(inputs) // size).astype(np.int32)
    return {f"{module}.{part}": np.ascontiguousarray(array) for part, array in parts.items()}


def _settings(library: Library, form: Affine, dense: list[str]) -> dict[str, Any]:
    group = -1 if form.group is None else form.group
    if library == "awq":
        settings: dict[str, Any] = {"bits": 4, "group_size": group, "zero_point": True}
        settings |= {"quant_method": "awq", "version": "gemm"}
        return settings | {"modules_to_not_convert": [*dense, HEAD]}
    settings = {"bits": form.bits, "group_size": group, "sym": form.zero == "symmetric"}
    if dense:
        settings["dynamic"] = {f"-:^{module.replace('.', '[.]')}$": {} for module in dense}
    settings |= {"quant_method": "gptq", "checkpoint_format": "gptq"}
    return settings | {"desc_act": False, "static_groups": False, "lm_head": False}


def _dense_linears(tensors: Mapping[str, Tensor]) -> list[str]:
    """Linears of blocks that stayed dense: loaders must be told."""
    return [
        name.removesuffix(".weight")
        for name in sorted(tensors)
        if _is_linear(name)
        and not isinstance(tensors[name], AffineTensor)
        and len(tensors[name].shape) == 2
    ]


def _is_linear(name: str) -> bool:
    module = name.removesuffix(".weight")
    return module not in (name, HEAD) and not is_embedding(module)


def _unsigned(tensor: AffineTensor) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Codes [O, I] and zeros [O, G], both counted from 0."""
    form = tensor.format
    low = np.uint8(form.code_range[0] % 256)
    codes = unpack_nibbles(tensor.codes) if form.nibbles else tensor.codes.view(np.uint8)
    if tensor.offsets is not None:
        zeros: NDArray[np.uint8] = tensor.offsets.view(np.uint8) - low
    else:
        zeros = np.full(tensor.scales.shape, 1 << form.bits - 1, np.uint8)
    return codes - low, zeros


def _interleaved(codes: NDArray[np.uint8]) -> NDArray[np.int32]:
    """uint8 [R, O] → int32 [R, O/8], outputs in AWQ's order."""
    ordered = codes.reshape(len(codes), -1, 8)[..., list(AWQ_ORDER)]
    return pack_words(np.ascontiguousarray(ordered).reshape(codes.shape), 4)


def _half(name: str, values: NDArray) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        stored = values.astype(np.float16)
    if not np.isfinite(stored).all():
        raise UnsupportedError(f"{name} has values beyond float16")
    return stored


def _shown(found: set[tuple[Any, int | None]], zeros: set[str]) -> str:
    kinds = sorted(f"{bits} bits in groups of {group or 'a row'}" for bits, group in found)
    return " and ".join([*kinds, *(["float minimums"] if "minimum" in zeros else [])]) or "none"
