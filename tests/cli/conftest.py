"""The command line in this process, and as a process of its own."""

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "engine"))


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs `slipstream WORDS`; gives its exit code, stdout and stderr."""

    def call(*words, stdin=""):
        from slipstream.cli.main import main

        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        out, err = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code or 0, out=out, err=err)

    return call


@pytest.fixture
def opened(monkeypatch):
    """Makes the command line open this engine: ``opened(engine)``."""

    def use(engine):
        from slipstream.engine.engine import Engine

        monkeypatch.setattr(Engine, "open", lambda source, options=None: engine)
        monkeypatch.setattr("slipstream.cli.answering.resolve", Path)
        return engine

    return use


@pytest.fixture
def spawn():
    """Starts a process of this Python: ``spawn("-m", "slipstream.cli.main", …)``; ended with the test."""
    started = []

    def start(*words, **more):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        process = subprocess.Popen([sys.executable, *words], env=environment, **more)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
