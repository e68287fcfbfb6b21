"""Adapters: equal to merged weights, the same bits in any company, and nothing for other rows."""

from dataclasses import replace

import numpy as np
import pytest
from adapter_worlds import INT4, MODELS, VOCABULARY, random_adapter, tiny_model

from slipstream.backends.adapters import sites_of
from slipstream.backends.batch import PAGE_SIZE, Batch, single
from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.backends.reference import compile_reference
from slipstream.errors import AdapterError, MachineError, UnsupportedError
from slipstream.formats.tensor import DenseTensor
from slipstream.models.weights import parse_part

try:
    ISAS = native_module().isa_available()
except MachineError:
    pytest.skip("the native kernels were not built", allow_module_level=True)

IDS = np.random.default_rng(11).integers(0, VOCABULARY, 70).astype(np.int32)


def modules_of(graph, weights):
    """{module: (out, in)} of what a file of adapters may name, heads that share left out."""
    shapes = {}
    for weight in sites_of(graph):
        part = parse_part(weight)
        module = part.stored.removesuffix(".weight")
        rows, width = weights[weight].shape
        shapes[module] = (shapes.get(module, (0, 0))[0] + rows, width)
    return {module: shape for module, shape in shapes.items() if "emb" not in module and "wte" not in module}  # fmt: skip


def merged(graph, weights, adapter):
    """The weights with scale · B A added, in float64."""
    result = dict(weights)
    for weight in sites_of(graph):
        part = parse_part(weight)
        pair = adapter.pairs.get(part.stored.removesuffix(".weight"))
        if pair is None:
            continue
        delta = pair.scale * pair.up.astype(np.float64) @ pair.down.astype(np.float64)
        rows = slice(None) if part.rows is None else slice(*part.rows)
        values = weights[weight].dequantize() + delta[rows]
        result[weight] = DenseTensor(values.astype(np.float32))
    return result


def logits_of(program, ids, slot=None):
    batch = single(ids, all_logits=True)
    if slot is not None:
        batch = replace(batch, adapters=np.array([slot], np.int32))
    return program.step(batch, program.new_kv(batch.pages.size))


