"""Models from the Hugging Face hub, or from whatever server ``HF_ENDPOINT`` names.

Only what a model needs is fetched (config, tokenizer, template, safetensors), into the hub's own
cache, where other tools find it too. Every file is checked against the hash that the server gives;
a record in our cache then lets the next run start without a network.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

from slipstream.checkpoint.sources_progress import Report, progress
from slipstream.checkpoint.sources_verify import CHUNK_BYTES, write_text_atomically
from slipstream.errors import SourceError

NAME = re.compile(
    r"hf:(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:/(?P<file>[^@]+))?(?:@(?P<revision>\w[\w./-]*))?"
)
FILE_NAMES = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
    "prompts.json",
    "slipstream.json",
}


@dataclass(frozen=True)
class HubName:
    """``hf:ORG/NAME[/FILE.gguf][@REVISION]``, taken apart."""

    repo: str
    revision: str
    file: str | None


@dataclass(frozen=True)
class HubFile:
    """One file of a repository as the server describes it."""

    path: str
    size: int
    sha256: str | None  # of files in large-file storage
    blob: str | None  # git's SHA-1, of small ones


def parse_name(name: str) -> HubName:
    """SourceError unless `name` has the form above."""
    match = NAME.fullmatch(name)
    if match is None or ".." in name:
        raise SourceError(f"{name!r} is not of the form hf:ORG/NAME[/FILE.gguf][@REVISION]")
    file = match["file"]
    if file is not None and not file.endswith(".gguf"):
        raise SourceError(f"{name!r} names a single file that is not a .gguf")
    return HubName(match["repo"], match["revision"] or "main", file)


def fetch_hub(name: str, cache: Path, *, quiet: bool, refresh: bool = False) -> Path:
    """The folder (or the one GGUF file) that `name` stands for, whole and verified."""
    wanted = parse_name(name)
    record = cache / "hub" / (hashlib.sha256(name.encode()).hexdigest()[:24] + ".json")
    if not refresh and (known := recorded(record)):
        return known
    (disable_progress_bars if quiet else enable_progress_bars)()
    try:
        path, files = _fetch(wanted, quiet=quiet)
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        raise SourceError(refused(name, error)) from error
    except Exception as error:
        if not is_network(error):
            raise
        found = _cached(wanted, quiet=quiet)
        if found is None:
            raise SourceError(unreachable(name, error)) from error
        path, files = found
    record_files(record, path, files)
    return path


def _fetch(wanted: HubName, *, quiet: bool) -> tuple[Path, list[Path]]:
    api = huggingface_hub.HfApi()
    info = api.model_info(wanted.repo, revision=wanted.revision, files_metadata=True)
    revision = info.sha or wanted.revision
    chosen = choose_files(files_of(info.siblings or []), wanted)
    paths = [
        Path(huggingface_hub.hf_hub_download(wanted.repo, file.path, revision=revision))
        for file in chosen
    ]
    with progress(f"checking {wanted.repo}", quiet=quiet) as report:
        verify_files(chosen, paths, report)
    single = len(chosen) == 1 and chosen[0].path.endswith(".gguf")
    return (paths[0] if single else paths[0].parent), paths


def _cached(wanted: HubName, *, quiet: bool) -> tuple[Path, list[Path]] | None:
    """What another tool may have left, whole, in the hub's cache; its blobs are named by hash."""
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                wanted.repo, revision=wanted.revision, local_files_only=True
            )
        )
        present = [
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        ]
        chosen = choose_files([_local_file(folder, name) for name in present], wanted)
    except (OSError, SourceError, errors.LocalEntryNotFoundError):
        return None
    paths = [folder / file.path for file in chosen]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text("utf-8")).get("weight_map", {}).values())
        if not shards <= set(present):
            return None
    with progress(f"checking {wanted.repo}", quiet=quiet) as report:
        verify_files(chosen, paths, report)
    single = len(chosen) == 1 and chosen[0].path.endswith(".gguf")
    return (paths[0] if single else folder), paths


def _local_file(folder: Path, name: str) -> HubFile:
    path = folder / name
    blob = path.resolve().name
    is_hash = path.is_symlink() and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob) is not None
    sha256 = blob if is_hash and len(blob) == 64 else None
    return HubFile(name, path.stat().st_size, sha256, blob if is_hash and sha256 is None else None)


