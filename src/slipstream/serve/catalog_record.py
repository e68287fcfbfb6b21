"""What an administrator has put into the catalog, as a file that the next start reads.

`catalog_keeper` writes and reads it. Whoever may write this file may choose what is loaded, as with
the admin key; so it is checked whole before anything is done, and refused in words if it is not
what a server wrote.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from slipstream.errors import FileFormatError, RequestError
from slipstream.serve.canary import Canary
from slipstream.serve.catalog_entry import check_names
from slipstream.serve.file_store import write_json
from slipstream.serve.openai import Strict

SIZE_MOST_BYTES = 2**20
ENTRIES_MOST = 1024

Source = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]


class ModelRecord(Strict):
    """One version that was loaded over HTTP."""

    name: str
    version: str
    source: Source


class AdapterRecord(Strict):
    """One adapter that was loaded over HTTP; `base` is its model's ``name:version``."""

    name: str
    source: Source
    base: str


class CanaryRecord(Strict):
    """A model's canary."""

    version: str
    percent: float


class CatalogRecord(Strict):
    """Models and adapters in the order in which they came, and the labels of every model."""

    schema_version: Literal[1] = 1
    models: list[ModelRecord] = Field(default_factory=list, max_length=ENTRIES_MOST)
    adapters: list[AdapterRecord] = Field(default_factory=list, max_length=ENTRIES_MOST)
    defaults: dict[str, str] = Field(default_factory=dict, max_length=ENTRIES_MOST)
    canaries: dict[str, CanaryRecord] = Field(default_factory=dict, max_length=ENTRIES_MOST)

    @model_validator(mode="after")
    def _check(self) -> "CatalogRecord":
        for model in self.models:
            check_names(model.name, model.version)
        for adapter in self.adapters:
            check_names(adapter.name, "1")
        for name, version in self.defaults.items():
            check_names(name, version)
        for name, canary in self.canaries.items():
            check_names(name, canary.version)
            Canary(canary.version, canary.percent)
        names = [(model.name, model.version) for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError("a version is there twice")
        return self

    def write(self, path: Path) -> None:
        """Replaces the file as a whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, self.model_dump())


def read_record(path: Path) -> CatalogRecord:
    """The record at `path`, or an empty one without a file. FileFormatError: it is damaged."""
    try:
        with path.open("rb") as file:
            text = file.read(SIZE_MOST_BYTES + 1)
    except FileNotFoundError:
        return CatalogRecord()
    try:
        if len(text) > SIZE_MOST_BYTES:
            raise ValueError(f"it has more than {SIZE_MOST_BYTES} bytes")
        return CatalogRecord.model_validate_json(text)
    except (ValueError, RequestError, RecursionError) as error:
        raise FileFormatError(
            f"{path} is not what a server has written: {_first_line(error)}. Mend it, or move it "
            "away to start with the models of the command line alone"
        ) from error


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
    return str(error)
