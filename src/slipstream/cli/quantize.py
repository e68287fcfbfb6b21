"""`slipstream quantize`: one quantizer of your choice, or a recipe of passes, with its proof."""

from typing import Annotated

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
from slipstream.cli.compress_order import (
    known_choice,
    parse_memory,
    quantizing_passes,
    read_recipe,
)
from slipstream.cli.compress_session import Order, run_compression
from slipstream.compress.chain import ACTIVATIONS, Chain, parse_chain
from slipstream.compress.registry import QUANTIZERS
from slipstream.optimize.limits import parse_limit

_ZEROS = {"symmetric": "symmetric", "asymmetric": "zero_point"}
_ACTIVATIONS = {**{name: name for name in ACTIVATIONS}, "int8": "int8 g32"}


def command(  # noqa: PLR0917  each argument is an option of the command line
    model: ModelName,
    out: Out = None,
    bits: Annotated[int, typer.Option(help="Of the weights: 8, 6, 5, 4, 3 or 2.")] = 4,
    group: Annotated[
        str, typer.Option(help="Inputs that share a scale: 32, 64, 128 … or row.")
    ] = "32",
    format: Annotated[
        str, typer.Option(help="int (of --bits), or a 4-bit codebook: nf4, mxfp4, iq4_nl.")
    ] = "int",
    method: Annotated[str, typer.Option(help=f"One of {', '.join(QUANTIZERS)}.")] = "gptq",
    zero: Annotated[str, typer.Option(help="symmetric or asymmetric.")] = "symmetric",
    activations: Annotated[str, typer.Option(help="int8 (per 32), int8 row, or f32.")] = "int8",
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
    """Quantize the linears of a model, measure the result against the original, and write both.

    Example: slipstream quantize smollm2:135m --bits 4 --group 64 --method gptq -o out/int4

    A group that does not divide a matrix's rows becomes the next smaller one that does. A run that
    is killed goes on where it was.
    """
    if recipe is None:
        chain = _one_pass(bits, group, method, zero, activations, format)
    else:
        chain = read_recipe(recipe)
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


def _one_pass(  # noqa: PLR0917
    bits: int, group: str, method: str, zero: str, activations: str, format: str
) -> Chain:
    zeros = known_choice("--zero", zero, _ZEROS)
    stored = known_choice("--activations", activations, _ACTIVATIONS)
    passes = quantizing_passes(method, bits, group, zeros, format)
    return parse_chain({"activations": stored, "pass": passes})