def files_of(siblings: Iterable[Any]) -> list[HubFile]:
    """A repository's files as the client lists them."""
    files = []
    for sibling in siblings:
        lfs = getattr(sibling, "lfs", None)
        sha256 = lfs.get("sha256") if isinstance(lfs, Mapping) else getattr(lfs, "sha256", None)
        files.append(HubFile(sibling.rfilename, sibling.size or 0, sha256, sibling.blob_id))
    return files


def choose_files(files: Sequence[HubFile], wanted: HubName) -> list[HubFile]:
    """What a model needs, config first; hostile names are refused.

    A repository with only GGUF files gives its one file, or asks for one by name.
    """
    for file in files:
        _check_name(file.path)
    if wanted.file is not None:
        return _the_file(files, wanted)
    weights = [file for file in files if _is_weights(file.path)]
    if weights:
        named = [file for file in files if file.path in FILE_NAMES]
        return sorted(named, key=lambda file: (file.path != "config.json", file.path)) + weights
    ggufs = [file for file in files if file.path.endswith(".gguf")]
    if len(ggufs) == 1:
        return ggufs
    if not ggufs:
        raise SourceError(f"hf:{wanted.repo} holds neither safetensors nor GGUF files")
    listed = "".join(f"\n  hf:{wanted.repo}/{file.path}" for file in ggufs[:30])
    raise SourceError(f"hf:{wanted.repo} holds several GGUF files; name one of them:{listed}")


def _the_file(files: Sequence[HubFile], wanted: HubName) -> list[HubFile]:
    found = [file for file in files if file.path == wanted.file]
    if not found:
        raise SourceError(f"hf:{wanted.repo} holds no file {wanted.file}")
    return found


def _is_weights(path: str) -> bool:
    """Shards at the top; not the second copies that some repositories carry."""
    top = "/" not in path and path.endswith(".safetensors")
    return top and not path.startswith(("consolidated", "adapter"))


def _check_name(path: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise SourceError(f"the server offers a file named {path!r}, which is refused")
    if any(":" in part for part in parts):
        raise SourceError(f"the server offers a file named {path!r}, which is refused")


def verify_files(files: Sequence[HubFile], paths: Sequence[Path], report: Report) -> None:
    """SourceError names a file that is not what the server described; it is removed."""
    total = sum(file.size for file in files)
    done = 0
    for file, path in zip(files, paths, strict=True):
        _verify_file(file, path)
        done += file.size
        report(done, total)


def _verify_file(file: HubFile, path: Path) -> None:
    """Compare with the server's SHA-256, or with git's hash of a small file."""
    size = path.stat().st_size
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % size)
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    expected = file.sha256 or file.blob
    if expected is not None and digest.hexdigest() != expected:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise SourceError(
            f"{file.path} arrived damaged (hash {digest.hexdigest()}, expected {expected}) and was "
            "removed; run the command again to fetch it anew"
        )


def record_files(record: Path, path: Path, files: Sequence[Path]) -> None:
    """For `recorded` of the next run."""
    stats = {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    write_text_atomically(record, json.dumps({"path": str(path), "files": stats}))


def recorded(record: Path) -> Path | None:
    """Where an earlier run put the model, if every file of it is still as it was then."""
    try:
        known = json.loads(record.read_text("utf-8"))
        for name, stat in known["files"].items():
            found = Path(name).stat()
            if [found.st_size, found.st_mtime_ns] != stat:
                return None
        return Path(known["path"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def is_network(error: Exception) -> bool:
    """Whatever HTTP library the hub's client uses, its failures to connect count as this."""
    if isinstance(error, OSError | errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return True
    failures = {"TransportError", "RequestException", "HTTPError"}
    return any(base.__name__ in failures for base in type(error).__mro__)


def refused(name: str, error: Exception) -> str:
    """Why the server does not give it, and what to do."""
    if isinstance(error, errors.GatedRepoError):
        return f"{name} is gated: accept its terms on its page, then log in with `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name}: there is no such revision"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{name}: no such model, or a private one (log in with `hf auth login`)"
    return f"{name} cannot be fetched from {constants.ENDPOINT}: {str(error).splitlines()[0]}"


def unreachable(name: str, error: Exception) -> str:
    """That the server cannot be reached, and what to do."""
    if isinstance(error, errors.OfflineModeIsEnabled):
        return (
            f"{name} is not in the cache, and HF_HUB_OFFLINE forbids fetching it: unset it, or "
            "give the path of a folder that holds the model"
        )
    return (
        f"{name} cannot be fetched: {constants.ENDPOINT} is not reachable "
        f"({type(error).__name__}: {str(error)[:200]}). Check the network or HF_ENDPOINT, or give "
        "the path of a folder that holds the model"
    )
