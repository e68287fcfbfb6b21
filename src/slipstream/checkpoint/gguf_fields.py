"""The keys of one architecture in GGUF's metadata, read with their types checked.

`gguf_config` and `gguf_rope` read through this. A key that is missing or of the wrong type is a
GGUFError that names it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from slipstream.checkpoint.gguf import GGUFFile
from slipstream.errors import GGUFError


@dataclass(frozen=True)
class Fields:
    """The keys ``ARCHITECTURE.…`` of a file, read with their types checked."""

    file: GGUFFile
    architecture: str

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive integer; of a list with one entry per layer, the one they all are."""
        value = self._value(key, default)
        if isinstance(value, list) and value and all(entry == value[0] for entry in value):
            value = value[0]
        if type(value) is not int or not 0 < value < 1 << 31:
            raise self._wrong(key, value, "a positive integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number, as a float."""
        value = self._value(key, default)
        if type(value) not in (int, float):
            raise self._wrong(key, value, "a number")
        with np.errstate(over="ignore"):
            single = np.float32(value)  # the file's 1e-5 is a float32; the model's was a decimal
        return float(str(single)) if single == value else float(value)

    def has(self, key: str) -> bool:
        """Whether the file says it."""
        return f"{self.architecture}.{key}" in self.file.metadata

    def get(self, key: str, default: Any = None) -> Any:
        """Whatever the file says."""
        return self.file.metadata.get(f"{self.architecture}.{key}", default)

    def _value(self, key: str, default: Any) -> Any:
        value = self.get(key, default)
        if value is None:
            raise GGUFError(f"the key {self.architecture}.{key} is missing: is this a whole model?")
        return value

    def _wrong(self, key: str, value: Any, what: str) -> GGUFError:
        return GGUFError(f"the key {self.architecture}.{key} is {shown(value)}, not {what}")


def shown(value: Any) -> str:
    """A value in an error message, never longer than a line."""
    text = repr(value) if not isinstance(value, list) else f"a list of {len(value)}"
    return text if len(text) < 60 else text[:57] + "…"
