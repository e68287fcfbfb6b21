"""`slipstream quantize`: one recipe of your own, written with its proof."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar, cast, get_args

import typer

from slipstream.cli.search_session import Order, run_session
from slipstream.compress.recipe import (
    Method,
    Recipe,
    Rule,
    activations_label,
    format_label,
)
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import Affine, Zero
from slipstream.graph.ops import Activations
from slipstream.optimize.limits import parse_limit
from slipstream.optimize.space import Candidate

T = TypeVar("T")

_ZEROS: dict[str, Zero] = {"symmetric": "symmetric", "asymmetric": "zero_point"}


def command(  # noqa: PLR0917  each argument is an option of the command line
    model: Annotated[str, typer.Argument(help="A name, a file or a folder; see `pull`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the artifact.")],
    bits: Annotated[int, typer.Option(help="Of the weights: 4 or 8.")] = 4,
    group: Annotated[
        str, typer.Option(help="Inputs that share a scale: 32, 64, 128 … or row.")
    ] = "32",
    method: Annotated[str, typer.Option(help="gptq, or rtn (round to nearest).")] = "gptq",
    zero: Annotated[str, typer.Option(help="symmetric or asymmetric.")] = "symmetric",
    activations: Annotated[str, typer.Option(help="int8 or f32.")] = "int8",
    text: Annotated[
        Path | None,
        typer.Option(help="Text to calibrate and measure on. Default: the model writes its own."),
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help="Write nothing unless kept; see `optimize`.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=128, help="Tokens to measure on.")] = 4096,
    overwrite: Annotated[bool, typer.Option(help="Replace an artifact at --out.")] = False,
    fresh: Annotated[
        bool, typer.Option(help="Measure again what an earlier run measured.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Quantize the linears of a model, measure the result against the original, and write both.

    Example: slipstream quantize smollm2:135m --bits 4 --group 64 --method gptq -o out/int4

    A group that does not divide a matrix's rows becomes the next smaller one that does.
    """
    format = Affine(_bits(bits), _group(group), _choice("--zero", zero, _ZEROS))
    stored = {"int8": Activations(8, 32), "f32": Activations()}
    inputs = _choice("--activations", activations, stored)
    methods = {name: name for name in get_args(Method)}
    how = cast(Method, _choice("--method", method, methods))
    eight = Affine(8, None)
    rules = (Rule("head", eight), Rule("embedding", eight), Rule("linear", format, how))
    name = f"{format_label(format)} {how} · {activations_label(inputs)}"
    run_session(
        Order(
            model=model,
            out=out,
            limits=tuple(parse_limit(text) for text in limit or []),
            text=text,
            tokens=tokens,
            candidates=(Candidate(name, Recipe(rules, inputs)),),
            overwrite=overwrite,
            fresh=fresh,
            as_json=as_json,
        )
    )


def _bits(bits: int) -> Literal[4, 8]:
    if bits == 4:
        return 4
    if bits == 8:
        return 8
    raise UnsupportedError(f"--bits is 4 or 8, not {bits}")


def _group(text: str) -> int | None:
    if text == "row":
        return None
    if text.isdecimal() and int(text) >= 16 and int(text) % 16 == 0:
        return int(text)
    raise UnsupportedError(f"--group is a multiple of 16, or row, not {text!r}")


def _choice(option: str, text: str, choices: dict[str, T]) -> T:
    if text not in choices:
        raise UnsupportedError(f"{option} is one of {', '.join(choices)}, not {text!r}")
    return choices[text]
