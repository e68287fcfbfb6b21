"""What a catalog knows about one version of a model, from before it is loaded until it is gone."""

import re
from dataclasses import dataclass
from typing import Literal

from slipstream.errors import RequestError
from slipstream.serve.served import Served

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:+-]{0,127}")
VERSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

State = Literal["loading", "serving", "draining", "failed"]


@dataclass(eq=False)
class Entry:
    """One version of one model, whatever its state.

    source  what it was loaded from; "" when it was given as an engine
    served  None while it is loading, and when that has failed
    error   why it has failed, in words
    """

    name: str
    version: str
    source: str
    state: State
    served: Served | None = None
    error: str | None = None

    @property
    def label(self) -> str:
        """``name:version``."""
        return f"{self.name}:{self.version}"


def check_names(name: str, version: str) -> None:
    """RequestError for what cannot be the name or the version of a model."""
    if not NAME.fullmatch(name):
        raise RequestError(f"a model's name has letters, digits and ._/:+- only, not {name!r}")
    if not VERSION_NAME.fullmatch(version):
        raise RequestError(f"a version has letters, digits and ._- only, not {version!r}")
