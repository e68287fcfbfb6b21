"""Opening a model: which kind of checkpoint a path holds is seen from its content.

`models.load` calls `open_checkpoint` with a path that exists on this machine; `sources.resolve`
turns names into such paths.
"""

import re
from pathlib import Path

from slipstream.checkpoint.artifact import is_artifact, read_manifest
from slipstream.checkpoint.checkpoint import Checkpoint
from slipstream.checkpoint.folder import FolderCheckpoint
from slipstream.checkpoint.gguf_checkpoint import GGUFCheckpoint
from slipstream.errors import FileFormatError, SourceError

_LATER_PART = re.compile(r".*-(?!00001)\d{5}-of-\d{5}\.gguf")


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint at `path`: a GGUF file, a folder with one, or a Hugging Face folder.

    SourceError if there is nothing there, FileFormatError if it is no model, or a damaged one. The
    hashes of an artifact are not computed here (a second per GB): `artifact.verify` does that.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise SourceError(f"{path} does not exist: give a file, a folder, or the name of a model")
    if not path.is_file():
        raise FileFormatError(f"{path} is neither a file nor a folder")
    return _open_file(path)


def _open_folder(folder: Path) -> Checkpoint:
    if is_artifact(folder):
        read_manifest(folder)  # of a version that this Slipstream knows
    if (folder / "config.json").is_file():
        return FolderCheckpoint(folder)
    found = sorted(p for p in folder.glob("*.gguf") if not _LATER_PART.fullmatch(p.name))
    if len(found) == 1:
        return GGUFCheckpoint(found[0])
    if found:
        names = ", ".join(p.name for p in found[:5])
        raise SourceError(f"{folder} holds {len(found)} GGUF models; name one: {names}")
    raise FileFormatError(f"{folder} holds no model: neither config.json nor a .gguf file")


def _open_file(path: Path) -> Checkpoint:
    if path.name in ("config.json", "model.safetensors", "model.safetensors.index.json"):
        return FolderCheckpoint(path.parent)
    if path.suffix == ".safetensors":
        raise FileFormatError(f"{path.name} is weights alone: give the folder that it lies in")
    return GGUFCheckpoint(path)
