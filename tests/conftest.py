"""Fixtures for the whole suite: the real model, and real data where a developer has it."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("SLIPSTREAM_TUNE", "0")  # no test waits for timings that it did not ask for
settings.register_profile("untimed", deadline=None)  # how long an example takes proves nothing
settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct as GGUF Q4_1, pulled once into the cache; skips where it cannot be had."""
    from slipstream.checkpoint.sources import resolve
    from slipstream.errors import SourceError

    try:
        return resolve("smollm2:135m", quiet=True)
    except SourceError as error:
        pytest.skip(f"SmolLM2 cannot be had: {error}")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real texts and small trained models; skips where it is absent."""
    folder = Path(os.environ.get("SLIPSTREAM_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the data folder is absent")
    return folder
