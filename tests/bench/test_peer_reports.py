"""What surrounds the race against peers: bounded rounds, tables of sessions, lengthened contexts."""

import importlib
import json
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch):
    """Imports a module of the folder by its name."""
    monkeypatch.syspath_prepend(str(PEERS))
    return importlib.import_module


def session(names: dict[str, float], model: str = "m") -> dict[str, object]:
    return {
        "model": model,
        "machine": "x",
        "commit": "c",
        "threads": 2,
        "tokens": {"prompt": 512, "decode": 64, "depth": 8},
        "contestants": {name: {"peak_resident_bytes": 3 << 20} for name in names},
        "greedy_agreement": dict.fromkeys(names, 16),
        "tokens_per_s": {
            task: {name: [speed] * 5 for name, speed in names.items()}
            for task in ("decode", "prefill")
        },
    }


def test_the_report_names_the_best_peer(peers) -> None:
    report = peers("report")
    page = report.report(session({"slipstream": 20.0, "peer a": 9.0, "peer b": 10.0}))
    assert "decode: 2.00× [2.00, 2.00] faster than the best peer (peer b)" in page
    assert "| peer a | 9.0 (9.0…9.0) | 9.0 (9.0…9.0) | 3 MiB |" in page


def test_sessions_make_one_table_and_each_peer_meets_us_as_we_were_then(peers) -> None:
    report = peers("report")
    first = session({"slipstream": 20.0, "peer a": 10.0})
    second = session({"slipstream": 30.0, "peer b": 10.0})
    page = report.together([first, second])
    assert page.count("| slipstream |") == 1
    assert "| peer a | 10.0 (10.0…10.0) | 10.0 (10.0…10.0) | 3 MiB | 2.00 ×" in page
    assert "| peer b | 10.0 (10.0…10.0) | 10.0 (10.0…10.0) | 3 MiB | 3.00 ×" in page
    with pytest.raises(SystemExit, match="'model'"):
        report.together([first, session({"slipstream": 1.0}, model="another")])


def test_no_round_begins_when_the_time_is_over_but_five_are_measured(
    peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    contest = peers("contest")
    monkeypatch.setattr(contest, "SETTLE_S", 0)
    workers = [SimpleNamespace(name=name, ask=lambda **_: {"seconds": 1.0}) for name in "AB"]
    todo = contest.tasks(range(40), prompt=10, decode=4, depth=8)
    now = iter(range(0, 1000, 10))
    rates = contest.measure(workers, todo, 15, 3.0, lambda: next(now))
    assert {len(samples) for rows in rates.values() for samples in rows.values()} == {5}


@pytest.mark.parametrize("transposed", [False, True])
def test_a_state_of_llama_cpp_is_lengthened_by_repeating(peers, transposed: bool) -> None:
    stretched = peers("llama_state").stretched

    def state(count: int, source: np.ndarray) -> bytes:
        rows = np.arange(3 * 6, dtype=np.uint8).reshape(3, 6)[source]  # three cells of three halves
        cells = b"".join(struct.pack("<iIi", position, 1, 0) for position in range(count))
        keys = struct.pack("<iQ", 1, 6) + rows.tobytes()
        if transposed:
            columns = rows.reshape(count, 3, 2).transpose(1, 0, 2)
            values = struct.pack("<iII", 1, 2, 3) + columns.tobytes()
        else:
            values = keys
        head = struct.pack("<IiII", 7, 0, 1, count)
        return head + cells + struct.pack("<II", transposed, 2) + 2 * keys + 2 * values

    short = state(3, np.arange(3))
    assert stretched(short, 8) == state(8, np.arange(8) % 3)
    with pytest.raises(ValueError, match="not understood"):
        stretched(short + b"more", 8)
    with pytest.raises(ValueError, match="laid out"):
        stretched(short[:16] + b"\1" + short[17:], 8)
    with pytest.raises(ValueError, match="cannot become"):
        stretched(short, 2)


def test_results_that_are_published_make_their_table(peers) -> None:
    report = peers("report")
    for path in sorted((PEERS / "results").glob("*.json")):
        assert "slipstream" in report.report(json.loads(path.read_text()))
