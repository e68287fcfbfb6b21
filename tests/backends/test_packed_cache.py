"""The folder of packed weights: bounded, whole under concurrent writers, never in the way."""

import multiprocessing
import os

import numpy as np
import pytest

from slipstream.backends.packed_cache import PackedCache, default_cache, packed_key
from slipstream.backends.packed_file import PackedWeight
from slipstream.errors import MachineError
from slipstream.formats.tensor import DenseTensor

SIZE = 1 << 16


def weights(value=1):
    panels = np.full(SIZE, value, np.uint8)
    outline = DenseTensor(np.zeros((16, 1024), np.float32))
    return [PackedWeight("a", outline, (16, 1024, "f32", 0, "f32", None, 0, 0), panels)]


def cache_in(folder, models=10.0):
    return PackedCache(folder / "packed", int(models * (SIZE + 2 * 4096)))


def use(cache, key, at_s):
    """As if `key` was last used then."""
    os.utime(cache.path(key), (at_s, at_s))


def test_what_is_stored_is_loaded(tmp_path):
    cache = cache_in(tmp_path)
    assert cache.load("one") is None
    assert cache.store("one", weights(7))
    found = cache.load("one")
    assert found is not None and (found[0].data == 7).all()


def test_a_damaged_file_goes_and_can_be_stored_again(tmp_path):
    cache = cache_in(tmp_path)
    cache.store("one", weights())
    cache.path("one").write_bytes(b"damaged")
    assert cache.load("one") is None
    assert not cache.path("one").exists()
    assert cache.store("one", weights())
    assert cache.load("one") is not None


def test_the_least_recently_used_goes_first(tmp_path):
    cache = cache_in(tmp_path, models=3)
    for number, key in enumerate(["one", "two", "three"]):
        cache.store(key, weights())
        use(cache, key, 1000 + number)
    cache.load("one")  # makes it the latest
    cache.store("four", weights())
    assert cache.load("two") is None
    assert all(cache.load(key) is not None for key in ("one", "three", "four"))
    assert cache.size_bytes() <= cache.limit_bytes


def test_a_mapped_model_outlives_its_eviction(tmp_path):
    cache = cache_in(tmp_path, models=1)
    cache.store("one", weights(3))
    mapped = cache.load("one")
    cache.store("two", weights())
    assert cache.load("one") is None
    assert mapped is not None and (mapped[0].data == 3).all()


def test_a_model_beyond_the_limit_is_not_stored_and_evicts_nothing(tmp_path):
    cache = cache_in(tmp_path)
    cache.store("one", weights())
    small = PackedCache(cache.folder, SIZE // 2)
    assert not small.store("two", weights())
    assert cache.load("one") is not None


def test_parts_of_processes_that_died_are_removed_and_fresh_ones_are_not(tmp_path):
    cache = cache_in(tmp_path)
    cache.folder.mkdir()
    old, fresh = cache.folder / "x.1.part", cache.folder / "y.2.part"
    old.write_bytes(b"x")
    fresh.write_bytes(b"y")
    os.utime(old, (1000, 1000))
    cache.store("one", weights())
    assert not old.exists() and fresh.exists()


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path):
    (tmp_path / "packed").write_text("a file where the folder would be")
    cache = cache_in(tmp_path)
    assert not cache.store("one", weights())
    assert cache.load("one") is None


def test_the_key_tells_content_names_and_layout_apart():
    keys = {
        packed_key("content", ["a", "b"], 1),
        packed_key("content 2", ["a", "b"], 1),
        packed_key("content", ["a"], 1),
        packed_key("content", ["b", "a"], 1),
        packed_key("content", ["a", "b"], 2),
    }
    assert len(keys) == 5


def test_the_environment_sets_the_limit_or_turns_the_cache_off(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIPSTREAM_CACHE", str(tmp_path))
    monkeypatch.setenv("SLIPSTREAM_PACKED_MB", "3")
    assert default_cache() == PackedCache(tmp_path / "packed", 3 << 20)
    monkeypatch.setenv("SLIPSTREAM_PACKED_MB", "0")
    assert default_cache() is None
    monkeypatch.setenv("SLIPSTREAM_PACKED_MB", "-1")
    with pytest.raises(MachineError, match="SLIPSTREAM_PACKED_MB"):
        default_cache()


def _store_often(folder, value, rounds):
    for _ in range(rounds):
        cache_in(folder).store("one", weights(value))


def test_two_processes_may_store_the_same_model_while_a_third_reads_it(tmp_path):
    cache = cache_in(tmp_path)
    cache.store("one", weights(1))
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_store_often, args=(tmp_path, v, 20)) for v in (1, 2)]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers) or reads == 0:
        found = cache.load("one")
        assert found is not None
        assert set(np.unique(found[0].data)) in ({1}, {2})
        reads += 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert not list(cache.folder.glob("*.part"))
