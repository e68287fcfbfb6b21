"""A tool as every format and parser sees it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tool:
    """A function that the model may call. `spec` is the client's own object, for templates."""

    name: str
    parameters: dict[str, Any]
    spec: dict[str, Any]
