"""`slipstream prune`: fewer weights, heads, neurons, channels or blocks, with the proof."""

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
from slipstream.cli.compress_order import parse_memory, quantizing_passes, read_recipe
from slipstream.cli.compress_session import Order, run_compression
from slipstream.compress.chain import Chain, parse_chain
from slipstream.compress.registry import PRUNERS
from slipstream.errors import UnsupportedError
from slipstream.optimize.limits import parse_limit


def command(  # noqa: PLR0917  each argument is an option of the command line
    model: ModelName,
    out: Out = None,
    blocks: Annotated[int, typer.Option(min=0, help="Transformer blocks to take out.")] = 0,
    heads: Annotated[
        float, typer.Option(min=0, max=1, help="Share of key/value heads to take out.")
    ] = 0.0,
    neurons: Annotated[
        float, typer.Option(min=0, max=1, help="Share of MLP neurons to take out.")
    ] = 0.0,
    width: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the hidden width to take out.")
    ] = 0.0,
    scope: Annotated[
        str, typer.Option(help="Heads and neurons: equally in each layer, or over the model.")
    ] = "layer",
    sparsity: Annotated[
        float, typer.Option(min=0, max=1, help="Share of single weights to make zero.")
    ] = 0.0,
    method: Annotated[
        str, typer.Option(help=f"Of single weights: {', '.join(PRUNERS)}.")
    ] = "wanda",
    pattern: Annotated[
        str, typer.Option(help="Of single weights: unstructured, 2:4, 4:8 or block.")
    ] = "unstructured",
    owl: Annotated[bool, typer.Option(help="A ratio of its own for each layer.")] = False,
    bits: Annotated[
        int, typer.Option(help="Quantize what is left by GPTQ: 8, 4, 3 or 2. 0: leave it.")
    ] = 0,
    group: Annotated[str, typer.Option(help="Of --bits: 32, 64, 128 … or row.")] = "32",
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
    """Prune a model, measure the result against the original, and write both.

    Example: slipstream prune smollm2:135m --neurons 0.2 --blocks 2 --bits 8 -o out/pruned

    Blocks, heads, neurons and width make a smaller and faster model; single weights made zero only
    help where something later uses the zeros. A matrix that was quantized and loses inputs becomes
    float32, so give --bits for such a model.
    """
    asked = {"blocks": blocks, "heads": heads, "neurons": neurons, "width": width, "scope": scope}
    single = {"sparsity": sparsity, "method": method, "pattern": pattern, "owl": owl}
    after = quantizing_passes("gptq", bits, group) if bits else []
    chain = _chain(asked, single, after) if recipe is None else read_recipe(recipe)
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
        )
    )


def _chain(asked: dict[str, Any], single: dict[str, Any], after: list[dict[str, Any]]) -> Chain:
    """Blocks, heads, neurons, width, then single weights: the largest cuts first."""
    passes: list[dict[str, Any]] = []
    if asked["blocks"]:
        passes.append({"method": "drop_blocks", "count": asked["blocks"]})
    for name in ("heads", "neurons"):
        if asked[name]:
            entry = {"method": f"drop_{name}", "share": asked[name], "scope": asked["scope"]}
            passes.append(entry)
    if asked["width"]:
        passes.append({"method": "drop_width", "share": asked["width"]})
    if single["sparsity"] or single["pattern"] in ("2:4", "4:8"):
        passes.append(_single(**single))
    if not passes:
        raise UnsupportedError(
            "nothing is to be pruned: give --blocks, --heads, --neurons, --width or --sparsity"
        )
    return parse_chain({"pass": [*passes, *after]})


def _single(sparsity: float, method: str, pattern: str, owl: bool) -> dict[str, Any]:
    if method not in PRUNERS:
        raise UnsupportedError(f"--method is one of {', '.join(PRUNERS)}, not {method!r}")
    entry: dict[str, Any] = {"method": method, "pattern": pattern}
    if ":" not in pattern:
        entry["sparsity"] = sparsity
    return {**entry, "owl": True} if owl else entry
