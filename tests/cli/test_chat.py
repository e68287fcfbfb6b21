"""`slipstream chat`, one turn a line and in a terminal."""

import fcntl
import functools
import json
import os
import pty
import select
import signal
import termios
import time
from pathlib import Path

import pytest
from fakes import FakeProgram, fake_engine, parrot

FAKE = str(Path(__file__).parent / "fake_cli.py")


@pytest.fixture
def engine(opened):
    """Says the length of what it was told: the prompt shows in the answer."""
    return opened(fake_engine(FakeProgram(257, parrot("yes"))))


def prompts_of(engine):
    """The conversation as the model saw it, turn after turn."""
    seen = []
    inner = engine.request

    def request(prompt, params=None):
        made = inner(prompt, params)
        seen.append(bytes(made.prompt_ids).decode())
        return made

    engine.request = request
    return seen


def test_each_line_is_a_turn_of_one_conversation(run, engine):
    seen = prompts_of(engine)
    shown = run("chat", "m", stdin="Hi\nMore\n")
    assert shown.code == 0 and shown.out == "yes\nyes\n"
    assert seen[0] == "<user>Hi\n<assistant>"
    assert seen[1] == "<user>Hi\n<assistant>yes\n<user>More\n<assistant>"


def test_commands(run, engine):
    seen = prompts_of(engine)
    shown = run("chat", "m", stdin="Hi\n/reset\n/help\n/nonsense\n\nMore\n/exit\nnever said\n")
    assert seen == ["<user>Hi\n<assistant>", "<user>More\n<assistant>"]
    assert "/reset" in shown.err and "there is no command /nonsense" in shown.err


def test_single_shot_with_a_system_prompt(run, engine):
    seen = prompts_of(engine)
    assert run("chat", "m", "-p", "Hi", "--system", "Be brief").out == "yes\n"
    assert seen == ["<system>Be brief\n<user>Hi\n<assistant>"]


def test_json_prints_a_line_per_answer(run, engine):
    lines = run("chat", "m", "--json", stdin="Hi\nMore\n").out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["yes", "yes"]


def test_the_default_model_is_smollm2(run, monkeypatch):
    from slipstream.engine.engine import Engine

    asked = []

    def open_it(source, options=None):
        asked.append(source)
        return fake_engine(FakeProgram(257, parrot("yes")))

    monkeypatch.setattr(Engine, "open", open_it)
    monkeypatch.setattr("slipstream.cli.answering.resolve", Path)
    run("chat", "-p", "Hi")
    assert asked == ["smollm2:135m"]


def test_the_earliest_turns_go_when_the_context_is_full(run, opened):
    engine = opened(fake_engine(FakeProgram(257, parrot("yes")), context=128))
    seen = prompts_of(engine)
    shown = run("chat", "m", stdin="".join(f"turn {n} {'x' * 20}\n" for n in range(4)))
    assert shown.out == "yes\n" * 4 and "no longer fit and are forgotten" in shown.err
    assert "turn 0" not in seen[-1] and "turn 3" in seen[-1] and len(seen[-1]) <= 96


def test_a_turn_too_long_is_refused_and_the_conversation_goes_on(run, opened):
    engine = opened(fake_engine(FakeProgram(257, parrot("yes")), context=128))
    seen = prompts_of(engine)
    shown = run("chat", "m", stdin=f"{'x' * 300}\nHi\n")
    assert shown.out == "yes\n" and "of at most 128" in shown.err and shown.code == 0
    assert seen == ["<user>Hi\n<assistant>"]


class Terminal:
    """A pseudo-terminal with `slipstream chat` in it."""

    def __init__(self, spawn):
        self.screen, child = pty.openpty()
        files = dict.fromkeys(("stdin", "stdout", "stderr"), child)
        takes_terminal = functools.partial(fcntl.ioctl, child, termios.TIOCSCTTY, 0)
        self.process = spawn(
            FAKE, "chat", "m", **files, start_new_session=True, preexec_fn=takes_terminal
        )
        os.close(child)
        self.shown = ""
        self.seen = 0  # how much of it a test has looked at

    def until(self, words, seconds=30):
        end = time.monotonic() + seconds
        while words not in self.shown[self.seen :]:
            ready, _, _ = select.select([self.screen], [], [], end - time.monotonic())
            assert ready, f"never saw {words!r} in {self.shown!r}"
            self.shown += os.read(self.screen, 4096).decode(errors="replace")
        self.seen = self.shown.index(words, self.seen) + len(words)

    def type(self, text):
        os.write(self.screen, text.encode())


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_ctrl_c_stops_the_answer_and_ctrl_d_the_conversation(spawn, before):
    ours = signal.signal(signal.SIGINT, before)  # what the child starts with
    terminal = Terminal(spawn)
    signal.signal(signal.SIGINT, ours)
    terminal.until("> ")
    terminal.type("Hi\n")
    terminal.until("one two")
    terminal.type("\x03")
    terminal.until("tokens at")  # the speed of what was said
    assert "eight" not in terminal.shown
    terminal.until("> ")
    time.sleep(0.5)  # a signal between the prompt and input()'s waiting would wait for a key
    terminal.type("\x03")
    terminal.until("to leave")
    terminal.until("> ")
    terminal.type("Again\n")
    terminal.until("eight.")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.process.wait(20) == 0
