"""`slipstream distill`: a smaller student learns from the model, with the proof."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from slipstream.cli.compress_options import (
    AsJson,
    DryRun,
    Force,
    Fresh,
    Limits,
    Memory,
    ModelName,
    Out,
    Overwrite,
    Recipe,
    Text,
    Tokens,
)
from slipstream.cli.compress_order import known_choice, parse_memory, quantizing_passes, read_recipe
from slipstream.cli.compress_session import Order, run_compression
from slipstream.compress.chain import Chain, parse_chain
from slipstream.errors import SourceError, UnsupportedError
from slipstream.optimize.limits import parse_limit

_DIVERGENCES = {"forward": "forward", "reverse": "reverse", "js": "jensen_shannon"}


def command(  # noqa: PLR0917  each argument is an option of the command line
    model: ModelName,
    out: Out = None,
    blocks: Annotated[
        int, typer.Option(min=0, help="Student: the model without its N least needed blocks.")
    ] = 0,
    every: Annotated[int, typer.Option(min=0, help="Student: every N-th block.")] = 0,
    config: Annotated[
        Path | None,
        typer.Option(help="Student: a new model; JSON with the fields of config.json to change."),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Another model to learn from; the model is the student.")
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Take the --blocks out over so many rounds, healing each.")
    ] = 1,
    train_tokens: Annotated[
        int, typer.Option(min=2, help="Tokens to train on in each round, epochs included.")
    ] = 100_000,
    corpus_tokens: Annotated[
        int, typer.Option(min=2, help="Tokens of text to take for it; fewer mean epochs.")
    ] = 65_536,
    divergence: Annotated[str, typer.Option(help="forward, reverse or js.")] = "forward",
    temperature: Annotated[float, typer.Option(help="Of the soft targets.")] = 1.0,
    labels: Annotated[float, typer.Option(help="Weight of the text itself.")] = 0.0,
    hidden: Annotated[float, typer.Option(help="Weight of rows between blocks.")] = 0.0,
    relations: Annotated[float, typer.Option(help="Weight of attention relations.")] = 0.0,
    top_k: Annotated[
        int, typer.Option(min=0, help="Keep so many tokens of the teacher on disk. 0: run it.")
    ] = 0,
    rate: Annotated[float, typer.Option(help="Peak of the learning rate.")] = 1e-4,
    batch: Annotated[int, typer.Option(help="Tokens in each update.")] = 2048,
    lora: Annotated[
        int, typer.Option(min=0, help="Train changes of this rank only. 0: everything.")
    ] = 0,
    checkpointing: Annotated[bool, typer.Option(help="Less memory, a third more work.")] = False,
    bits: Annotated[
        int, typer.Option(help="Quantize the student by GPTQ: 8, 4, 3 or 2. 0: leave it.")
    ] = 0,
    group: Annotated[str, typer.Option(help="Of --bits: 32, 64, 128 … or row.")] = "32",
    log: Annotated[Path | None, typer.Option(help="Folder for TensorBoard's log.")] = None,
    recipe: Recipe = None,
    text: Text = None,
    limit: Limits = None,
    tokens: Tokens = 4096,
    memory: Memory = None,
    dry_run: DryRun = False,
    force: Force = False,
    overwrite: Overwrite = False,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Make a student of a model, teach it, measure it against the original, and write both.

    Example: slipstream distill smollm2:135m --blocks 3 --text wiki.txt -o out/student

    Needs torch (pip install slipstream[train]). A run that is killed goes on where it was.
    """
    learning = {
        "method": "distill",
        "tokens": train_tokens,
        "divergence": known_choice("--divergence", divergence, _DIVERGENCES),
        "temperature": temperature,
        "labels": labels,
        "hidden": hidden,
        "relations": relations,
        "top_k": top_k,
        "rate": rate,
        "batch": batch,
        "checkpointing": checkpointing,
        **({"train": "lora", "rank": lora} if lora else {}),
    }
    after = quantizing_passes("gptq", bits, group) if bits else []
    if recipe is not None:
        chain = read_recipe(recipe)
    else:
        student = _student(blocks, every, config, rounds, learning)
        chain = _chain([*student, *after], corpus_tokens)
    run_compression(
        Order(
            model=model,
            out=out,
            chain=chain,
            limits=tuple(parse_limit(text) for text in limit or []),
            text=text,
            tokens=tokens,
            memory_bytes=parse_memory(memory),
            dry_run=dry_run,
            force=force,
            overwrite=overwrite,
            fresh=fresh,
            as_json=as_json,
            teacher=teacher,
            log=log,
        )
    )


def _chain(passes: list[dict[str, Any]], corpus_tokens: int) -> Chain:
    return parse_chain({"training": {"tokens": corpus_tokens}, "pass": passes})


def _student(
    blocks: int, every: int, config: Path | None, rounds: int, learning: dict[str, Any]
) -> list[dict[str, Any]]:
    """The passes that make the student and teach it; UnsupportedError for two students at once."""
    if (blocks > 0) + (every > 0) + (config is not None) > 1:
        raise UnsupportedError("the student is one of --blocks, --every and --config")
    if rounds > 1 and blocks % rounds:
        raise UnsupportedError(f"{blocks} blocks cannot be taken out in {rounds} equal rounds")
    if blocks:
        part = {"method": "drop_blocks", "count": blocks // rounds}
        return [{"repeat": rounds, "pass": [part, learning]}]
    if rounds > 1:
        raise UnsupportedError("--rounds goes with --blocks")
    if every:
        return [{"method": "student", "every": every}, learning]
    if config is not None:
        return [{"method": "student", "config": _read_config(config)}, learning]
    return [learning]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UnsupportedError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UnsupportedError(f"{path} holds no object with fields of config.json")
    return found
