"""Our recipes carried out and written, once each; `gguf.py` scores what lies there.

A run that is cut off goes on at the block where it was, and what is written is not made again
while recipe and length of the calibration text stay.
"""

import json
import resource
import shutil
import time
from pathlib import Path

from gguf_order import Order
from quality import LENGTH, say

from slipstream.checkpoint.artifact import write_artifact
from slipstream.checkpoint.prompts import PROMPTS
from slipstream.cli.compress_session import compile_exact
from slipstream.compress.carry_out import carry_out
from slipstream.compress.chain import Chain
from slipstream.compress.work import Edition, Silent
from slipstream.engine.proof import record_prompts
from slipstream.evaluate.texts import read_chunks
from slipstream.models.model import Model
from slipstream.optimize.programs import settings_of
from slipstream.optimize.write import whole_settings, whole_tensors


def made(
    order: Order, original: Model, recipe: Path, chain: Chain
) -> tuple[Path, dict[str, float]]:
    """The folder that a recipe wrote, and what that took; once for each recipe and text length.

    A run that was cut off goes on at the block where it was; its seconds are those of the last go.
    """
    folder = order.work / f"out-{recipe.stem}-{order.calibration}"
    told = folder.with_suffix(".json")
    wanted = json.loads(json.dumps(chain.to_json()))  # lists, as they are read again
    if told.exists():
        facts = json.loads(told.read_text())
        if facts.pop("recipe") == wanted:
            return folder, facts
    say(f"compressing by {recipe.name}")
    began = time.perf_counter()
    run = order.work / f"run-{recipe.stem}-{order.calibration}"
    lend_probes(order, run)
    after = compressed(order, original, chain, run)
    keep_probes(order, run)
    facts = {
        "seconds": round(time.perf_counter() - began, 1),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    write(original, after, chain, folder)
    told.write_text(json.dumps({"recipe": wanted, **facts}))
    shutil.rmtree(run)
    return folder, facts


def compressed(order: Order, original: Model, chain: Chain, run: Path) -> Edition:
    """The recipe carried out on the calibration text; `run` keeps what is finished."""
    text = order.train.read_text(encoding="utf-8")
    chunks = read_chunks(original.tokenizer, text, order.calibration * LENGTH)
    edition = Edition(original.checkpoint.config, original.graph, original.weights)
    return carry_out(chain, edition, compile_exact, chunks, run, watcher=Told())


class Told(Silent):
    """What a pass says, such as the formats that it chose."""

    def say(self, line: str) -> None:
        """To the terminal."""
        say(f"  {line}")


def lend_probes(order: Order, run: Path) -> None:
    """What `mixed` measured for an earlier recipe, whatever its size and menu."""
    known = order.work / f"probes-{order.model.stem}.json"
    if known.exists() and not run.exists():
        (run / "00-mixed").mkdir(parents=True)
        shutil.copy(known, run / "00-mixed" / "scores.json")


def keep_probes(order: Order, run: Path) -> None:
    """For the next recipe."""
    for found in run.glob("00-mixed/scores.json"):
        shutil.copy(found, order.work / f"probes-{order.model.stem}.json")


def write(model: Model, after: Edition, chain: Chain, folder: Path) -> None:
    """A whole artifact, which can be verified and served."""
    named = {name: after.weights[name] for name in after.graph.weight_names()}
    chat = model.tokenizer.chat
    write_artifact(
        folder,
        config=after.config,
        tensors=whole_tensors(named),
        tokenizer=model.tokenizer,
        chat_template=None if chat is None else chat.source,
        manifest={"recipe": chain.to_json()},
        activations=whole_settings(settings_of(after.graph, named, chain.activations)),
        proofs={PROMPTS: record_prompts},
        overwrite=True,
    )
