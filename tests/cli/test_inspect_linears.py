"""What inspect says of timed plans."""

import pytest

from slipstream.backends import tuned
from slipstream.backends.choice_file import write_choices
from slipstream.backends.sparse_forms import sparse_path
from slipstream.backends.tuning import Choice, LinearPlan
from slipstream.cli.inspect_linears import choice_words, linears_of

PLAN = LinearPlan(8, 1024, 128, 8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIPSTREAM_CACHE", str(tmp_path))
    monkeypatch.setenv("SLIPSTREAM_TUNE", "1")


def test_what_was_chosen_is_named():
    path = tuned.choices_path("avx2", 2)
    stays = Choice(None, 0.01, 0.02, "within the noise")
    large = Choice(None, 0.0, 0.0, "not timed: it would take too long")
    tuned.store(path, {"576 64": {"few": stays, "some": Choice(PLAN, 0.1, 0), "many": large}})
    found = linears_of("avx2", 2)
    assert "2 of 3 timed" in str(found) and "576 64, some rows: direct 8 rows" in str(found)
    assert found.as_json()["shapes"]["576 64"]["some"]["plan"]["direct_rows"] == 8
    assert choice_words(stays) == "default (within the noise)"


def test_nothing_timed_and_tuning_off_are_said(monkeypatch):
    assert "first start times them" in str(linears_of("avx2", 2))
    monkeypatch.setenv("SLIPSTREAM_TUNE", "0")
    assert "SLIPSTREAM_TUNE is 0" in str(linears_of("avx2", 2))


def test_the_forms_of_pruned_matrices_are_said():
    taken = {"plan": "2:4", "gain": 0.3, "noise": 0.01, "note": ""}
    left = {"plan": None, "gain": 0.1, "noise": 0.2, "note": "within the noise"}
    write_choices(sparse_path("avx2", 2), {"64 int8/32 float16, 2:4": taken, "64 int4/32 x": left})
    found = linears_of("avx2", 2)
    assert "pruned 64 int8/32 float16, 2:4: 2:4 (−30%)" in str(found)
    assert "pruned 64 int4/32 x: dense (within the noise)" in str(found)
    assert found.as_json()["sparse"]["64 int8/32 float16, 2:4"]["gain"] == 0.3
