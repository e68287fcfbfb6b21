"""Writing FP8 weights (e4m3) in compressed-tensors' float-quantized layout, for GPUs that have it.

`cli.export` calls `write_float8`. Linears of blocks become codes with a scale for each output, a
power of two, so that a code times its scale is exact in bfloat16: `float8` reads back the very
values that vLLM and transformers multiply. Inputs are to be rounded to FP8 as they come, a scale
for each token. On a CPU such a folder runs as bfloat16.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.artifact import SHARD_BYTES
from slipstream.checkpoint.artifact_shards import ShardWriter
from slipstream.checkpoint.compressed_tensors_plain import refuse_own_words
from slipstream.checkpoint.compressed_tensors_scheme import HEAD, is_embedding
from slipstream.checkpoint.json_write import write_json
from slipstream.errors import NumericError
from slipstream.formats.tensor import Tensor

E4M3_LARGEST = 448.0


def write_float8(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Writes config and weights into an existing folder.

    What is no linear of a block, or no matrix, becomes bfloat16. UnsupportedError for layers that
    only Slipstream reads; NumericError names a weight that holds infinities or NaN.
    """
    refuse_own_words(config)
    content = {key: value for key, value in config.items() if not key.startswith("torch_dtype")}
    content |= {"dtype": "bfloat16", "quantization_config": settings()}
    write_json(folder / "config.json", content)
    ShardWriter(folder, SHARD_BYTES).write_encoded(tensors, encode)


def settings() -> dict[str, Any]:
    """The ``quantization_config``, as llm-compressor spells its scheme FP8_DYNAMIC."""
    rounded = {"num_bits": 8, "type": "float", "symmetric": True, "group_size": None}
    group = {
        "targets": ["Linear"],
        "weights": {**rounded, "strategy": "channel", "dynamic": False},
        "input_activations": {**rounded, "strategy": "token", "dynamic": True},
        "output_activations": None,
        "format": "float-quantized",
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": [HEAD],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def encode(name: str, tensor: Tensor) -> dict[str, NDArray]:
    """The arrays that stand for one tensor."""
    values = np.asarray(tensor.dequantize(), np.float32)
    if not np.isfinite(values).all():
        raise NumericError(f"{name}: the stored weights hold infinities or NaN")
    module = name.removesuffix(".weight")
    if module in (name, HEAD) or values.ndim != 2 or is_embedding(module):
        return {name: values.astype(ml_dtypes.bfloat16)}
    codes, scales = round_float8(values)
    return {name: codes, f"{name}_scale": scales.astype(ml_dtypes.bfloat16)}


def round_float8(values: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """float32 [O, I] → codes float8_e4m3fn [O, I], and scales [O, 1]: the least power of two under
    which a row's largest value is no more than 448.

    A float's relative error is the same under any scale, so that finer ones would gain nothing.
    """
    largest = np.abs(values).max(axis=1, keepdims=True, initial=0.0)
    mantissa, exponent = np.frexp(largest / np.float32(E4M3_LARGEST))  # largest = m 2^e, m in ½ … 1
    power = np.where(mantissa == 0.5, exponent - 1, exponent)
    scales = np.ldexp(np.float32(1), np.clip(power, -100, 100)).astype(np.float32)
    return (values / scales).astype(ml_dtypes.float8_e4m3fn), scales
