"""Options that `quantize` and `prune` share, from their text."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from slipstream.compress.calibration_text import on_hub
from slipstream.compress.chain import Chain, read_chain
from slipstream.compress.registry import QUANTIZERS
from slipstream.errors import SourceError, UnsupportedError

CODEBOOKS = ("nf4", "mxfp4", "iq4_nl")
BITS = (2, 3, 4, 5, 6, 8)

_UNITS = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9}
_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?b?)\s*", re.IGNORECASE)


def parse_memory(text: str | None) -> int | None:
    """``2GB`` in bytes; UnsupportedError for anything that is no size."""
    if text is None:
        return None
    match = _SIZE.fullmatch(text)
    unit = None if match is None else _UNITS.get(match[2].lower())
    if match is None or unit is None:
        raise UnsupportedError(f"--memory is a size as 2GB, not {text!r}")
    return int(float(match[1]) * unit)


def quantizing_passes(
    method: str, bits: int, group: str, zero: str = "symmetric", format: str = "int"
) -> list[dict[str, Any]]:
    """As a recipe spells them: the blocks' linears by one method, embedding and head at 8 bits."""
    if bits not in BITS:
        raise UnsupportedError(f"--bits is one of 2, 3, 4, 5, 6, 8, not {bits}")
    known_choice("--method", method, {name: name for name in QUANTIZERS})
    ends = {"method": "rtn", "select": ["embedding", "head"], "bits": 8, "group": "row"}
    if format != "int":
        known_choice("--format", format, dict.fromkeys(("int", *CODEBOOKS)))
        book = {"method": "codebook", "levels": format, "group": _group(group)}
        return [ends, book | {"weighted": method == "imatrix"}]
    rest = {"method": method, "bits": bits, "group": _group(group), "zero": zero}
    return [ends, rest]


def known_choice(option: str, text: str, choices: dict[str, Any]) -> Any:
    """What `text` stands for; UnsupportedError names the choices."""
    if text not in choices:
        raise UnsupportedError(f"{option} is one of {', '.join(choices)}, not {text!r}")
    return choices[text]


def _group(text: str) -> int | str:
    if text == "row":
        return text
    if text.isdecimal() and int(text) >= 16 and int(text) % 16 == 0:
        return int(text)
    raise UnsupportedError(f"--group is a multiple of 16, or row, not {text!r}")


def read_recipe(path: Path) -> Chain:
    """The chain of a TOML file; its texts are looked for beside it."""
    try:
        chain = read_chain(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"the recipe {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UnsupportedError(f"the recipe {path} is no text in UTF-8") from None
    calibration, training = chain.calibration, chain.training
    if calibration.text is not None:
        calibration = replace(calibration, text=_beside(path, calibration.text))
    if training.text is not None:
        training = replace(training, text=_beside(path, training.text))
    return replace(chain, calibration=calibration, training=training)


def _beside(recipe: Path, text: str) -> str:
    return text if on_hub(Path(text)) else str(recipe.parent / text)
