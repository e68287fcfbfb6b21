"""Artifacts: a model that Slipstream made, as a folder that others can load too.

    config.json  generation_config.json     as Hugging Face has them, with quantization_config
    model.safetensors (or shards)           compressed-tensors layout
    tokenizer.json  tokenizer_config.json  chat_template.jinja
    prompts.json                            a few prompts and the logits they gave (`prompts`)
    slipstream.json                         the manifest: what was done, from what, how good it is,
                                            the SHA-256 of every other file, and one of itself

A folder is written whole or not at all: everything goes into a hidden sibling, is synced, and then
takes its name. `optimize` and `quantize` write, `verify` checks what was copied about.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from slipstream.checkpoint.artifact_shards import ShardWriter
from slipstream.checkpoint.compressed_tensors_write import LayoutPlan, plan_layout
from slipstream.checkpoint.json_file import read_object
from slipstream.checkpoint.json_write import json_text, write_json
from slipstream.checkpoint.sources_verify import sha256_of
from slipstream.errors import ArtifactError
from slipstream.formats.tensor import Tensor
from slipstream.graph.ops import Activations

MANIFEST = "slipstream.json"
SCHEMA = 1
SEAL = "seal"  # of the manifest itself, over everything else in it
SHARD_BYTES = 4_000_000_000


class TokenizerFiles(Protocol):
    """What an artifact needs of a tokenizer (`models.tokenizer.Tokenizer` has it)."""

    @property
    def bos_id(self) -> int | None:
        """The token that texts begin with."""
        ...

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        ...

    def save_json(self, path: Path) -> None:
        """Write ``tokenizer.json``."""
        ...

    def config(self) -> dict[str, Any]:
        """The content of ``tokenizer_config.json``."""
        ...


def write_artifact(
    folder: Path,
    *,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    tokenizer: TokenizerFiles | None,
    chat_template: str | None,
    manifest: Mapping[str, Any],
    activations: Mapping[str, Activations],
    files: Mapping[str, str] = MappingProxyType({}),
    proofs: Mapping[str, Callable[[Path], str]] = MappingProxyType({}),
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write the folder, whole or not at all, and return it.

    `tensors` are read one after the other (a lazy mapping is fine). `manifest` is the caller's
    account (recipe, source, measurements); schema, version and hashes are added here. `files` are
    further texts by name (a report); `proofs` are texts made from the folder once all else is in
    it. An existing folder is refused, unless `overwrite` is said and it is an artifact itself.
    """
    folder = Path(folder).expanduser().absolute()
    _check_target(folder, overwrite)
    plan = plan_layout(tensors, activations, tied=bool(config.get("tie_word_embeddings")))
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    try:
        _write_config(building, config, plan)
        write_tokenizer(building, tokenizer, chat_template)
        for name, text in files.items():
            _write_further(building, name, text)
        ShardWriter(building, shard_bytes).write(tensors, plan)
        for name, prove in proofs.items():
            _write_further(building, name, prove(building))
        _write_manifest(building, manifest)
        _sync(building)
        building.chmod(0o755)
        _take_name(building, folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return folder


def is_artifact(folder: Path) -> bool:
    """Whether a folder has a manifest."""
    return (Path(folder) / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest; ArtifactError if it is absent, damaged, or of a later Slipstream."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder} has no {MANIFEST}: it is not an artifact of Slipstream")
    manifest = read_object(path, ArtifactError)
    schema = manifest.get("schema")
    if type(schema) is not int or schema < 1:
        raise ArtifactError(f"{path} does not say its schema: it is damaged")
    if schema > SCHEMA:
        raise ArtifactError(
            f"{path} has schema {schema}, and this Slipstream knows up to {SCHEMA}: update it"
        )
    if SEAL in manifest and manifest[SEAL] != _seal(manifest):
        raise ArtifactError(f"{path} was changed after it was written: copy the artifact again")
    return manifest


def verify(folder: Path) -> dict[str, Any]:
    """Compare every file with the manifest, which is returned; ArtifactError names what differs."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    for error in check_files(folder, manifest).values():
        if error is not None:
            raise error
    return manifest


def check_files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, ArtifactError | None]:
    """What is wrong with each file, by name: those of the manifest, and weights unknown to it."""
    files = manifest.get("files")
    if not isinstance(files, dict) or not files:
        raise ArtifactError(f"{folder / MANIFEST} lists no files: it is damaged")
    found: dict[str, ArtifactError | None] = {}
    for name, entry in files.items():
        try:
            _verify_file(folder, name, entry)
            found[name] = None
        except ArtifactError as error:
            found[name] = error
    for name in sorted({path.name for path in folder.glob("*.safetensors")} - files.keys()):
        found[name] = ArtifactError(f"{folder} holds {name}, which its manifest does not know")
    return found


def _verify_file(folder: Path, name: str, entry: Any) -> None:
    if os.path.basename(name) != name or name in ("", ".", "..") or "\\" in name or "\0" in name:
        raise ArtifactError(f"the manifest names {name!r}, which is no file of this folder")
    if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
        raise ArtifactError(f"the manifest gives no hash for {name}")
    path = folder / name
    if not path.is_file():
        raise ArtifactError(f"{name} is missing from {folder}: copy the artifact again")
    if path.stat().st_size != entry.get("size") or sha256_of(path) != entry["sha256"]:
        raise ArtifactError(f"{name} in {folder} is not what was written: copy the artifact again")


def _check_target(folder: Path, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise ArtifactError(f"{folder} exists already: choose another name, or say to overwrite it")
    if not folder.is_dir() or not is_artifact(folder):
        raise ArtifactError(f"{folder} is no artifact of Slipstream, so it is not overwritten")


def _take_name(building: Path, folder: Path) -> None:
    """Give the finished folder its name; an old artifact is moved aside first and then removed."""
    if not folder.exists():
        building.rename(folder)
        return
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".old"))
    folder.rename(old / folder.name)
    try:
        building.rename(folder)
    except BaseException:
        (old / folder.name).rename(folder)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write_config(folder: Path, config: Mapping[str, Any], plan: LayoutPlan | None) -> None:
    content = {key: value for key, value in config.items() if key != "quantization_config"}
    if not {"dtype", "torch_dtype"} & content.keys():
        content["dtype"] = "float32"
    if plan is not None:
        content["quantization_config"] = dict(plan.config)
    write_json(folder / "config.json", content)


def write_tokenizer(
    folder: Path, tokenizer: TokenizerFiles | None, chat_template: str | None
) -> None:
    """tokenizer.json and what goes with it, into an existing folder."""
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    if tokenizer is None:
        return
    tokenizer.save_json(folder / "tokenizer.json")
    write_json(folder / "tokenizer_config.json", tokenizer.config())
    ends = {"bos_token_id": tokenizer.bos_id, "eos_token_id": sorted(tokenizer.eos_ids) or None}
    generation = {key: value for key, value in ends.items() if value is not None}
    write_json(folder / "generation_config.json", generation)


def _write_further(folder: Path, name: str, text: str) -> None:
    if name != os.path.basename(name) or (folder / name).exists() or name == MANIFEST:
        raise ValueError(f"{name!r} cannot be a further file of an artifact")
    (folder / name).write_text(text, encoding="utf-8")


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    files = {
        path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.iterdir())
    }
    own = {"schema": SCHEMA, "slipstream": _version()}
    whole = json.loads(json_text({**own, **manifest, **own, "files": files}))
    write_json(folder / MANIFEST, {**whole, SEAL: _seal(whole)})


def _seal(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over everything else in the manifest, however it is laid out."""
    rest = {key: value for key, value in manifest.items() if key != SEAL}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _version() -> str:
    import importlib.metadata  # noqa: PLC0415  only for writers: 20 ms of each start otherwise

    try:
        return importlib.metadata.version("slipstream")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _sync(folder: Path) -> None:
    """Everything onto the disk, before the folder takes its name."""
    for path in [*folder.iterdir(), folder]:
        if path.is_dir() and os.name != "posix":
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
