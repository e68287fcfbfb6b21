"""What inspect says of packed weights."""

from types import SimpleNamespace

import numpy as np
import pytest

from slipstream.backends.packed_cache import default_cache
from slipstream.backends.packed_file import PackedWeight
from slipstream.cli import inspect_packed
from slipstream.cli.inspect_packed import packed_of
from slipstream.formats.tensor import DenseTensor

NAMES = ("a",)


def model(identity="content"):
    graph = SimpleNamespace(weight_names=lambda: NAMES)
    return SimpleNamespace(quick_identity=lambda: identity, graph=graph)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIPSTREAM_CACHE", str(tmp_path))
    monkeypatch.delenv("SLIPSTREAM_PACKED_MB", raising=False)
    monkeypatch.setattr(inspect_packed, "packed_path", lambda identity, names: tmp_path / "x")
    return tmp_path


def keep(folder):
    cache = default_cache()
    assert cache is not None
    values = np.arange(9000, dtype=np.float32)
    cache.store("x", [PackedWeight("a", DenseTensor(values), None, values)])
    cache.path("x").rename(folder / "x")


def test_weights_not_kept_yet_say_where_they_would_be(cache):
    found = packed_of(model())
    assert found.state == "absent" and str(cache / "x") in str(found)


def test_kept_weights_say_their_size(cache):
    keep(cache)
    found = packed_of(model())
    assert found.state == "kept"
    assert found.size_bytes == (cache / "x").stat().st_size


def test_damage_in_the_middle_is_found(cache):
    keep(cache)
    with open(cache / "x", "r+b") as file:
        file.seek(4096 * 5)
        file.write(b"?")
    assert packed_of(model()).state == "damaged"


def test_a_cache_that_is_off_is_said_so(monkeypatch):
    assert packed_of(model(identity=None)).state == "off"
    monkeypatch.setattr(inspect_packed, "packed_path", lambda identity, names: None)
    assert "SLIPSTREAM_PACKED_MB" in str(packed_of(model()))
