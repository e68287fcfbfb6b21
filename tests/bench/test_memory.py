"""Peak memory is taken in a process of its own."""

from pathlib import Path

import pytest

pytest.importorskip("slipstream._native")

from slipstream.backends.native import NativeOptions
from slipstream.bench.memory import own_peak_bytes, peak_memory_bytes
from slipstream.bench.workload import Workload
from slipstream.errors import SlipstreamError


def test_a_process_knows_its_peak() -> None:
    assert 1 << 20 < own_peak_bytes() < 1 << 40


@pytest.mark.slow
def test_a_model_takes_at_least_its_weights(smollm2_path: Path) -> None:
    peak = peak_memory_bytes(str(smollm2_path), NativeOptions(threads=1), Workload(16, 2))
    assert smollm2_path.stat().st_size < peak < 2 << 30


def test_a_model_that_cannot_be_had_is_named() -> None:
    with pytest.raises(SlipstreamError, match=r"/nowhere\.gguf could not be measured"):
        peak_memory_bytes("/nowhere.gguf", NativeOptions(), Workload())
