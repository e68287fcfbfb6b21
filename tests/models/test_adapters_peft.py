"""Adapters against transformers: merged weights, and PEFT itself where it is installed."""

import numpy as np
import pytest

from slipstream.backends.batch import single
from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.backends.reference import compile_reference
from slipstream.checkpoint.peft import read_adapter
from slipstream.errors import MachineError

try:
    native_module()
except MachineError:
    pytest.skip("the native kernels were not built", allow_module_level=True)

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS = {
    "llama": LINEARS,
    "llama-tied-biased": ["q_proj", "v_proj", "down_proj"],
    "qwen2": [*LINEARS, "lm_head"],
    "gemma3": LINEARS,
    "phi3": ["qkv_proj", "gate_up_proj", "o_proj"],
    "gpt2": ["c_attn", "c_fc", "mlp.c_proj"],
}
OPTIONS = {
    "llama": {"rank_pattern": {"q_proj": 5}, "alpha_pattern": {"layers.1.mlp.up_proj": 40}},
    "gemma3": {"use_rslora": True},
    "gpt2": {"fan_in_fan_out": True},
}


def logits_of(program, ids):
    batch = single(ids, all_logits=True)
    adapters = np.zeros(1, np.int32)
    batch = type(batch)(**(vars(batch) | {"adapters": adapters}))
    return program.step(batch, program.new_kv(batch.pages.size))


def agree(ours, truth):
    assert np.abs(ours - truth).max() <= 1e-4 * np.abs(truth).max()


@pytest.mark.slow  # importing PEFT takes seconds
@pytest.mark.parametrize("name", TARGETS)
def test_adapters_compute_what_peft_computes(tiny_of, tmp_path, name):
    """Trained values in every part; saved by PEFT, read by us; and PEFT's own merging."""
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    tiny = tiny_of(name)
    config = peft.LoraConfig(
        r=4, lora_alpha=12, target_modules=TARGETS[name], task_type="CAUSAL_LM",
        **OPTIONS.get(name, {}),
    )  # fmt: skip
    torch.manual_seed(1)
    model = peft.get_peft_model(tiny.truth, config)
    try:
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_" in parameter_name:
                    parameter.copy_(torch.randn_like(parameter) * 0.2)
        model.save_pretrained(tmp_path, save_embedding_layers=False)
        ids = tiny.prompts[-1]
        with torch.no_grad():
            truth = model(torch.tensor(ids[None].astype(np.int64)), use_cache=False).logits[0]
    finally:
        model.unload()
    adapter = read_adapter(tmp_path)
    graph, weights = tiny.blueprint.graph, tiny.weights
    for program in (
        compile_reference(graph, weights),
        compile_native(graph, weights, NativeOptions(1, kv_dtype="float32")),
    ):
        plain = logits_of_plain(program, ids)
        program.load_adapter(0, adapter)
        agree(logits_of(program, ids), truth.numpy())
        agree(plain, tiny.true_logits(ids))


def logits_of_plain(program, ids):
    batch = single(ids, all_logits=True)
    return program.step(batch, program.new_kv(batch.pages.size))


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3"])
def test_adapters_compute_what_merged_weights_compute(tiny_of, tmp_path, name):
    """The same without PEFT: the truth is transformers with W + scale · B A."""
    torch = pytest.importorskip("torch")
    from slipstream.checkpoint.peft import Adapter, LowRankPair

    tiny, rng, pairs = tiny_of(name), np.random.default_rng(2), {}
    modules = {n: m for n, m in tiny.truth.named_modules() if n.endswith(tuple(LINEARS))}
    before = {n: m.weight.detach().clone() for n, m in modules.items()}
    try:
        for module_name, module in modules.items():
            rows, width = module.weight.shape
            down, up = (rng.normal(0, 0.2, s).astype(np.float32) for s in ((3, width), (rows, 3)))
            pairs[module_name] = LowRankPair(down, up, 1.5)
            with torch.no_grad():
                module.weight += 1.5 * torch.from_numpy(up @ down)
        truth = tiny.true_logits(tiny.prompts[-1])
    finally:
        for module_name, module in modules.items():
            with torch.no_grad():
                module.weight.copy_(before[module_name])
    program = compile_reference(tiny.blueprint.graph, tiny.weights)
    program.load_adapter(0, Adapter(tmp_path, pairs, "none"))
    agree(logits_of(program, tiny.prompts[-1]), truth)
