"""A Hugging Face folder as a checkpoint: config.json, safetensors, and the tokenizer's files.

`open_checkpoint` makes it; artifacts are such folders too. Quantized tensors are read through
`compressed_tensors`, or through the codec of the library that wrote them; all others are dense, as
they are stored.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from slipstream.checkpoint.bitsandbytes import BitsAndBytes
from slipstream.checkpoint.checkpoint import TokenizerData
from slipstream.checkpoint.compressed_tensors import CompressedTensors
from slipstream.checkpoint.float8 import read_float8
from slipstream.checkpoint.foreign import Codec, ForeignReader
from slipstream.checkpoint.gptq import read_awq, read_gptq
from slipstream.checkpoint.json_file import read_object, read_text
from slipstream.checkpoint.safetensors import Shards
from slipstream.errors import FileFormatError, UnsupportedError
from slipstream.formats.tensor import DenseTensor, Tensor
from slipstream.graph.ops import Activations


class _Reader(Protocol):
    """How the tensors of a folder are read: as they are, or decoded from compressed-tensors."""

    def names(self) -> Sequence[str]: ...
    def tensor(self, name: str) -> Tensor: ...
    def activations(self) -> Mapping[str, Activations]: ...


class FolderCheckpoint:
    """One folder. FileFormatError (or SafetensorsError) says what is wrong with its files."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config: Mapping[str, Any] = _read_config(self.path)
        self._shards = _open_shards(self.path)
        self._reader = _reader(self.config, self._shards)
        self.tokenizer: TokenizerData = _read_tokenizer(self.path)
        self.activations: Mapping[str, Activations] = self._reader.activations()

    def names(self) -> list[str]:
        """The tensor names, sorted."""
        return sorted(self._reader.names())

    def tensor(self, name: str) -> Tensor:
        """One tensor as it is stored. KeyError if there is none."""
        return self._reader.tensor(name)

    def files(self) -> list[Path]:
        """The weights, and the config that says how they are to be read."""
        return [*self._shards.paths, self.path / "config.json"]

    def release(self) -> None:
        """Lets the pages of the mapped files go."""
        self._shards.release()

    def identity(self) -> str:
        """SHA-256 over the config, the weights and the tokenizer, each with its name."""
        return self._identity

    @cached_property
    def _identity(self) -> str:
        digest = hashlib.sha256()
        others = (self.path / name for name in ("config.json", "tokenizer.json"))
        for path in sorted([*self._shards.paths, *(path for path in others if path.is_file())]):
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256")
            digest.update(f"{path.name} {content.hexdigest()}\n".encode())
        return digest.hexdigest()


CODECS: Mapping[str, Callable[[Mapping[str, Any]], Codec]] = {
    "gptq": read_gptq,
    "awq": read_awq,
    "fp8": read_float8,
    "fbgemm_fp8": read_float8,
    "bitsandbytes": lambda settings: BitsAndBytes(),
}


class _Plain:
    """The tensors of a folder that is not quantized."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def names(self) -> Sequence[str]:
        return self._shards.names()

    def tensor(self, name: str) -> Tensor:
        return DenseTensor(self._shards.array(name))

    def activations(self) -> Mapping[str, Activations]:
        return {}


def _reader(config: Mapping[str, Any], shards: Shards) -> _Reader:
    settings = config.get("quantization_config")
    if settings is None:
        return _Plain(shards)
    if not isinstance(settings, dict):
        raise FileFormatError("quantization_config in config.json is not an object")
    method = settings.get("quant_method")
    if method is None and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        method = "bitsandbytes"
    if method == "compressed-tensors":
        return CompressedTensors(config, shards)
    if not isinstance(method, str) or method not in CODECS:
        raise UnsupportedError(
            f"weights quantized by {str(method)[:40]!r} are not supported: use the original model,"
            f" a GGUF file, or one by compressed-tensors, {', '.join(CODECS)}"
        )
    return ForeignReader(shards, CODECS[method](settings))


def _read_config(folder: Path) -> dict[str, Any]:
    """config.json, with the end tokens of generation_config.json and both promised keys."""
    if not (folder / "config.json").is_file():
        raise FileFormatError(f"{folder} has no config.json: is it the folder of a model?")
    config = read_object(folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise FileFormatError("config.json does not say its model_type: is it that of a model?")
    architectures = config.setdefault("architectures", [])
    if architectures is None:
        config["architectures"] = architectures = []
    if not _are(architectures, str):
        raise FileFormatError("architectures in config.json is not a list of names")
    ends = _token_ids(config.get("eos_token_id"), "config.json")
    if (folder / "generation_config.json").is_file():
        generation = read_object(folder / "generation_config.json")
        ends += _token_ids(generation.get("eos_token_id"), "generation_config.json")
    if ends:
        config["eos_token_id"] = list(dict.fromkeys(ends))
    return config


def _token_ids(value: Any, where: str) -> list[int]:
    """One id, several, or none."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not _are(ids, int):
        raise FileFormatError(f"eos_token_id in {where} is not a token id, nor a list of them")
    return list(ids)


def _are(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(entry) is kind for entry in value)


def _open_shards(folder: Path) -> Shards:
    names = ("model.safetensors", "model.safetensors.index.json")
    if any((folder / name).exists() for name in names):
        return Shards(folder)
    if any(folder.glob("pytorch_model*.bin")):
        raise UnsupportedError(
            f"{folder} holds its weights as pickles, which can run code when they are read: convert"
            " them to safetensors first"
        )
    raise FileFormatError(f"{folder} has no model.safetensors: was the model fetched wholly?")


def _read_tokenizer(folder: Path) -> TokenizerData:
    """tokenizer.json, its config, and the chat template wherever it is kept."""
    json_path = folder / "tokenizer.json"
    config_path = folder / "tokenizer_config.json"
    config = read_object(config_path) if config_path.is_file() else {}
    return TokenizerData(
        json_path=json_path if json_path.is_file() else None,
        config=config,
        chat_template=_chat_template(folder, config),
    )


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """A file of its own comes first, then the config's, of which a list names several."""
    if (folder / "chat_template.jinja").is_file():
        return read_text(folder / "chat_template.jinja")
    found = config.get("chat_template")
    if found is None and (folder / "chat_template.json").is_file():
        found = read_object(folder / "chat_template.json").get("chat_template")
    if isinstance(found, list):
        found = _default_template(found)
    if not isinstance(found, str | None):
        raise FileFormatError("the chat template is not a text, nor a list of named texts")
    return found


def _default_template(entries: list[Any]) -> Any:
    """Of templates by name, the one called default, else the first."""
    if not all(isinstance(entry, dict) for entry in entries):
        raise FileFormatError("the list of chat templates holds something else than objects")
    named = {str(entry.get("name")): entry.get("template") for entry in reversed(entries)}
    return named.get("default", entries[0].get("template") if entries else None)
