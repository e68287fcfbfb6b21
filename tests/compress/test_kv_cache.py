"""A recipe says how keys and values are stored, and whoever opens the model stores them so."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipstream.backends.batch import single
from slipstream.backends.native import NativeOptions, compile_native
from slipstream.backends.reference import compile_reference
from slipstream.checkpoint.artifact import write_artifact
from slipstream.checkpoint.open import open_checkpoint
from slipstream.compress.chain import read_chain
from slipstream.compress.passes.kv_cache import KVCache
from slipstream.compress.work import Edition
from slipstream.engine.options import EngineOptions, resolve
from slipstream.errors import FileFormatError, UnsupportedError
from slipstream.graph.ops import Attention
from slipstream.machine import machine
from slipstream.models.registry import blueprint_of, graph_of
from slipstream.models.weights import Weights

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


def loud(**changes: Any) -> Edition:
    """Keys with large means: a bias that the turning of slow pairs leaves in place."""
    edition = tiny_llama.edition(attention_bias=True, rope_theta=1e6, **changes)
    for name, tensor in edition.weights.items():
        if name.endswith("k_proj.bias"):
            tensor.data[:] *= 40  # type: ignore[union-attr]
    return edition


def test_centered_keys_change_no_answer_on_either_backend(tmp_path: Path) -> None:
    edition = loud()
    after = KVCache(format="int4", center=True).run(edition, tiny_llama.drive(tmp_path))
    assert np.allclose(tiny_llama.logits(after), tiny_llama.logits(edition), rtol=1e-9, atol=1e-9)
    program = compile_native(after.graph, after.weights, NativeOptions(1, kv_dtype="float32"))
    ids = np.random.default_rng(3).integers(0, 80, 20).astype(np.int32)
    found = program.step(single(ids, all_logits=True), program.new_kv(1))
    assert np.allclose(found, tiny_llama.logits(edition), rtol=1e-3, atol=1e-3)


def test_what_is_added_to_keys_is_minus_their_mean(tmp_path: Path) -> None:
    edition, drive = loud(), tiny_llama.drive(tmp_path)
    after = KVCache(format="int4", center=True).run(edition, drive)
    program = compile_reference(edition.graph, edition.weights)
    for layer, attention in enumerate(n for n in edition.graph if isinstance(n.op, Attention)):
        key = attention.inputs[1]
        rows = [program.values(single(c), program.new_kv(1), (key,))[key] for c in drive.chunks]
        shift = after.weights[f"model.layers.{layer}.self_attn.key_shift"].dequantize()
        assert np.allclose(shift, -np.concatenate(rows).mean(axis=0), rtol=1e-3, atol=1e-4)


def test_centered_keys_of_four_bits_are_nearer(tmp_path: Path) -> None:
    edition = loud(hidden_size=128)
    ids = np.random.default_rng(3).integers(0, 80, 60).astype(np.int32)
    off = []
    for center in (False, True):
        after = KVCache(format="int4", center=center).run(edition, tiny_llama.drive(tmp_path))
        rows = []
        for kv in ("float32", "int4"):
            program = compile_native(after.graph, after.weights, NativeOptions(1, kv_dtype=kv))
            rows.append(program.step(single(ids, all_logits=True), program.new_kv(1)))
        off.append(np.square(rows[1] - rows[0]).mean())
    assert off[1] < 0.7 * off[0]


def test_the_vectors_are_stored_and_read_again(tmp_path: Path) -> None:
    edition = loud()
    one = KVCache(format="int4", center=True)
    after = one.run(edition, tiny_llama.drive(tmp_path))
    assert one.outline(edition).graph == after.graph
    folder = write_artifact(
        tmp_path / "out", config=after.config, tokenizer=None, chat_template=None, manifest={},
        tensors={name: after.weights[name] for name in after.graph.weight_names()}, activations={},
    )  # fmt: skip
    stored = open_checkpoint(folder)
    again = Weights(stored, blueprint_of(stored.config).shapes)
    assert blueprint_of(stored.config).graph == after.graph
    for name in after.graph.weight_names():
        assert np.array_equal(again[name].dequantize(), after.weights[name].dequantize())


def test_capped_scores_are_not_centered(tmp_path: Path) -> None:
    edition = tiny_llama.edition(model_type="gemma2", head_dim=16, query_pre_attn_scalar=16,
                                 attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
                                 hidden_activation="gelu_pytorch_tanh", sliding_window=64)  # fmt: skip
    with pytest.raises(UnsupportedError, match="capped"):
        KVCache(center=True).outline(edition)
    config = {**edition.config, "slipstream": {"kv_centered": True}}
    with pytest.raises(FileFormatError, match="capped"):
        graph_of(config)


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="format is one of"):
        read_chain("[[pass]]\nmethod='kv_cache'\nformat='int3'\n")
    config = {**tiny_llama.edition().config, "slipstream": {"kv": "int3"}}
    with pytest.raises(FileFormatError, match="kv is one of"):
        graph_of(config)
