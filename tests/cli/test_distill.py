"""`distill` on a tiny model: students of three kinds, texts of several, and what is refused."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))
from test_quantize import _small_world, model  # noqa: F401  fixtures

from slipstream.checkpoint.artifact import verify
from slipstream.cli import distill as verb
from slipstream.cli.compress_text import read_texts
from slipstream.cli.search_show import Bars, open_console
from slipstream.compress.chain import parse_chain
from slipstream.errors import SourceError, UnsupportedError
from slipstream.models.load import load


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    random = np.random.default_rng(1)
    lines = [
        json.dumps({"text": " ".join(f"w{i}" for i in random.integers(3, 96, 60))})
        for _ in range(60)
    ]
    path = tmp_path / "docs.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_a_student_with_fewer_blocks_is_taught_and_written(tmp_path, model, chats, capsys) -> None:  # noqa: F811
    out = tmp_path / "out"
    verb.command(model, out, blocks=1, train_tokens=600, corpus_tokens=2000, batch=200, rate=1e-3,
                 text=chats, tokens=200, log=tmp_path / "log", as_json=True)  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    verify(out)
    assert len(load(out).graph.attentions) == 1 and found["artifact"] == str(out)
    recipe = json.loads((out / "slipstream.json").read_text())["recipe"]
    assert [one["method"] for one in recipe["pass"]] == ["drop_blocks", "distill"]
    assert any((tmp_path / "log" / "01-distill").iterdir())


def test_a_new_student_learns_what_the_model_writes(tmp_path, model, capsys) -> None:  # noqa: F811
    (tmp_path / "small.json").write_text(
        '{"hidden_size": 32, "num_hidden_layers": 1, "head_dim": 16}'
    )
    verb.command(model, tmp_path / "out", config=tmp_path / "small.json", train_tokens=600,
                 corpus_tokens=600, batch=200, tokens=256, as_json=True)  # fmt: skip
    assert load(tmp_path / "out").graph.width == 32
    assert "sampled from the model" in capsys.readouterr().out


def test_a_preview_tells_shapes_and_work_without_training(model, capsys) -> None:  # noqa: F811
    verb.command(model, every=2, dry_run=True, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["bytes_after"] <= found["bytes_before"] and found["seconds"] > 0


def test_training_reads_only_the_first_half_and_documents_apart(model, chats) -> None:  # noqa: F811
    chain = parse_chain({"training": {"length": 32}, "pass": [{"method": "distill"}]})
    with Bars(open_console(stderr=True)) as bars:
        reading = read_texts(chain, load(model), chats, 256, bars)
    assert reading.corpus is not None
    trained = np.concatenate([portion.ids for portion in reading.corpus.portions])
    assert len(trained) == pytest.approx(30 * 60, rel=0.05)
    assert any(len(portion.starts) > 2 for portion in reading.corpus.portions)
    window = reading.texts.evaluation.reshape(-1)[1:20]
    runs = np.lib.stride_tricks.sliding_window_view(trained, len(window))
    assert not (runs == window).all(axis=1).any()


def test_students_that_contradict_are_refused(tmp_path, model) -> None:  # noqa: F811
    for words in (
        {"blocks": 1, "every": 2},
        {"blocks": 1, "rounds": 2},
        {"rounds": 2},
        {"divergence": "kl"},
    ):
        with pytest.raises(UnsupportedError):
            verb.command(model, **words)
    with pytest.raises(SourceError):
        verb.command(model, config=tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UnsupportedError, match="no object"):
        verb.command(model, config=tmp_path / "list.json")
