"""The soak itself, short and over a fake engine, so that it works when it is needed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks/soak.py"


@pytest.mark.slow
def test_a_short_soak_finds_nothing(tmp_path):
    out = tmp_path / "soak.json"
    words = ["--fake", "--requests", "200", "--minutes", "0.03", "--seed", "7", "--out", str(out)]
    done = subprocess.run([sys.executable, str(SOAK), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["requests"] == 200 and found["outcomes"]["answered"] > 50
    assert found["while_full"]["refused"] > 0 and all(found["checks"].values())
