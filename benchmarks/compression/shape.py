"""Time and peak memory of compressing a 1B shape, ours and llm-compressor's, block by block.

    python benchmarks/compression/shape.py --blocks 2 --method gptq
    python benchmarks/compression/shape.py --blocks 2 --method awq --without-peer

Llama-3.2-1B's shape (hidden 2048, MLP 8192) with so many of its 16 blocks, random bfloat16
weights and random text: quality means nothing here. Blocks are alike, so seconds per block tell
those of the whole. Our weights are read through a memory map, so the peak of few blocks stands for
that of all only as far as mapped pages are given back; the table holds it against a quarter of the
whole model's bfloat16 weights plus 2 GB, and `--blocks 16` asks the question itself.
"""

import argparse
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from making import OURS, ROOT, Task, Told, make_ours, make_theirs, peer_of
from quality import keep, markdown, say

from slipstream.checkpoint.artifact import write_artifact
from slipstream.formats.tensor import DenseTensor
from slipstream.models.load import load
from slipstream.models.registry import blueprint_of

BLOCKS = 16  # of the whole model
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
    "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 64, "vocab_size": 49152, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": True, "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}  # fmt: skip


def main() -> None:
    """Both sides, the table, and the figures."""
    given = read_arguments()
    source = random_model(given.work / f"source-{given.blocks}", given.blocks, given.tokenizer)
    chunks = given.work / "calibration.npy"
    random = np.random.default_rng(1)
    ids = random.integers(0, CONFIG["vocab_size"], (given.calibration, 512))
    np.save(chunks, ids.astype(np.int32))
    rows: dict[str, Told] = {}
    for side in ("ours",) if given.without_peer else ("ours", peer_of(given.method).name):
        say(f"{given.method}: {side}")
        out = str(given.work / f"{side}-{given.method}-{given.blocks}")
        task = Task(str(source), str(chunks), given.method, out, given.threads, "bfloat16")
        rows[side] = make_ours(task) if side == "ours" else make_theirs(task, given.python)
    limit = weight_count(BLOCKS) * 2 // 4 + 2_000_000_000
    table = markdown(
        ["", "s / block", "CPU s / block", "peak MB", "limit MB"],
        [line(side, told, given.blocks, limit) for side, told in rows.items()],
    )
    print(table)
    facts = {
        "method": given.method, "blocks": given.blocks, "calibration_chunks": given.calibration,
        "threads": given.threads, "load_average": round(os.getloadavg()[1], 1),
        "date": time.strftime("%Y-%m-%d"), "limit_bytes": limit,
        "rows": {side: asdict(told) for side, told in rows.items()},
    }  # fmt: skip
    path = keep(json.loads(json.dumps(facts)), f"shape-1B-{given.method}", dated=False)
    path.with_suffix(".md").write_text(table)


def line(side: str, told: Told, blocks: int, limit: int) -> list[str]:
    """One row; the embedding's share of the time is small and counted in."""
    return [
        side,
        f"{told.seconds / blocks:.0f}",
        f"{told.cpu_seconds / blocks:.0f}",
        f"{told.peak_bytes / 1e6:.0f}",
        f"{limit / 1e6:.0f}",
    ]


def weight_count(blocks: int) -> int:
    """Of the shape with so many blocks."""
    shapes = blueprint_of({**CONFIG, "num_hidden_layers": blocks}).shapes
    return sum(int(np.prod(shape)) for shape in shapes.values())


def random_model(folder: Path, blocks: int, tokenizer: str) -> Path:
    """A folder of bfloat16 weights, made once; its tokenizer is only there to be read."""
    if folder.exists():
        return folder
    config = {**CONFIG, "num_hidden_layers": blocks}
    random = np.random.default_rng(0)

    def tensor(shape: tuple[int, ...]) -> DenseTensor:
        values = random.standard_normal(shape, np.float32) * np.float32(0.02) + (len(shape) == 1)
        return DenseTensor(values.astype(ml_dtypes.bfloat16))

    return write_artifact(
        folder,
        config=config,
        tensors={name: tensor(shape) for name, shape in blueprint_of(config).shapes.items()},
        tokenizer=load(tokenizer).tokenizer,
        chat_template=None,
        manifest={},
        activations={},
    )


def read_arguments() -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--method", default="gptq", choices=list(OURS))
    parser.add_argument("--calibration", type=int, default=4, help="chunks of 512 tokens")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tokenizer", default="smollm2:135m", help="a model that has one")
    parser.add_argument("--without-peer", action="store_true")
    parser.add_argument("--python", type=Path, help="interpreter that has llm-compressor")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "compression-shape")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    return given


if __name__ == "__main__":
    main()
