"""llm-compressor on one method: run by `peers.py` with the interpreter of its own environment.

    python worker_llm_compressor.py ORDER.json

ORDER holds the folder of the model, the chunks (int32 .npy), the method and where to write. The
answer, seconds (of the clock and of the processor) and peak memory, is the last line of stdout.
"""

import json
import sys
import time

import numpy as np
import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQMapping, AWQModifier
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModelForCausalLM


class Chunks(Dataset):
    """Token ids as a model wants them."""

    def __init__(self, path: str) -> None:
        self.ids = torch.from_numpy(np.load(path).astype(np.int64))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[index], "attention_mask": torch.ones_like(self.ids[index])}


def recipe_of(method: str, model: torch.nn.Module) -> list:
    """The modifiers of one method; quantized: int4, symmetric, groups of 64, linears of blocks.

    Linears whose inputs are no whole number of groups stay as they are, as they do on our side.
    """
    uneven = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.in_features % 64
    ]
    ignored = ["lm_head", *uneven]
    weights = {
        "num_bits": 4,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": 64,
    }
    scheme = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}
    half = {"sparsity": 0.5, "mask_structure": "0:0", "ignore": ["re:.*lm_head"]}
    plain = QuantizationModifier(ignore=ignored, **scheme)
    match method:
        case "rtn":
            return [plain]
        case "gptq":
            return [GPTQModifier(ignore=ignored, **scheme)]
        case "awq":
            return [AWQModifier(mappings=scaled(uneven)), plain]
        case "sparsegpt":
            return [SparseGPTModifier(**half)]
        case "wanda":
            return [WandaPruningModifier(**half)]
    raise SystemExit(f"no method {method}")


def scaled(uneven: list[str]) -> list[AWQMapping]:
    """Its mappings for Llama, less that of a `down` which stays as it is.

    0.14.0.1 divides by zero where all linears behind a mapping are left out.
    """
    attention = ["re:.*q_proj$", "re:.*k_proj$", "re:.*v_proj$"]
    mappings = [
        AWQMapping("re:.*input_layernorm$", attention),
        AWQMapping("re:.*v_proj$", ["re:.*o_proj$"]),
        AWQMapping("re:.*post_attention_layernorm$", ["re:.*gate_proj$", "re:.*up_proj$"]),
    ]
    if not any(name.endswith("down_proj") for name in uneven):
        mappings.append(AWQMapping("re:.*up_proj$", ["re:.*down_proj$"]))
    return mappings


def main() -> None:
    """One method, written as a folder."""
    with open(sys.argv[1], encoding="utf-8") as file:
        order = json.load(file)
    torch.set_num_threads(order["threads"])
    torch.Tensor.pin_memory = lambda self: self  # AWQ's cache pins, which fails without accelerator
    dtype = getattr(torch, order["dtype"])
    model = AutoModelForCausalLM.from_pretrained(order["model"], dtype=dtype)
    recipe, loader = recipe_of(order["method"], model), DataLoader(Chunks(order["chunks"]))
    calibrated = order["method"] != "rtn"
    how = {"dataset": loader, "pipeline": "sequential"} if calibrated else {"pipeline": "datafree"}
    began, worked = time.perf_counter(), time.process_time()
    oneshot(model=model, recipe=recipe, **how)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
    model.save_pretrained(order["out"])
    with open("/proc/self/status", encoding="utf-8") as status:  # ru_maxrss begins at the parent's
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    told = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
