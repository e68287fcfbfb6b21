"""A batch's journal and its lines: nothing answered is lost, nothing torn is believed."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.errors import BatchFileError, SourceError
from slipstream.serve.batch_journal import Journal
from slipstream.serve.batch_lines import LINE_BYTES, URLS, read_lines

OWNER = {"input": "abc", "model": "m"}


def result(line):
    return {
        "id": f"r{line}",
        "custom_id": str(line),
        "response": {"text": "x" * line},
        "error": None,
    }


def filled(path, lines):
    journal = Journal(path, OWNER)
    for line in lines:
        journal.add(line, result(line))
    return journal


def reopened(path, owner=OWNER):
    journal = Journal(path, owner)
    journal.close()
    return journal


def test_results_come_back_in_the_order_of_the_input(tmp_path):
    journal = filled(tmp_path / "j", [3, 0, 7, 1])
    assert journal.write(tmp_path / "out") == 4
    written = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert written == [result(line) for line in (0, 1, 3, 7)]
    assert journal.write(tmp_path / "out", lambda one: one["custom_id"] == "3") == 1
    assert json.loads((tmp_path / "out").read_text()) == result(3)


@pytest.mark.parametrize("seed", range(3))
def test_a_journal_cut_anywhere_keeps_every_whole_line(tmp_path, seed):
    path = tmp_path / "j"
    filled(path, [0, 1, 2, 3]).close()
    data = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    for cut in random.Random(seed).sample(range(len(data) + 1), 30):
        path.write_bytes(data[:cut])
        journal = Journal(path, OWNER)
        whole = max(0, sum(end <= cut for end in ends) - 1)
        assert [line for line in range(9) if line in journal] == list(range(whole))
        journal.add(8, result(8))
        journal.close()
        again = Journal(path, OWNER)
        assert len(again) == whole + 1 and again.get(8) == result(8)
        again.close()


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(tail=st.binary(min_size=1, max_size=40), lines=st.integers(0, 3))
def test_garbage_at_the_end_is_cut_off(tmp_path_factory, tail, lines):
    path = tmp_path_factory.mktemp("journal") / "j"
    filled(path, range(lines)).close()
    before = path.read_bytes()
    path.write_bytes(before + tail)
    journal = Journal(path, OWNER)
    assert len(journal) == lines
    assert path.read_bytes() == before
    journal.close()


def test_a_journal_of_another_run_is_refused(tmp_path):
    filled(tmp_path / "j", [1]).close()
    with pytest.raises(SourceError, match="another run"):
        reopened(tmp_path / "j", {"input": "other", "model": "m"})
    assert 1 in reopened(tmp_path / "j")


def test_two_processes_do_not_share_a_journal(tmp_path):
    journal = filled(tmp_path / "j", [1])
    with pytest.raises(SourceError, match="another process"):
        Journal(tmp_path / "j", OWNER)
    journal.close()
    assert 1 in reopened(tmp_path / "j")


def line(custom_id="a", method="POST", url="/v1/completions", **more):
    return json.dumps({"custom_id": custom_id, "method": method, "url": url, "body": {"model": "m"}} | more)  # fmt: skip


def lines_of(tmp_path, *texts, **more):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(t.encode() if isinstance(t, str) else t for t in texts))
    return read_lines(path, **more)


def test_lines_are_found_again(tmp_path):
    lines = lines_of(tmp_path, line("é1"), "", "  ", line("2", url=URLS[0]), line("3"))
    assert [lines.line(i).custom_id for i in range(len(lines))] == lines.ids == ["é1", "2", "3"]
    assert lines.line(1).url == URLS[0] and lines.model == "m" and len(lines.digest) == 64
    assert lines_of(tmp_path, line("1"), line("2", body={"model": "n"})).model is None
    assert lines_of(tmp_path, line("1", body={})).model is None


BAD = {
    "not json": ("{", "invalid_json_line"),
    "nan": (line().replace('"m"', "NaN"), "invalid_json_line"),
    "not utf-8": (b'{"custom_id": "\xff"}', "invalid_json_line"),
    "deep": ("[" * 100_000, "invalid_json_line"),
    "list": ("[]", "invalid_line"),
    "no id": (line(custom_id=""), "invalid_line"),
    "id of a number": (line(custom_id=3), "invalid_line"),
    "long id": (line(custom_id="x" * 513), "invalid_line"),
    "no body": (line(body=None), "invalid_line"),
    "unknown field": (line(priority=3), "invalid_line"),
    "get": (line(method="GET"), "invalid_method"),
    "elsewhere": (line(url="/v1/files"), "invalid_url"),
    "twice": (line() + "\n" + line(), "duplicate_custom_id"),
    "nothing": ("\n\n", "empty_file"),
    "too long": (line(body={"x": "y" * LINE_BYTES}), "line_too_long"),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_cannot_be_run_say_which_line_is_wrong(tmp_path, case):
    text, code = BAD[case]
    with pytest.raises(BatchFileError, match="line [12]") as caught:
        lines_of(tmp_path, text)
    assert caught.value.faults[0].code == code


def test_limits_of_a_server_hold(tmp_path):
    with pytest.raises(BatchFileError, match="more than 2"):
        lines_of(tmp_path, line("1"), line("2"), line("3"), most=2)
    with pytest.raises(BatchFileError, match="embeddings"):
        lines_of(tmp_path, line("1"), url="/v1/embeddings")
    assert len(lines_of(tmp_path, line("1"), line("2"), most=2, url="/v1/completions")) == 2
    with pytest.raises(SourceError):
        read_lines(tmp_path / "absent")
