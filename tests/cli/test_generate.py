"""`slipstream generate`."""

import json
import os
import re
import signal

import pytest
from fakes import ByteTokenizer, FakeProgram, fake_engine, parrot


@pytest.fixture(autouse=True)
def engine(opened):
    return opened(fake_engine(FakeProgram(257, parrot("Hello, wörld!"))))


def test_text_goes_to_stdout_and_speed_to_stderr(run):
    shown = run("generate", "m", "-p", "Hi")
    assert (shown.code, shown.out) == (0, "Hello, wörld!\n")
    assert re.fullmatch(
        r"\[20 prompt tokens at [\d.]+/s, 15 tokens at [\d.]+/s, first after [\d.]+ s\]\n",
        shown.err,
    )


def test_raw_continues_the_text_as_it_stands(run):
    shown = run("generate", "m", "-p", "Hi>", "--raw")
    assert shown.out == "Hello, wörld!\n" and shown.err.startswith("[3 prompt tokens")


def test_a_model_without_a_template_continues_the_text(run, opened):
    opened(fake_engine(FakeProgram(257, parrot("yes")), tokenizer=ByteTokenizer(chat=None)))
    assert run("generate", "m", "-p", "Hi>").err.startswith("[3 prompt tokens")


def test_the_prompt_may_come_from_stdin(run):
    assert run("generate", "m", "-p", "-", "--raw", stdin="from stdin>").out == "Hello, wörld!\n"


def test_options_reach_the_sampler(run):
    assert run("generate", "m", "-p", "x", "-n", "4").out == "Hell\n"
    assert run("generate", "m", "-p", "x", "--stop", "wör").out == "Hello, \n"
    drawn = ("generate", "m", "-p", "x", "--temperature", "1.5", "--top-k", "5", "--top-p", "0.9")
    assert run(*drawn, "--min-p", "0.1", "--seed", "3").out == "Hello, wörld!\n"


def test_json_is_one_object(run):
    shown = run("generate", "m", "-p", "x", "-n", "4", "--json")
    told = json.loads(shown.out)
    assert told["text"] == "Hell" and told["finish"] == "length" and told["ids"] == list(b"Hell")
    assert told["answer_tokens"] == 4 and told["decode_tokens_per_s"] > 0 and shown.err == ""


def test_what_is_out_of_range_is_refused_in_words(run):
    assert run("generate", "m", "-p", "x", "--top-p", "2").err == "error: top_p must be in (0, 1]\n"
    shown = run("generate", "m", "-p", "x" * 2000)
    assert shown.code == 1 and "of at most 1024" in shown.err and shown.err.count("\n") == 1


def test_ctrl_c_shows_what_there_is_and_ends_with_130(run, opened):
    class Interrupted(FakeProgram):
        def step(self, batch, kv):
            if self.steps == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return super().step(batch, kv)

    engine = opened(fake_engine(Interrupted(257, parrot("Hello, wörld!"))))
    shown = run("generate", "m", "-p", "Hi")
    assert shown.code == 130 and shown.out == "Hello,\n" and "[20 prompt" in shown.err
    engine.check()
    assert engine.idle


def test_activations_reach_the_engine(run, opened, monkeypatch):
    engine = fake_engine(FakeProgram(257, parrot("yes")))
    opened(engine)
    chosen = []
    monkeypatch.setattr(
        "slipstream.engine.engine.Engine.open",
        lambda source, options=None: chosen.append(options.activations) or engine,
    )
    assert run("generate", "model.gguf", "-p", "x", "--raw", "--activations", "f32").code == 0
    assert run("generate", "model.gguf", "-p", "x", "--raw").code == 0
    assert chosen == ["f32", "auto"]
    assert run("generate", "model.gguf", "-p", "x", "--activations", "f16").code == 2
