"""A server process over a fake engine, for tests that send it signals: prints its URL when ready.

``fake_server.py '{"step_s": 0.01, "address": {"port": 0}, "limits": {}, "run": {}}'``
"""

import json
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent / "engine")]

from fakes import FakeProgram, fake_engine, parrot  # noqa: E402

from slipstream.serve.admission import AdmissionLimits  # noqa: E402
from slipstream.serve.app import make_app  # noqa: E402
from slipstream.serve.keys import KeyRing  # noqa: E402
from slipstream.serve.run import Address, run_server  # noqa: E402


class Paced(FakeProgram):
    """Every step takes as long."""

    step_s = 0.0

    def step(self, batch, kv):
        time.sleep(self.step_s)
        return super().step(batch, kv)


def main(given):
    program = Paced(257, parrot("abcdefghij" * 50))
    program.step_s = given.get("step_s", 0.0)
    limits = AdmissionLimits(**given.get("limits", {}))
    address = {
        name: Path(value) if name in ("uds", "cert", "key") else value
        for name, value in {"port": 0, **given.get("address", {})}.items()
    }
    file = given.get("keys")
    ring = KeyRing(limits.accounts, file=Path(file) if file else None)
    app = make_app(fake_engine(program, max_batch=8), name="fake", limits=limits, keyring=ring)
    run_server(app, Address(**address), lambda url: print(url, flush=True), **given.get("run", {}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
