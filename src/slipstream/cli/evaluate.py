"""`slipstream evaluate`: a model's perplexity, and its distance from another one."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from slipstream.backends.batch import Program
from slipstream.backends.native import NativeOptions, compile_native
from slipstream.cli.answering import KVChoice
from slipstream.cli.bench import read_activations
from slipstream.cli.search_show import Bars
from slipstream.errors import RequestError, SourceError
from slipstream.evaluate.divergence import baseline_for
from slipstream.evaluate.evaluation import Evaluation, evaluate_program
from slipstream.evaluate.interval import Measured
from slipstream.evaluate.perplexity import CHUNK_TOKENS
from slipstream.evaluate.texts import read_chunks, sample_chunks, start_id
from slipstream.formats.kv import KVType
from slipstream.graph.passes.activations import Choice
from slipstream.models.load import load
from slipstream.models.model import Model


def command(  # noqa: PLR0917  each argument is an option of the command line
    model: Annotated[str, typer.Argument(help="A name, a file or a folder; see `pull`.")],
    baseline: Annotated[
        str | None, typer.Option(help="The original: KL, top-1 agreement, perplexity ratio.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            help="Text to measure on. Default: the baseline (or the model) writes its own."
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(min=128, help="Tokens to measure on.")] = 4096,
    activations: Annotated[
        str, typer.Option(help="Of the model: auto, int8, bf16 or f32.")
    ] = "auto",
    kv: KVChoice = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure perplexity, and with --baseline how far the model lies from the original.

    Example: slipstream evaluate out/smollm2 --baseline smollm2:135m --text book.txt

    The model runs as it would be served; the baseline with float32 activations and KV cache.
    Chunks of 512 tokens, every token after the first of each is scored.
    """
    candidate = load(model)
    original = None if baseline is None else load(baseline)
    if original is not None:
        check_comparable(candidate, original)
    console = Console(stderr=as_json)
    with Bars(console) as bars:
        program = compiled(candidate, read_activations(activations), exact=False, kv=kv)
        reference = None if original is None else compiled(original, "f32", exact=True)
        chunks = make_chunks(original or candidate, reference or program, text, tokens, bars)
        held = None if reference is None else baseline_for(reference, chunks)
        advance = bars.begin(f"measuring {model}", chunks.size - len(chunks))
        found = evaluate_program(program, chunks, held, on_positions=advance)
    source = "text of its own" if text is None else text.name
    facts = {"model": model, "baseline": baseline, "text": source, "tokens": int(chunks.size)}
    if as_json:
        print(json.dumps({**facts, **found.to_json()}, indent=1))
    else:
        show(facts, found, console)


def compiled(
    model: Model, activations: Choice, *, exact: bool, kv: KVType | None = None
) -> Program:
    """The model on the native kernels: as it is served, or as exactly as they can."""
    options = NativeOptions(activations=activations, kv_dtype="float32" if exact else kv)
    wishes = model.activations
    return compile_native(model.graph, model.weights, options, settings=wishes)


def make_chunks(model: Model, program: Program, text: Path | None, tokens: int, bars: Bars) -> Any:
    """int32 [C, T]: of the file, or sampled from the program."""
    length = min(CHUNK_TOKENS, program.graph.context, tokens)
    if text is not None:
        try:
            content = text.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise SourceError(f"the text {text} cannot be read: {error.strerror}") from None
        return read_chunks(model.tokenizer, content, tokens, length)
    count = max(1, tokens // length)
    advance = bars.begin("the model writes text", count * length)
    return sample_chunks(program, start_id(model.tokenizer), count, length, advance)


def check_comparable(candidate: Model, original: Model) -> None:
    """RequestError unless both speak the same tokens."""
    if candidate.graph.vocabulary != original.graph.vocabulary:
        raise RequestError(
            f"{candidate.name} has {candidate.graph.vocabulary} tokens and {original.name} "
            f"{original.graph.vocabulary}: their distributions cannot be compared"
        )


def show(facts: dict[str, Any], found: Evaluation, console: Console) -> None:
    """A short table."""
    table = Table(title=f"{facts['model']}: {found.positions:,} positions of {facts['text']}")
    for name in ("", "value", "95 % interval"):
        table.add_column(name, justify="left" if not name else "right")
    add_measured(table, "perplexity", found.perplexity, "{:.3f}")
    if found.distance is not None:
        distance = found.distance
        table.add_row("perplexity of the baseline", f"{distance.baseline_perplexity:.3f}", "")
        add_measured(table, "perplexity ratio", distance.perplexity_ratio, "{:.4f}")
        add_measured(table, "KL from the baseline", distance.kl, "{:.5f}")
        table.add_row("KL, 99th percentile", f"{distance.kl_p99:.4f}", "")
        table.add_row("KL, largest", f"{distance.kl_max:.4f}", "")
        add_measured(table, "same top token", distance.top1, "{:.2%}")
    console.print(table)


def add_measured(table: Table, name: str, measured: Measured, form: str) -> None:
    """One row: value and interval."""
    value, low, high = (form.format(x) for x in (measured.value, measured.low, measured.high))
    table.add_row(name, value, f"{low} – {high}")
