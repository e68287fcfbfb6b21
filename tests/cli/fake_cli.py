"""The command line over a fake engine, as a process of its own: ``python fake_cli.py VERB …``."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))

from fakes import FakeProgram, fake_engine, parrot

from slipstream.cli import answering, serve
from slipstream.cli.main import main
from slipstream.engine.engine import Engine
from slipstream.serve import loader_content


class Unhurried(FakeProgram):
    """Takes its time, so that a test can interrupt."""

    def step(self, batch, kv):
        time.sleep(0.02)
        return super().step(batch, kv)


def open_fake(source, options=None):
    return fake_engine(Unhurried(257, parrot("one two three four five six seven eight.")))


Engine.open = open_fake
answering.resolve = serve.resolve = Path
loader_content.content_of = str
main()
