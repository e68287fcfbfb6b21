"""Every benchmark script starts: what it imports is there, and its options are told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import slipstream

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(
    path
    for path in BENCHMARKS.rglob("*.py")
    if "ArgumentParser(" in path.read_text() and '__name__ == "__main__"' in path.read_text()
)


def test_the_scripts_are_found():
    assert BENCHMARKS / "serving" / "overhead.py" in SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(BENCHMARKS)))
def test_a_script_tells_its_options(script):
    source = {"PYTHONPATH": str(Path(slipstream.__file__).parents[1])}
    told = subprocess.run(
        [sys.executable, str(script), "--help"],
        env={**os.environ, **source},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("usage:")
