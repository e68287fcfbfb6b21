"""Data classes that compile their methods late are the ones of the standard library."""

import dataclasses
import subprocess
import sys

import pytest

from slipstream.cli.lean_dataclasses import LAST_KNOWN, compile_late

PATCHED = ("_repr_fn", "_hash_fn", "_cmp_fn", "_frozen_get_del_attr")


@pytest.fixture
def late(monkeypatch):
    """Methods are compiled late while the test runs."""
    for name in PATCHED:
        monkeypatch.setattr(dataclasses, name, getattr(dataclasses, name, None), raising=False)
    monkeypatch.delattr(dataclasses, "_compiled_late", raising=False)
    compile_late()
    yield
    if hasattr(dataclasses, "_compiled_late"):
        del dataclasses._compiled_late


def made(**how):
    @dataclasses.dataclass(**how)
    class Point:
        x: int
        y: list = dataclasses.field(default_factory=list, compare=False)

    return Point


KINDS = [{}, {"frozen": True}, {"order": True}, {"eq": False}, {"unsafe_hash": True}]


def told(kind):
    """What all methods of a kind of class say."""
    Point = made(**kind)
    a, b, c = Point(1), Point(1, [2]), Point(2)
    a.__dict__["y"].append(a)  # a repr that meets itself
    facts = [repr(a), repr(b), a == c, a != c, Point.__hash__ is None, a == 1]
    if not kind.get("eq", True):
        return facts
    facts.append(a == b)
    if Point.__hash__ is not None:
        facts.append(hash(a) == hash(b))
    if kind.get("order"):
        facts += [a < c, a <= b, a > c, a >= b]
    for change in (lambda: setattr(a, "x", 5), lambda: delattr(a, "x")):
        try:
            change()
            facts.append(repr(vars(a).get("x")))
        except dataclasses.FrozenInstanceError as error:
            facts.append(str(error))
    return [*facts, dataclasses.fields(Point)[0].name, dataclasses.replace(c, x=7) == Point(7)]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_they_behave_as_the_librarys_own(kind, request):
    expected = told(kind)
    request.getfixturevalue("late")
    assert told(kind) == expected


@pytest.mark.skipif(sys.version_info[:2] > LAST_KNOWN, reason="compiled at once there")
def test_methods_wait_for_their_first_call(late, monkeypatch):
    texts = []
    create = dataclasses._create_fn
    monkeypatch.setattr(
        dataclasses,
        "_create_fn",
        lambda name, *a, **k: (texts.append(name), create(name, *a, **k))[1],
    )
    Point = made(frozen=True)
    assert "__repr__" not in texts and "__hash__" not in texts and "__setattr__" not in texts
    assert repr(Point(1)) == repr(Point(1))
    assert texts.count("__repr__") == 1


def test_only_the_command_line_changes_the_library():
    code = "import slipstream.cli.main, dataclasses; print(hasattr(dataclasses, '_compiled_late'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False", "importing is not enough: a verb must run"
