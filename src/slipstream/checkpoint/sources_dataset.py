"""A file of a dataset on the Hugging Face hub: texts to calibrate, measure and train on.

    hf:ORG/NAME/FILE.jsonl[@REVISION]

Compression reads it where a text is asked for. One file is fetched, into the hub's own cache, and
checked against the hash that the server gives; the next run needs no network.
"""

import hashlib
import re
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors
from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

from slipstream.checkpoint.sources_hub import (
    files_of,
    is_network,
    record_files,
    recorded,
    refused,
    unreachable,
    verify_files,
)
from slipstream.checkpoint.sources_progress import progress
from slipstream.errors import SourceError

NAME = re.compile(r"hf:(?P<repo>\w[\w.-]*/\w[\w.-]*)/(?P<file>[^@]+)(?:@(?P<revision>\w[\w./-]*))?")
ENDINGS = (".jsonl", ".ndjson", ".txt")


def fetch_dataset(name: str, cache: Path, *, quiet: bool = False) -> Path:
    """The file, whole and verified. SourceError says what is wrong with the name or the server."""
    match = NAME.fullmatch(name)
    if match is None or ".." in name:
        raise SourceError(f"{name!r} is not of the form hf:ORG/NAME/FILE.jsonl[@REVISION]")
    file = match["file"]
    if not file.endswith(ENDINGS):
        raise SourceError(
            f"{name!r} is no {', '.join(ENDINGS)} file: others (parquet, csv) are not read; "
            "write the texts you want into a .jsonl file with a text in each line"
        )
    record = cache / "hub" / (hashlib.sha256(f"dataset {name}".encode()).hexdigest()[:24] + ".json")
    if known := recorded(record):
        return known
    (disable_progress_bars if quiet else enable_progress_bars)()
    try:
        path = _fetch(match["repo"], file, match["revision"] or "main", quiet=quiet)
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        raise SourceError(refused(name, error).replace("model", "dataset")) from error
    except Exception as error:
        if not is_network(error):
            raise
        words = unreachable(name, error).replace("folder that holds the model", "file of your own")
        raise SourceError(words) from error
    record_files(record, path, [path])
    return path


def _fetch(repo: str, file: str, revision: str, *, quiet: bool) -> Path:
    api = huggingface_hub.HfApi()
    info = api.dataset_info(repo, revision=revision, files_metadata=True)
    chosen = [one for one in files_of(info.siblings or []) if one.path == file]
    if not chosen:
        raise SourceError(f"the dataset hf:{repo} holds no file {file}")
    commit = info.sha or revision
    path = Path(huggingface_hub.hf_hub_download(repo, file, repo_type="dataset", revision=commit))
    with progress(f"checking {repo}", quiet=quiet) as report:
        verify_files(chosen, [path], report)
    return path