def difference(ours, truth) -> float:
    return float(np.sqrt(np.mean((ours - truth) ** 2) / np.mean(truth**2)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_an_adapter_equals_merged_weights(name, dtype):
    graph, weights = tiny_model(name)
    adapter = random_adapter(modules_of(graph, weights), dtype=dtype)
    truth = logits_of(compile_reference(graph, merged(graph, weights, adapter)), IDS)
    for program in (
        compile_reference(graph, weights),
        compile_native(graph, weights, NativeOptions(2, kv_dtype="float32")),
    ):
        plain = logits_of(program, IDS)
        program.load_adapter(3, adapter)
        assert difference(logits_of(program, IDS, 3), truth) < 1e-5
        assert difference(plain, truth) > 0.05
        np.testing.assert_array_equal(logits_of(program, IDS), plain)


@pytest.mark.parametrize("rank", [1, 4, 7, 16, 33])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_ranks_and_dtypes_agree_with_the_reference(rank, dtype):
    graph, weights = tiny_model("qwen2", INT4)
    adapter = random_adapter(modules_of(graph, weights), rank=rank, dtype=dtype)
    native = compile_native(graph, weights, NativeOptions(1, activations="f32", kv_dtype="float32"))
    reference = compile_reference(graph, weights)
    for program in (native, reference):
        program.load_adapter(0, adapter)
    assert difference(logits_of(native, IDS, 0), logits_of(reference, IDS, 0)) < 1e-5
    assert native.adapter_bytes >= reference.adapter_bytes > 0


def test_rounded_inputs_meet_the_adapter_unrounded():
    """With int8 activations the adapter still reads the float input, as in the reference."""
    graph, weights = tiny_model("llama", INT4)
    adapter = random_adapter(modules_of(graph, weights))
    native = compile_native(graph, weights, NativeOptions(1, kv_dtype="float32"))
    reference = compile_reference(native.graph, weights)
    for program in (native, reference):
        program.load_adapter(0, adapter)
    assert difference(logits_of(native, IDS, 0), logits_of(reference, IDS, 0)) < 3e-3


class Company:
    """Sequences with adapters, cut into random chunks, in random company, on scattered pages."""

    def __init__(self, program, texts, slots, seed):
        self.program, self.texts, self.slots = program, texts, slots
        self.rng = np.random.default_rng(seed)
        pages = [-(-len(ids) // PAGE_SIZE) for ids in texts]
        numbers = self.rng.permutation(sum(pages)).astype(np.int32)
        self.pages = np.split(numbers, np.cumsum(pages)[:-1])
        self.kv = program.new_kv(sum(pages))
        self.done = [0] * len(texts)
        self.logits = [[] for _ in texts]

    def run(self):
        while running := [i for i, ids in enumerate(self.texts) if self.done[i] < len(ids)]:
            count = self.rng.integers(1, len(running) + 1)
            chosen = [int(i) for i in self.rng.choice(running, count, replace=False)]
            self.step([(i, int(self.rng.choice([1, 1, 3, 40, 90]))) for i in chosen])
        return [np.concatenate(parts) for parts in self.logits]

    def step(self, pieces):
        ids = [self.texts[i][self.done[i] : self.done[i] + count] for i, count in pieces]
        width = max(len(self.pages[i]) for i, _ in pieces)
        pages = np.full((len(pieces), width), -1, np.int32)
        for row, (i, _) in enumerate(pieces):
            pages[row, : len(self.pages[i])] = self.pages[i]
        starts = np.cumsum([0, *map(len, ids)]).astype(np.int32)
        batch = Batch(
            ids=np.concatenate(ids), row_starts=starts,
            lengths=np.array([self.done[i] for i, _ in pieces], np.int32), pages=pages,
            logit_rows=np.arange(starts[-1], dtype=np.int32),
            adapters=np.array([self.slots[i] for i, _ in pieces], np.int32),
        )  # fmt: skip
        logits = self.program.step(batch, self.kv)
        for (i, _), rows in zip(pieces, np.split(logits, starts[1:-1]), strict=True):
            self.logits[i].append(rows)
            self.done[i] += len(rows)


def adapted_program(name="llama", affine=INT4, **options):
    """A program with three adapters: of everything, of queries and values, of the MLP."""
    graph, weights = tiny_model(name, affine)
    program = compile_native(graph, weights, NativeOptions(**{"threads": 2, **options}))
    shapes = modules_of(graph, weights)
    program.load_adapter(0, random_adapter(shapes, 1, rank=16, dtype="bfloat16"))
    attention = lambda module: module.endswith(("q_proj", "v_proj", "qkv_proj", "c_attn"))  # noqa: E731
    program.load_adapter(1, random_adapter(shapes, 2, rank=3, choose=attention))
    program.load_adapter(5, random_adapter(shapes, 3, rank=8, choose=lambda m: "mlp" in m))
    return program


def texts(seed, *lengths):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCABULARY, length).astype(np.int32) for length in lengths]


SLOTS = [0, -1, 1, 5, 0, -1]


@pytest.mark.parametrize("activations", ["auto", "f32"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3_text"])
def test_company_changes_no_bit(name, activations):
    program = adapted_program(name, activations=activations)
    prompts = texts(4, 1, 65, 130, 70, 30, 200)
    mixed = Company(program, prompts, SLOTS, seed=5).run()
    for ids, slot, together in zip(prompts, SLOTS, mixed, strict=True):
        np.testing.assert_array_equal(together, logits_of(program, ids, slot))


@pytest.mark.parametrize("activations", ["auto", "f32"])
@pytest.mark.parametrize("affine", [INT4, None], ids=["int4", "dense"])
def test_rows_without_an_adapter_keep_their_bits(affine, activations):
    program = adapted_program(affine=affine, activations=activations)
    graph, weights = tiny_model("llama", affine)
    plain = compile_native(graph, weights, NativeOptions(2, activations=activations))
    prompts = texts(6, 40, 65, 1, 70, 30, 20)
    mixed = Company(program, prompts, SLOTS, seed=7).run()
    for ids, slot, together in zip(prompts, SLOTS, mixed, strict=True):
        assert np.array_equal(together, logits_of(plain, ids)) == (slot == -1)


@pytest.mark.parametrize("activations", ["auto", "f32"])
def test_neither_threads_nor_instruction_sets_show(activations):
    prompts = texts(8, 33, 20, 50, 10, 64, 7)
    choices = [{"threads": n} for n in (1, 2, 3)] + [{"isa": isa} for isa in ISAS]
    programs = [adapted_program(activations=activations, **choice) for choice in choices]
    first, *others = [Company(program, prompts, SLOTS, seed=9).run() for program in programs]
    for other in others:
        for ours, theirs in zip(first, other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_slot_is_taken_emptied_and_filled_again():
    graph, weights = tiny_model("llama")
    shapes = modules_of(graph, weights)
    for program in (compile_native(graph, weights), compile_reference(graph, weights)):
        first, second = random_adapter(shapes, 1), random_adapter(shapes, 2, rank=40)
        program.load_adapter(2, first)
        before = logits_of(program, IDS, 2)
        with pytest.raises(ValueError, match="taken"):
            program.load_adapter(2, second)
        program.unload_adapter(2)
        assert program.adapter_bytes == 0
        with pytest.raises(ValueError, match="empty"):
            logits_of(program, IDS, 2)
        with pytest.raises(ValueError, match="empty"):
            program.unload_adapter(2)
        program.load_adapter(2, second)
        assert difference(logits_of(program, IDS, 2), before) > 0.01
        program.load_adapter(0, first)
        np.testing.assert_array_equal(logits_of(program, IDS, 0), before)


@pytest.mark.parametrize("slot", [-2, 1, 1024, 2**31 - 1, -(2**31)])
def test_batches_name_only_what_is_loaded(slot):
    graph, weights = tiny_model("llama")
    for program in (compile_native(graph, weights), compile_reference(graph, weights)):
        program.load_adapter(0, random_adapter(modules_of(graph, weights)))
        with pytest.raises(ValueError, match="slot"):
            logits_of(program, IDS, slot)
        with pytest.raises(ValueError, match="adapters must have"):
            batch = replace(single(IDS), adapters=np.array([0, 0], np.int32))
            program.step(batch, program.new_kv(2))
        if slot != 1:
            with pytest.raises(ValueError, match="slot"):
                program.load_adapter(slot, random_adapter({}))


def test_what_does_not_fit_is_refused_by_name():
    graph, weights = tiny_model("llama")
    q = "model.layers.0.self_attn.q_proj"
    unknown = random_adapter({"model.layers.9.self_attn.q_proj": (80, 64)})
    narrow, short = random_adapter({q: (80, 63)}), random_adapter({q: (79, 64)})
    for program in (compile_native(graph, weights), compile_reference(graph, weights)):
        with pytest.raises(UnsupportedError, match="layers.9"):
            program.load_adapter(0, unknown)
        for wrong in (narrow, short):
            with pytest.raises(AdapterError, match=q):
                program.load_adapter(0, wrong)
        program.load_adapter(0, random_adapter({q: (80, 64)}))  # nothing was left behind


def test_a_head_that_shares_the_embedding_is_adapted_alone():
    graph, weights = tiny_model("qwen2")
    adapter = random_adapter({"lm_head": (VOCABULARY, 64)})
    native, reference = compile_native(graph, weights), compile_reference(graph, weights)
    pair = adapter.pairs["lm_head"]
    hidden = reference.capture(single(IDS, all_logits=True), reference.new_kv(2), ("model.embed_tokens.weight",))  # fmt: skip
    rows = hidden["model.embed_tokens.weight"]
    expected = logits_of(reference, IDS) + pair.scale * rows @ pair.down.T @ pair.up.T
    for program in (native, reference):
        program.load_adapter(0, adapter)
        assert difference(logits_of(program, IDS, 0), expected) < 5e-3


@pytest.mark.parametrize("prefix", ["", "model.language_model."])
def test_modules_are_found_under_their_other_names(prefix):
    graph, weights = tiny_model("llama")
    shapes = modules_of(graph, weights)
    renamed = {
        (module.replace("model.", prefix, 1) if prefix and module.startswith("model.") else module): shape
        for module, shape in shapes.items()
    }  # fmt: skip
    program = compile_reference(graph, weights)
    program.load_adapter(0, random_adapter(renamed))
    assert len(program.adapters[0]) == len(shapes)
