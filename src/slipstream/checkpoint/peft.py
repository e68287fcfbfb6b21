"""LoRA adapters in PEFT's format: adapter_config.json beside adapter_model.safetensors.

The engine reads them with `read_adapter` when somebody loads one. A folder that a stranger wrote
is read within bounds: names, shapes, types and values are checked, and what is not served (DoRA,
retrained modules, embeddings) is refused in words. Weights are held as they were stored.

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight   A [rank, in]
    base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight   B [out, rank]
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.json_file import parse_object, read_bytes
from slipstream.checkpoint.peft_config import PeftConfig, parse_config
from slipstream.checkpoint.safetensors import SafetensorsFile
from slipstream.errors import AdapterError, SourceError, UnsupportedError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DTYPES = tuple(np.dtype(t) for t in (np.float32, np.float16, ml_dtypes.bfloat16))

# "lora_A.default.weight" is how a PEFT model itself names them; files leave the name out.
_NAME = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<half>[AB])(?:\.default)?\.weight"
)
_REFUSED = (
    (".lora_magnitude_vector", "DoRA adapters are not served; merge it into the model instead"),
    (".lora_embedding_", "it adapts an embedding, which is not served"),
    (".modules_to_save", "it replaces whole modules (modules_to_save); merge it into the model"),
    (
        ".base_layer",
        "it holds weights of the model itself; save it with save_embedding_layers=False",
    ),
)


@dataclass(frozen=True)
class LowRankPair:
    """What an adapter adds to one linear: scale · B (A x). A [rank, in], B [out, rank].

    Both are of one dtype: float32, float16 or bfloat16.
    """

    down: NDArray
    up: NDArray
    scale: float

    @property
    def rank(self) -> int:
        """The width of the bottleneck."""
        return int(self.down.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the matrix it is added to."""
        return int(self.up.shape[0]), int(self.down.shape[1])

    @property
    def size_bytes(self) -> int:
        """What both matrices occupy."""
        return self.down.nbytes + self.up.nbytes


@dataclass(frozen=True)
class Adapter:
    """A checked adapter; `pairs` by module (``model.layers.0.self_attn.q_proj``).

    `content_hash` is the SHA-256 of the two files: equal hashes compute equal things.
    """

    path: Path
    pairs: Mapping[str, LowRankPair]
    content_hash: str

    @property
    def size_bytes(self) -> int:
        """What its matrices occupy as stored."""
        return sum(pair.size_bytes for pair in self.pairs.values())


def read_adapter(path: str | os.PathLike[str]) -> Adapter:
    """Reads and checks an adapter's folder.

    SourceError when files are missing, AdapterError or SafetensorsError when they are damaged,
    UnsupportedError when they hold what is not served.
    """
    folder = Path(path)
    _check_folder(folder)
    text = read_bytes(folder / CONFIG, AdapterError)
    config = parse_config(parse_object(text, CONFIG, AdapterError))
    file = SafetensorsFile(folder / WEIGHTS)
    pairs = {
        module: _pair(file, module, halves, config)
        for module, halves in _modules(file.names()).items()
    }
    return Adapter(folder, pairs, _hash(text, folder / WEIGHTS))


def _check_folder(folder: Path) -> None:
    if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
        return
    if (folder / "adapter_model.bin").exists():
        raise UnsupportedError(
            f"{folder} holds adapter_model.bin, which may run code when it is read; save the "
            "adapter again with safe_serialization=True"
        )
    raise SourceError(f"{folder} is no adapter: it lacks {CONFIG} or {WEIGHTS}")


def _modules(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Module → {"A": tensor name, "B": tensor name}; both halves of each."""
    modules: dict[str, dict[str, str]] = {}
    for name in names:
        for part, reason in _REFUSED:
            if part in name:
                raise UnsupportedError(f"the adapter is not served: {reason}")
        match = _NAME.fullmatch(name)
        if match is None:
            raise UnsupportedError(f"the adapter has a tensor that is no LoRA: {name[:100]!r}")
        halves = modules.setdefault(match["module"], {})
        if match["half"] in halves:
            raise AdapterError(f"the adapter has two tensors for {name[:100]!r}")
        halves[match["half"]] = name
    for module, halves in modules.items():
        if len(halves) < 2:
            raise AdapterError(f"the adapter has only one half of {module[:100]!r}")
    if not modules:
        raise AdapterError("the adapter has no tensors")
    return modules


def _pair(
    file: SafetensorsFile, module: str, halves: Mapping[str, str], config: PeftConfig
) -> LowRankPair:
    down, up = (_matrix(file, halves[half]) for half in ("A", "B"))
    rank = config.rank_of(module)
    if down.shape[0] != rank or up.shape[1] != rank:
        raise AdapterError(
            f"{module[:100]}: A is {down.shape} and B is {up.shape}, "
            f"but the config says rank {rank}"
        )
    if down.dtype != up.dtype:
        down, up = down.astype(np.float32), up.astype(np.float32)
    return LowRankPair(down, up, config.scale_of(module))


def _matrix(file: SafetensorsFile, name: str) -> NDArray:
    array = file.array(name)
    if array.dtype not in DTYPES:
        raise UnsupportedError(
            f"{name[:100]} is {array.dtype}; adapters are float32, float16 or bfloat16"
        )
    if array.ndim != 2 or not array.size:
        raise AdapterError(f"{name[:100]} has shape {array.shape}, where a matrix is expected")
    if not np.isfinite(array).all():
        raise AdapterError(f"{name[:100]} holds values that are not finite: the file is damaged")
    return array


def _hash(config: bytes, weights: Path) -> str:
    digest = hashlib.sha256(hashlib.sha256(config).digest())
    with open(weights, "rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
