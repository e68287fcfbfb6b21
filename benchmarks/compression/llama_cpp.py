"""GGUF files by llama.cpp's own programs, and what its own runtime says of them.

`gguf.py` asks. Everything is made once and kept in the order's working folder.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from gguf_order import Order
from quality import say


def quantized(order: Order, kind: str) -> Path:
    """The file of one type."""
    path = order.work / f"{order.model.stem}-{kind}-{order.importance}.gguf"
    if not path.exists():
        matrix = imatrix(order)
        say(f"llama-quantize {kind}")
        command = [order.programs / "llama-quantize", "--imatrix", matrix]
        _run([*command, order.model, path.with_suffix(".part"), kind])
        path.with_suffix(".part").rename(path)
    return path


def imatrix(order: Order) -> Path:
    """llama.cpp's importance matrix over the calibration text, made once."""
    path = order.work / f"{order.model.stem}-{order.importance}.imatrix.gguf"
    if not path.exists():
        say("llama-imatrix")
        command = [order.programs / "llama-imatrix", "-m", order.model, "-f", order.train]
        _run([*command, "--chunks", str(order.importance), "-o", path, "-c", "512"])
    return path


def told_by_llama(order: Order, path: Path) -> dict[str, float]:
    """What llama-perplexity says of a file, over the same chunks; kept beside it.

    Its runtime rounds inputs to 8 bits, so its figures are larger than those of the weights alone.
    """
    kept = path.with_suffix(f".{order.chunks}.json")
    if not kept.exists():
        command = [order.programs / "llama-perplexity", "-f", order.test, "-c", "512"]
        command += ["--chunks", str(order.chunks), "--kl-divergence-base"]
        base = order.work / f"{order.model.stem}-{order.chunks}.logits"
        if not base.exists():
            say("llama-perplexity of the original")
            _run([*command, base.with_suffix(".part"), "-m", order.model])
            base.with_suffix(".part").rename(base)
        say(f"llama-perplexity of {path.name}")
        said = _run([*command, base, "-m", path, "--kl-divergence"])
        found = re.search(r"Mean\s+KLD:\s*([0-9.]+)\s*±\s*([0-9.]+)", said)
        if found is None:
            sys.exit(f"llama-perplexity told no KLD of {path.name}:\n{said[-2000:]}")
        kept.write_text(json.dumps({"llama_kl": float(found[1]), "llama_error": float(found[2])}))
    facts: dict[str, float] = json.loads(kept.read_text())
    return facts


def _run(command: list[object]) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return done.stdout
