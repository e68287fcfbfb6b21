"""`slipstream batch`: what it says, what it writes, and that a kill costs nothing but time."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from fakes import FakeProgram, fake_engine, parrot


def line(custom_id, model="fake", **body):
    body = {"model": model, "prompt": "Hi>", "max_tokens": 5} | body
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}


def write(path, lines):
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


@pytest.fixture
def engine(opened, monkeypatch):
    monkeypatch.setattr("slipstream.cli.batch.resolve", Path)
    return opened(fake_engine(FakeProgram(257, parrot("Hello, wörld!")), max_batch=4))


def results(path):
    return [json.loads(text) for text in path.read_text().splitlines()]


def test_answers_are_in_the_order_of_the_requests(run, engine, tmp_path):
    source = write(tmp_path / "in.jsonl", [line(f"id {i}") for i in range(30)])
    ended = run("batch", str(source), "-o", str(tmp_path / "out.jsonl"))
    assert (ended.code, ended.out) == (0, "") and "30 requests" in ended.err
    answers = results(tmp_path / "out.jsonl")
    assert [one["custom_id"] for one in answers] == [f"id {i}" for i in range(30)]
    assert {one["response"]["body"]["choices"][0]["text"] for one in answers} == {"Hello"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_refusals_are_told_line_by_line(run, engine, tmp_path):
    source = write(tmp_path / "in.jsonl", [line("good"), line("bad", wonders=1)])
    ended = run("batch", str(source), "-o", str(tmp_path / "out.jsonl"), "--json")
    told = json.loads(ended.out)
    assert (told["done"], told["failed"], told["answer_tokens"]) == (2, 1, 5)
    good, bad = results(tmp_path / "out.jsonl")
    assert good["response"]["status_code"] == 200
    assert "wonders" in bad["response"]["body"]["error"]["message"]


def test_mistakes_are_one_line(run, engine, tmp_path):
    out = tmp_path / "out.jsonl"
    several = write(tmp_path / "several.jsonl", [line("a"), line("b", model="other")])
    twice = write(tmp_path / "twice.jsonl", [line("a"), line("a")])
    for source, words in (
        (several, "--model"),
        (twice, "line 2: custom_id of line 1"),
        (tmp_path / "absent.jsonl", "cannot be read"),
    ):
        ended = run("batch", str(source), "-o", str(out))
        assert ended.code == 1 and ended.err.startswith("error: ") and words in ended.err
    assert run("batch", str(several), "-o", str(out), "--model", "fake").code == 0
    assert {one["response"]["body"]["model"] for one in results(out)} == {"fake"}
    ended = run("batch", str(several), "-o", str(out), "--model", "fake")
    assert ended.code == 1 and "is there already" in ended.err


def test_a_journal_of_another_input_is_not_gone_on_with(run, engine, tmp_path):
    out = tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.journal").write_text('{"journal":1,"input":"x","model":"fake"}\n')
    ended = run("batch", str(write(tmp_path / "in.jsonl", [line("a")])), "-o", str(out))
    assert ended.code == 1 and "belongs to another run" in ended.err and not out.exists()


FAKE = """
import sys, time
sys.path.insert(0, {engine!r})
from fakes import FakeProgram, fake_engine, parrot
from slipstream.cli import batch
from slipstream.cli.main import main
from slipstream.engine.engine import Engine

class Unhurried(FakeProgram):
    def step(self, batch, kv):
        time.sleep(0.004)
        return super().step(batch, kv)

Engine.open = lambda source, options=None: fake_engine(Unhurried(257, parrot("Hello!")), max_batch=4)
batch.resolve = lambda name: name
main(sys.argv[1:])
"""


def killed_again_and_again(spawn, words, journal, kills, pause_s):
    """Runs to the end, killed with SIGKILL a while after each start that wrote something.

    A machine so fast that a run ends before its kill ends the killing; one kill must have hit.
    """
    sizes = []
    for _ in range(kills):
        process = spawn(*words, stderr=subprocess.DEVNULL)
        before, until = size_of(journal), time.monotonic() + 60
        while process.poll() is None and size_of(journal) <= before:
            assert time.monotonic() < until, "nothing was ever answered"
            time.sleep(0.005)
        time.sleep(pause_s)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        sizes.append(size_of(journal))
    else:
        assert spawn(*words).wait(120) == 0
    assert sizes, "every run ended before it was killed"
    return sizes


def size_of(path):
    return path.stat().st_size if path.exists() else 0


def test_killed_at_any_moment_the_same_command_goes_on(spawn, tmp_path):
    script = tmp_path / "fake.py"
    script.write_text(FAKE.format(engine=str(Path(__file__).parent.parent / "engine")))
    lines = [line(f"id {i}", max_tokens=1 + i % 5) for i in range(150)]
    source, out = write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    words = [str(script), "batch", str(source), "-o", str(out)]
    journal = tmp_path / "out.jsonl.journal"
    sizes = killed_again_and_again(spawn, words, journal, kills=2, pause_s=0.1)
    assert sizes == sorted(sizes) and sizes[0] > 0, "what was answered is not lost"
    assert [one["custom_id"] for one in results(out)] == [one["custom_id"] for one in lines]
    for one, asked in zip(results(out), lines, strict=True):
        text = one["response"]["body"]["choices"][0]["text"]
        assert text == "Hello!"[: asked["body"]["max_tokens"]]
    assert not journal.exists()


@pytest.mark.slow
def test_a_killed_run_of_a_real_model_gives_what_an_undisturbed_one_gives(
    spawn, tmp_path, smollm2_path
):
    """SmolLM2: sampled with seeds, killed twice; every answer has the bits of a run in peace."""
    lines = [
        line(str(i), str(smollm2_path), prompt=f"{i} and", max_tokens=8, seed=i, temperature=0.8)
        for i in range(64)
    ]
    source = write(tmp_path / "in.jsonl", lines)

    def words(out):
        return [
            "-m",
            "slipstream.cli.main",
            "batch",
            str(source),
            "-o",
            str(out),
            "--max-batch",
            "4",
        ]

    killed_again_and_again(
        spawn, words(tmp_path / "a"), tmp_path / "a.journal", kills=2, pause_s=0.05
    )
    assert spawn(*words(tmp_path / "b")).wait(120) == 0
    texts = [
        [one["response"]["body"]["choices"] for one in results(tmp_path / name)] for name in "ab"
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 64
