"""The prompts an artifact carries, with the logits they gave when it was written: `prompts.json`.

`engine.proof` records them and runs them again; this is the file. The manifest holds its hash, and
what is read from it is checked like any stranger's file.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slipstream.checkpoint.artifact import is_artifact, read_manifest
from slipstream.checkpoint.json_file import parse_object, read_bytes
from slipstream.errors import ArtifactError

PROMPTS = "prompts.json"
IDS_MOST = 64  # of one prompt: the check runs at every start
PROMPTS_MOST = 16


@dataclass(frozen=True)
class Numerics:
    """What decides the bits of a logit, besides the weights.

    kernels      the code that computed it, by its hash; decision 2 makes the instruction set a
                 matter of speed only, so `isa` is told, not compared
    activations  how inputs of linears were asked to be stored
    kv_dtype     of stored keys and values
    """

    kernels: str
    isa: str
    activations: str
    kv_dtype: str

    def same_bits(self, other: "Numerics") -> bool:
        """Whether equal weights must give equal bits under both."""
        mine, theirs = asdict(self), asdict(other)
        return all(mine[name] == theirs[name] for name in mine if name != "isa")


@dataclass(frozen=True)
class StoredPrompt:
    """Token ids, and the logits after the last of them: the highest few, and all by SHA-256."""

    ids: tuple[int, ...]
    top_ids: tuple[int, ...]
    top_logits: tuple[float, ...]
    sha256: str


@dataclass(frozen=True)
class StoredPrompts:
    """All prompts. `tolerance`: how far a top logit may be off under other numerics."""

    numerics: Numerics
    tolerance: float
    prompts: tuple[StoredPrompt, ...]

    def to_text(self) -> str:
        """JSON, as the file has it."""
        return json.dumps(asdict(self), indent=1) + "\n"


def read_prompts(folder: Path) -> StoredPrompts | None:
    """The prompts of an artifact; None for a folder without a manifest, or one from before them.

    ArtifactError if the file is missing, is not what the manifest says, or makes no sense.
    """
    if not folder.is_dir() or not is_artifact(folder):
        return None
    entry = _entry(read_manifest(folder))
    if entry is None:
        return None
    text = read_bytes(folder / PROMPTS, ArtifactError)
    if hashlib.sha256(text).hexdigest() != entry.get("sha256"):
        raise ArtifactError(f"{PROMPTS} in {folder} is not what was written: copy it again")
    return parse_prompts(text)


def parse_prompts(text: bytes) -> StoredPrompts:
    """What `to_text` wrote; ArtifactError otherwise."""
    data = parse_object(text, PROMPTS, ArtifactError)
    numerics, prompts = data.get("numerics"), data.get("prompts")
    if not isinstance(numerics, dict) or not _texts(numerics, Numerics.__dataclass_fields__):
        raise _damaged("its numerics")
    if not isinstance(prompts, list) or not 0 < len(prompts) <= PROMPTS_MOST:
        raise _damaged("its list of prompts")
    tolerance: Any = data.get("tolerance")
    if not _is_number(tolerance) or tolerance < 0:
        raise _damaged("its tolerance")
    named = {name: numerics[name] for name in Numerics.__dataclass_fields__}
    return StoredPrompts(
        Numerics(**named), float(tolerance), tuple(_prompt(one) for one in prompts)
    )


def _entry(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    files = manifest.get("files")
    entry = files.get(PROMPTS) if isinstance(files, dict) else None
    return entry if isinstance(entry, dict) else None


def _prompt(entry: Any) -> StoredPrompt:
    if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
        raise _damaged("a prompt")
    ids, top_ids = _ids(entry.get("ids")), _ids(entry.get("top_ids"))
    logits = entry.get("top_logits")
    if not isinstance(logits, list) or len(logits) != len(top_ids):
        raise _damaged("the logits of a prompt")
    if not all(_is_number(value) for value in logits):
        raise _damaged("the logits of a prompt")
    return StoredPrompt(ids, top_ids, tuple(map(float, logits)), entry["sha256"])


def _ids(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= IDS_MOST:
        raise _damaged("the ids of a prompt")
    if not all(type(one) is int and one >= 0 for one in value):
        raise _damaged("the ids of a prompt")
    return tuple(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _texts(data: Mapping[str, Any], names: Iterable[str]) -> bool:
    return all(isinstance(data.get(name), str) for name in names)


def _damaged(what: str) -> ArtifactError:
    return ArtifactError(f"{PROMPTS} is damaged: {what} cannot be read; copy the artifact again")
