"""What `--dry-run` says a recipe needs, beside what it took: seconds and memory.

    python benchmarks/compression/predictions.py smollm2:135m --text wiki.train.raw --tokens 8192

Each recipe runs in a process of its own on a quiet machine; processor time is told as well, which
a busy one does not change much. Predictions are for all threads. Memory is anonymous (what the
process holds besides mapped files), sampled while it works, less what it held before.
"""

import argparse
import multiprocessing
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from quality import keep, print_table, say

from slipstream.cli.compress_session import compile_exact
from slipstream.compress.carry_out import carry_out
from slipstream.compress.chain import Chain, read_chain
from slipstream.compress.preview import preview
from slipstream.compress.work import Edition
from slipstream.evaluate.texts import read_chunks
from slipstream.machine import ceilings
from slipstream.models.load import load
from slipstream.optimize.programs import anonymous_bytes

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {
    "rtn int8": '[[pass]]\nmethod = "rtn"\nbits = 8\ngroup = "row"\n',
    "gptq int4": '[[pass]]\nmethod = "gptq"\nbits = 4\ngroup = 64\n',
    "awq int4": '[[pass]]\nmethod = "awq"\nbits = 4\ngroup = 64\n',
    "signround int4": '[[pass]]\nmethod = "signround"\nbits = 4\ngroup = 64\n',
    "mixed": '[[pass]]\nmethod = "mixed"\nsize_mb = {size:.1f}\n',
    "wanda": '[[pass]]\nmethod = "wanda"\nsparsity = 0.5\n',
    "sparsegpt": '[[pass]]\nmethod = "sparsegpt"\nsparsity = 0.5\n',
}
SAMPLE_S = 0.05


def main() -> None:
    """The table, and the figures."""
    given = read_arguments()
    lines, results = [], []
    for name in given.recipes:
        say(name)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(measure, (given.model, given.text, given.tokens, name))
        results.append({"recipe": name, **found})
        lines.append([name, *(f"{found[key]:.2f}" for key in FIGURES)])
        say(", ".join(f"{key} {found[key]:.2f}" for key in FIGURES))
    print_table(["", *FIGURES], lines)
    facts = {"model": given.model, "tokens": given.tokens, "rows": results}
    say(f"kept in {keep(facts, 'predictions')}")


FIGURES = ("predicted s", "took s", "processor s", "predicted GB", "held GB")


def measure(model_name: str, text: Path, tokens: int, name: str) -> dict[str, float]:
    """One recipe: predicted, then carried out."""
    model = load(model_name)
    edition = Edition(model.checkpoint.config, model.graph, model.weights)
    parameters = sum(_count(model.weights[one].shape) for one in model.graph.weight_names())
    chain = _chain(name, parameters, tokens)
    said = preview(chain, edition, ceilings())
    chunks = read_chunks(model.tokenizer, text.read_text(encoding="utf-8"), tokens)
    folder = ROOT / "build" / "predictions" / name.replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    watch = Watch()
    began, worked = time.perf_counter(), time.process_time()
    carry_out(chain, edition, compile_exact, chunks if chain.calibrated else None, folder)
    took, processor = time.perf_counter() - began, time.process_time() - worked
    held = watch.stop()
    shutil.rmtree(folder)
    figures = (said.seconds or 0.0, took, processor, said.memory_bytes / 1e9, held / 1e9)
    return dict(zip(FIGURES, figures, strict=True))


class Watch:
    """The most anonymous memory above what there was at the start."""

    def __init__(self) -> None:
        self._start = anonymous_bytes()
        self._most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Bytes."""
        self._over.set()
        self._thread.join()
        return self._most

    def _look(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self._most = max(self._most, _anonymous() - self._start)


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def _chain(name: str, parameters: int, tokens: int) -> Chain:
    chain = read_chain(RECIPES[name].format(size=parameters * 0.7 / 1e6))
    return replace(chain, calibration=replace(chain.calibration, tokens=tokens))


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def read_arguments() -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    return parser.parse_args()


if __name__ == "__main__":
    main()
