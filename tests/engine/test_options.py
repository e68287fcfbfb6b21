"""Options become complete settings, or are refused in words."""

import pytest

from slipstream.backends.batch import PAGE_SIZE
from slipstream.engine.options import EngineOptions, kv_bytes, kv_bytes_per_position, resolve
from slipstream.errors import MachineError, UnsupportedError
from slipstream.graph.graph import Builder, Graph
from slipstream.graph.ops import Attention
from slipstream.machine import Machine

GIB = 2**30


def graph(layers=2, context=1024, windows=(None,)):
    build = Builder()
    for layer in range(layers):
        window = windows[layer % len(windows)]
        attention = Attention(layer, 4, 2, head_dim=64, scale=0.125, window=window)
        build.add(f"attention.{layer}", attention, "ids", "ids", "ids")
    return Graph("test", tuple(build.nodes), 256, 100, context)


def machine(memory_bytes=8 * GIB):
    return Machine("test", ("portable",), 2, memory_bytes, 1, ())


def test_kv_bytes_count_every_layer():
    assert kv_bytes_per_position(graph(), "bfloat16") == 2 * 2 * 2 * 64 * 2
    assert kv_bytes_per_position(graph(), "float32") == 2 * 2 * 2 * 64 * 4


def test_memory_given_lets_every_request_fill_its_context():
    options = EngineOptions(max_batch=4, kv_memory_bytes=GIB)
    assert resolve(options, graph(context=4096), machine()).page_counts == (4 * 64,)


def test_otherwise_one_may_fill_it_and_the_others_are_typical():
    chosen = resolve(EngineOptions(max_batch=4), graph(context=4096), machine())
    assert chosen.context == 4096 and chosen.page_counts == (64 + 3 * 16,)
    assert chosen.limits.max_batch == 4 and chosen.limits.token_budget == 256


def test_pages_are_limited_by_memory():
    chosen = resolve(EngineOptions(kv_memory_bytes=20 * 64 * 1024), graph(), machine())
    assert chosen.page_counts == (20,) and chosen.context == 1024


def test_a_context_nobody_asked_for_shrinks_to_the_memory():
    chosen = resolve(EngineOptions(kv_memory_bytes=4 * 64 * 1024), graph(), machine())
    assert chosen.page_counts == (4,) and chosen.context == 256


def test_a_context_that_was_asked_for_does_not():
    options = EngineOptions(kv_memory_bytes=4 * 64 * 1024, context=1024)
    with pytest.raises(MachineError, match="1024 positions need 1 MB"):
        resolve(options, graph(), machine())


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(max_batch=0),
        EngineOptions(max_batch=8, token_budget=4),
        EngineOptions(context=2048),
        EngineOptions(context=1),
        EngineOptions(threads=0),
        EngineOptions(kv_memory_bytes=0),
        EngineOptions(batching="sometimes"),
        EngineOptions(batching="dynamic", max_wait_s=-1),
        EngineOptions(batching="dynamic", max_wait_s=float("inf")),
    ],
)
def test_out_of_range_is_refused(options):
    with pytest.raises(UnsupportedError):
        resolve(options, graph(), machine())


def test_a_large_batch_gets_a_budget_that_holds_it():
    assert resolve(EngineOptions(max_batch=512), graph(), machine()).limits.token_budget == 512


def test_windows_need_fewer_pages():
    options = EngineOptions(max_batch=1, token_budget=64)
    chosen = resolve(options, graph(context=4096, windows=(64, 128)), machine())
    assert chosen.limits.windows == (64, 128) and chosen.page_counts == (3, 4)


def test_only_layers_that_see_all_keep_all_pages():
    options = EngineOptions(max_batch=2, token_budget=64)
    chosen = resolve(options, graph(6, context=4096, windows=(64, None, 64)), machine())
    assert chosen.limits.windows == (64, None) and chosen.page_counts == (6, 64 + 16)
    assert kv_bytes(graph(6, windows=(64, None, 64)), chosen) == (6 * 4 + 80 * 2) * 64 * 512


def test_kinds_share_the_memory_as_they_need_it():
    page = 64 * 512  # of one layer
    mixed = graph(2, context=4096, windows=(64, None))
    options = EngineOptions(max_batch=4, token_budget=64, kv_memory_bytes=67 * page)
    assert resolve(options, mixed, machine()).page_counts == (3, 64)  # one of full length
    options = EngineOptions(max_batch=4, token_budget=64, kv_memory_bytes=134 * page)
    assert resolve(options, mixed, machine()).page_counts == (12, 122)  # typical ones beside it
    options = EngineOptions(max_batch=4, token_budget=64, kv_memory_bytes=66 * page)
    chosen = resolve(options, mixed, machine())
    assert chosen.context == 63 * 64 and chosen.page_counts == (3, 63)


def test_short_memory_goes_to_a_typical_batch_before_long_ones():
    """Else a window's pages would be the few that full contexts need beside everything else."""
    mixed = graph(context=32768, windows=(512, None))
    page_bytes = kv_bytes_per_position(mixed, "bfloat16") * PAGE_SIZE // 2
    for memory in (560, 700, 900):
        options = EngineOptions(kv_memory_bytes=memory * page_bytes, max_batch=32, context=32768)
        chosen = resolve(options, mixed, machine())
        windowed, whole = chosen.page_counts
        assert kv_bytes(mixed, chosen) <= memory * page_bytes
        assert whole >= 512 and windowed >= 13
        spare = memory - 512 - 13  # pages of either kind cost the same here
        assert min((windowed - 13) / 12, (whole - 512) / 16) >= (spare / 28) - 1
    plenty = EngineOptions(kv_memory_bytes=32 * 600 * page_bytes, max_batch=32, context=32768)
    assert resolve(plenty, mixed, machine()).page_counts == (32 * 13, 32 * 512)


def test_modes_are_passed_on():
    options = EngineOptions(batching="dynamic", max_wait_s=0.5, prefix_cache=False)
    chosen = resolve(options, graph(), machine())
    assert (chosen.limits.batching, chosen.limits.max_wait_s) == ("dynamic", 0.5)
    assert not chosen.prefix_cache
