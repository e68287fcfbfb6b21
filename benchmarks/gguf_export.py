"""Our GGUF writer against llama.cpp's own quantizer: size and KL from the same float32 model.

    python benchmarks/gguf_export.py MODEL --text TEST.txt --calibration TRAIN.txt

Both weight their errors by an importance measured on the same calibration text; llama-perplexity
judges both. Needs llama.cpp's programs (`--programs`, or where benchmarks/peers builds them).
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

from slipstream.cli.export_gguf import export_gguf
from slipstream.models.load import load
from slipstream.models.model import Model

ROOT = Path(__file__).resolve().parents[1]
BUILT = ROOT / "build" / "peers" / "llama.cpp" / "build" / "bin"
CONTEXT = 512


def run(*words: object) -> str:
    """One of llama.cpp's programs; its words."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{words[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return done.stdout + done.stderr


def divergence(options: argparse.Namespace, path: Path, base: Path) -> str:
    """Mean KL of a file from the base's logits, with its standard error."""
    for _ in range(4):  # its logger sometimes loses the last lines
        words = run(
            options.programs / "llama-perplexity", "-m", path, "-c", CONTEXT,
            "--chunks", options.chunks, "-t", options.threads,
            "--kl-divergence", "--kl-divergence-base", base,
        )  # fmt: skip
        if found := re.search(r"Mean\s+KLD:\s+([-\d.]+)\s*±\s*([\d.]+)", words):
            return f"{found[1]} ± {found[2]}"
    return "not printed"


def main() -> None:
    """Prints a table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--types", default="q8_0,q6_k,q5_k_m,q4_k_m,q4_1,q4_0")
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument("--calibration-chunks", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--programs", type=Path, default=BUILT)
    options = parser.parse_args()
    model = load(options.model)
    with tempfile.TemporaryDirectory() as name:
        compare(options, model, Path(name))


def compare(options: argparse.Namespace, model: Model, folder: Path) -> None:
    """Each type twice: ours, then llama.cpp's."""
    whole, base, matrix = folder / "f32.gguf", folder / "base.kld", folder / "imatrix.gguf"
    export_gguf(model, whole, "f32")
    threads = ("-t", options.threads)
    run(
        options.programs / "llama-perplexity", "-m", whole, "-f", options.text, "-c", CONTEXT,
        "--chunks", options.chunks, "--kl-divergence-base", base, *threads,
    )  # fmt: skip
    run(
        options.programs / "llama-imatrix", "-m", whole, "-f", options.calibration, "-o", matrix,
        "-c", CONTEXT, "--chunks", options.calibration_chunks, *threads,
    )  # fmt: skip
    tokens = options.calibration_chunks * CONTEXT
    print(f"{'type':8} {'writer':10} {'MB':>8}  mean KL")
    for kind in options.types.split(","):
        ours, theirs = folder / f"ours-{kind}.gguf", folder / f"theirs-{kind}.gguf"
        export_gguf(model, ours, kind, text=options.calibration, tokens=tokens)
        quantize = options.programs / "llama-quantize"
        run(quantize, "--imatrix", matrix, whole, theirs, kind, options.threads)
        for writer, path in (("slipstream", ours), ("llama.cpp", theirs)):
            size = path.stat().st_size / 1e6
            print(
                f"{kind:8} {writer:10} {size:8.2f}  {divergence(options, path, base)}", flush=True
            )
            path.unlink()


if __name__ == "__main__":
    main()
