"""A recipe says how keys and values are stored, and whoever opens the model stores them so."""

import sys
from pathlib import Path

import numpy as np
import pytest

from slipstream.backends.batch import single
from slipstream.backends.native import NativeOptions, compile_native
from slipstream.compress.chain import read_chain
from slipstream.compress.passes.kv_cache import KVCache
from slipstream.engine.options import EngineOptions, resolve
from slipstream.errors import FileFormatError, UnsupportedError
from slipstream.machine import machine
from slipstream.models.registry import graph_of

sys.path.insert(0, str(Path(__file__).parent))
import tiny_llama


def test_the_format_goes_with_the_config_and_changes_no_weight(tmp_path: Path) -> None:
    edition = tiny_llama.edition()
    after = KVCache(format="int4").run(edition, tiny_llama.drive(tmp_path))
    assert after.weights is edition.weights
    assert graph_of(after.config).kv == "int4"
    assert KVCache(format="int4").outline(edition).graph == after.graph
    assert resolve(EngineOptions(), after.graph, machine()).kv_dtype == "int4"
    assert resolve(EngineOptions(kv_dtype="int8"), after.graph, machine()).kv_dtype == "int8"


def test_it_stays_when_later_passes_build_the_graph_anew(tmp_path: Path) -> None:
    chain = read_chain(
        "[[pass]]\nmethod='kv_cache'\nformat='k8v4'\n[[pass]]\nmethod='low_rank'\nmultiple=4\n"
    )
    edition = tiny_llama.edition()
    for one in chain.passes:
        edition = one.run(edition, tiny_llama.drive(tmp_path))
    assert edition.graph.kv == "k8v4" and "low_rank" in edition.config["slipstream"]


def test_rounded_pages_are_near_and_smaller(tmp_path: Path) -> None:
    edition = tiny_llama.edition(hidden_size=128)
    ids = np.arange(60, dtype=np.int32)
    sizes, logits = {}, {}
    for kv in ("bfloat16", "int8", "k8v4", "int4"):
        after = KVCache(format=kv).run(edition, tiny_llama.drive(tmp_path))
        program = compile_native(after.graph, after.weights, NativeOptions(1))
        pages = program.new_kv(1)
        sizes[kv], logits[kv] = pages.size_bytes, program.step(single(ids), pages)
    off = [np.abs(logits[kv] - logits["bfloat16"]).mean() for kv in logits]
    assert sizes["bfloat16"] > sizes["int8"] > sizes["k8v4"] > sizes["int4"]
    assert 0 == off[0] < off[1] < min(off[2:]) and max(off) < np.abs(logits["bfloat16"]).mean()


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="format is one of"):
        read_chain("[[pass]]\nmethod='kv_cache'\nformat='int3'\n")
    config = {**tiny_llama.edition().config, "slipstream": {"kv": "int3"}}
    with pytest.raises(FileFormatError, match="kv is one of"):
        graph_of(config)
