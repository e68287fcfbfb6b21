"""AutoRound on one model: run by `peers.py` with the interpreter of its own environment.

    python worker_auto_round.py ORDER.json

ORDER holds the folder of the model, the chunks (int32 .npy) and where to write. Its defaults (200
steps, block by block; 50 where the order says `light`), int4, symmetric, groups of 64; the answer,
seconds (of the clock and of the processor) and peak memory, is the last line of stdout. Weights are
written as they round, in float32: what is compared is their values.
"""

import json
import sys
import time

import numpy as np
import torch
from auto_round import AutoRound
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """One run, written as a folder."""
    with open(sys.argv[1], encoding="utf-8") as file:
        order = json.load(file)
    torch.set_num_threads(order["threads"])
    model = AutoModelForCausalLM.from_pretrained(order["model"], dtype=torch.float32)
    chunks = torch.from_numpy(np.load(order["chunks"]).astype(np.int64))
    samples = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in chunks]
    uneven = {
        name: {"bits": 16}
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.in_features % 64
    }
    light = {"iters": 50, "lr": 5e-3} if order["light"] else {}
    began, worked = time.perf_counter(), time.process_time()
    rounding = AutoRound(
        model,
        AutoTokenizer.from_pretrained(order["model"]),
        bits=4,
        group_size=64,
        sym=True,
        dataset=DataLoader(samples, batch_size=1),
        seqlen=chunks.shape[1],
        nsamples=len(chunks),
        layer_config=uneven,
        device_map="cpu",
        amp=False,
        **light,
        enable_torch_compile=False,  # or it compiles each block for minutes before its first step
    )
    rounding.quantize()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
    rounding.save_quantized(order["out"], format="fake")
    with open("/proc/self/status", encoding="utf-8") as status:  # ru_maxrss begins at the parent's
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    told = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
