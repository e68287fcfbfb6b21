"""A search's text on disk: a resumed run measures on the very same tokens."""

from pathlib import Path

import numpy as np

from slipstream.evaluate.texts import Texts

_NAME = "texts.npz"


def read_texts(folder: Path) -> Texts | None:
    """What `write_texts` left in the folder; None if nothing."""
    path = folder / _NAME
    if not path.exists():
        return None
    with np.load(path) as arrays:
        return Texts(arrays["evaluation"], arrays["calibration"], str(arrays["source"]))


def write_texts(folder: Path, texts: Texts) -> None:
    """Whole or not at all."""
    partial = folder / f"partial-{_NAME}"
    np.savez(
        partial,
        evaluation=texts.evaluation,
        calibration=texts.calibration,
        source=np.array(texts.source),
    )
    partial.replace(folder / _NAME)
