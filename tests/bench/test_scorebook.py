"""The table against GGUF keeps its scores: the same figures, and nothing is scored twice."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from slipstream.compress.passes.rtn import round_to_nearest
from slipstream.formats.tensor import Affine, DenseTensor
from slipstream.models.load import load

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "compression"


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("quality")


@pytest.fixture
def scorebook(quality):
    return importlib.import_module("scorebook")


@pytest.fixture
def original(shared_data: Path):
    return load(shared_data / "models" / "stories260K" / "stories260K.gguf")


@pytest.fixture
def text(shared_data: Path) -> Path:
    return shared_data / "models" / "stories260K" / "STORY.txt"


@pytest.fixture
def coarse(original):
    """The weights with whatever fits at 4 bits."""
    weights = {name: original.weights[name] for name in original.graph.weight_names()}
    for name, tensor in weights.items():
        if len(tensor.shape) == 2 and tensor.shape[1] % 16 == 0:
            rounded = round_to_nearest(np.array(tensor.dequantize(), np.float32), Affine(4, 16))
            weights[name] = DenseTensor(rounded.dequantize())
    return weights


def test_kept_scores_are_those_of_the_judge(
    quality, scorebook, original, coarse, text, tmp_path: Path
) -> None:
    program = quality.exact(original.graph, coarse)
    judged = quality.Judge(original, text, 1, tmp_path).score(program)
    kept = scorebook.Scorebook(original, text, 1, tmp_path).kept("0" * 64, lambda: program)
    assert judged.kl.mean() > 1e-5
    for one, other in zip(vars(judged).values(), vars(kept).values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_a_second_run_scores_only_what_is_new(
    quality, scorebook, original, coarse, text, tmp_path: Path
) -> None:
    made = []

    def program():
        made.append(True)
        return quality.exact(original.graph, coarse)

    book = scorebook.Scorebook(original, text, 1, tmp_path)
    first = book.kept("a" * 64, program)
    again = scorebook.Scorebook(original, text, 1, tmp_path).kept("a" * 64, program)
    assert len(made) == 1
    np.testing.assert_array_equal(first.kl, again.kl)
    book.kept("b" * 64, program)
    assert len(made) == 2
