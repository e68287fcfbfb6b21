"""Files that clients have uploaded, and those that batches have written: /v1/files on disk.

    STATE/files/file-…/about.json   what OpenAI says of a file, and whose it is
    STATE/files/file-…/content      its bytes

A file is there as a whole or not at all: `about.json` is written last. Ids are ours; nothing that
a client sends becomes part of a path. Each account sees its own files only.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from starlette.exceptions import HTTPException

from slipstream.errors import RequestError
from slipstream.serve.replies import Json

FILES_MAX = 10_000
FILE_ID = re.compile(r"file-[0-9a-f]{32}")


@dataclass(frozen=True)
class StoredFile:
    """One file; `created_at` in seconds since 1970."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    account: str

    def card(self) -> Json:
        """As OpenAI says it."""
        about = {key: value for key, value in asdict(self).items() if key != "account"}
        return {**about, "object": "file", "status": "processed"}


class FileNotFound(HTTPException):
    """A file that does not exist, or is another account's."""

    def __init__(self, file_id: str) -> None:
        super().__init__(404, f"No such file: {file_id[:60]!r}")


class FileStore:
    """The files of one state folder."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "files"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, StoredFile] = {}
        for folder in sorted(self._folder.iterdir()):
            self._found(folder)

    def get(self, file_id: str, account: str) -> StoredFile:
        """FileNotFound unless the account has it."""
        found = self._files.get(file_id)
        if found is None or found.account != account:
            raise FileNotFound(file_id)
        return found

    def listed(self, account: str, purpose: str | None = None) -> list[StoredFile]:
        """The files of an account, newest first."""
        mine = [
            file
            for file in self._files.values()
            if file.account == account and purpose in (None, file.purpose)
        ]
        return sorted(mine, key=lambda file: (file.created_at, file.id), reverse=True)

    def content(self, file: StoredFile) -> Path:
        """Where its bytes are."""
        return self._folder / file.id / "content"

    @contextmanager
    def draft(self, file_id: str | None = None) -> Iterator[tuple[str, Path]]:
        """An id, and where the bytes of a file to come may be written; gone unless `keep` is
        called.
        """
        if file_id is None:
            if len(self._files) >= FILES_MAX:
                raise RequestError(f"{FILES_MAX} files are stored already; delete some first")
            file_id = f"file-{uuid4().hex}"
        folder = self._folder / file_id
        folder.mkdir(exist_ok=True)
        try:
            yield file_id, folder / "content"
        finally:
            if file_id not in self._files:
                shutil.rmtree(folder, ignore_errors=True)

    def keep(self, file_id: str, filename: str, purpose: str, account: str) -> StoredFile:
        """Makes a draft whose bytes are complete a file."""
        folder = self._folder / file_id
        with (folder / "content").open("rb") as content:
            os.fsync(content.fileno())
            size = os.fstat(content.fileno()).st_size
        file = StoredFile(file_id, size, int(time.time()), filename[:255], purpose, account)
        write_json(folder / "about.json", asdict(file))
        self._files[file_id] = file
        return file

    def delete(self, file: StoredFile) -> None:
        """Forgets a file; `about.json` goes first."""
        self._files.pop(file.id, None)
        folder = self._folder / file.id
        (folder / "about.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def _found(self, folder: Path) -> None:
        """Takes up a file of an earlier process; half a file is cleared away."""
        if not FILE_ID.fullmatch(folder.name):
            return
        try:
            file = StoredFile(**json.loads((folder / "about.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            shutil.rmtree(folder, ignore_errors=True)
            return
        self._files[folder.name] = file


def write_json(path: Path, content: Json) -> None:
    """Replaces a file as a whole, on the disk before it returns."""
    draft = path.with_name(path.name + ".draft")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
