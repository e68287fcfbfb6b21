"""Formats by sensitivity under a size: the integer program, the probes, and the pass as a whole."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.backends.batch import single
from slipstream.compress.allocation import allocate
from slipstream.compress.chain import read_chain
from slipstream.compress.passes.mixed import Mixed, bytes_of, file_bytes, fitted, parse_entry
from slipstream.compress.passes.rtn import round_to_nearest
from slipstream.compress.passes.sensitivity import probe_all
from slipstream.compress.store import overlay
from slipstream.compress.work import Edition
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor

sys.path.insert(0, str(Path(__file__).parent))
import tiny_llama


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 4), formats=st.integers(2, 3))
def test_allocation_finds_what_trying_everything_finds(seed: int, count: int, formats: int) -> None:
    random = np.random.default_rng(seed)
    costs = random.uniform(0.01, 1, (count, formats))
    sizes = random.uniform(10, 100, (count, formats))
    budget = float(sizes.min(axis=1).sum() * random.uniform(1, 2))
    chosen = allocate(costs, sizes, budget)
    rows = np.arange(count)
    assert sizes[rows, chosen].sum() <= budget * (1 + 1e-6)
    every = itertools.product(range(formats), repeat=count)
    within = budget * (1 - 1e-4)  # sizes are rounded up to steps
    fitting = [list(one) for one in every if sizes[rows, list(one)].sum() <= within]
    best = min((costs[rows, one].sum() for one in fitting), default=np.inf)
    assert costs[rows, chosen].sum() <= best * (1 + 1e-3)


def test_a_size_that_no_format_meets_is_refused_with_the_least_that_would_do() -> None:
    with pytest.raises(UnsupportedError, match=r"3\.0 MB"):
        allocate(np.ones((1, 2)), np.array([[3e6, 4e6]]), 2e6)


@pytest.mark.parametrize("entry, twice", [("8 g32", True), ("8 row", True), ("6 g32", False)])
def test_the_scales_of_a_tied_table_of_eight_bits_are_in_the_file_twice(
    entry: str, twice: bool
) -> None:
    format = fitted(parse_entry(entry), 64)
    alone = bytes_of((48, 64), format, frozenset({"embedding"}))
    scales = 48 * 2 * (64 // (format.group or 64))
    tied = bytes_of((48, 64), format, frozenset({"embedding", "head"}))
    assert tied == alone + (scales if twice else 0)


def test_a_probe_is_the_kl_of_the_model_with_that_matrix_rounded(tmp_path: Path) -> None:
    start = tiny_llama.edition()
    name = "model.layers.1.mlp.down_proj.weight"
    found = probe_all(start, tiny_llama.drive(tmp_path), {name: Affine(4, 32)})
    weight = np.array(start.weights[name].dequantize(), np.float32)
    rounded = {name: DenseTensor(round_to_nearest(weight, Affine(4, 32)).dequantize())}
    drive = tiny_llama.drive(tmp_path)
    assert drive.chunks is not None
    ids = drive.chunks[0]
    logs = []
    for weights in (start.weights, overlay(start.weights, rounded)):
        program = tiny_llama.compile_plain(start.graph, weights)
        logits = program.step(single(ids, all_logits=True), program.new_kv(1)).astype(np.float64)
        logits = logits[len(ids) // 4 :]
        logs.append(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
    slow = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1).mean()
    assert found[name] == pytest.approx(slow, rel=1e-2)


def size_of(edition: Edition) -> int:
    return sum(file_bytes(edition.weights[name]) for name in edition.graph.weight_names())


def test_the_pass_meets_its_size_and_gives_sensitive_matrices_more(tmp_path: Path) -> None:
    start = tiny_llama.edition()
    loud = "model.layers.0.self_attn.v_proj.weight"
    weights = dict(start.weights)
    weights[loud] = DenseTensor(np.array(weights[loud].dequantize(), np.float32) * 8)
    start = Edition(start.config, start.graph, weights)
    size_mb = 0.15
    one = Mixed(size_mb=size_mb, menu=("3 g32", "4 g32", "6 g32", "8 row"))
    after = one.run(start, tiny_llama.drive(tmp_path / "run"))
    assert size_of(after) <= size_mb * 1e6
    formats = {n: t.format for n, t in after.weights.items() if isinstance(t, AffineTensor)}
    assert len(formats) == 22 and len({f.bits for f in formats.values()}) > 1
    assert formats[loud].bits > np.median([f.bits for f in formats.values()])
    again = one.run(start, tiny_llama.drive(tmp_path / "run"))  # as after a kill: equal bits
    assert all(np.array_equal(again.weights[n].codes, after.weights[n].codes) for n in formats)  # type: ignore[attr-defined]
    assert one.outline(start).rounded == formats.keys()


def test_what_was_rounded_before_counts_and_stays(tmp_path: Path) -> None:
    chain = read_chain(
        "[[pass]]\nmethod='rtn'\nselect=['embedding','head']\nbits=8\ngroup='row'\n"
        "[[pass]]\nmethod='mixed'\nsize_mb=0.14\n"
    )
    edition = tiny_llama.edition()
    for number, one in enumerate(chain.passes):
        edition = one.run(edition, tiny_llama.drive(tmp_path / str(number)))
    head = edition.weights["model.embed_tokens.weight"]
    assert isinstance(head, AffineTensor) and head.format == Affine(8, None)
    assert size_of(edition) <= 0.14e6


def test_the_menu_is_read_strictly() -> None:
    assert parse_entry("5 g64") == Affine(5, 64) and parse_entry("8 row") == Affine(8, None)
    assert fitted(Affine(4, 128), 576) == Affine(4, 96)
    for wrong in ("5", "7 g32", "4 g33", "4 32", "row 8"):
        with pytest.raises(UnsupportedError, match="as 4 g32"):
            Mixed(size_mb=1, menu=(wrong,))
