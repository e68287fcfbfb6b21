"""`slipstream optimize`: the fastest form of a model here, within limits, with the proof."""

from pathlib import Path
from typing import Annotated

import typer

from slipstream.cli.search_session import Order, run_session
from slipstream.optimize.limits import parse_limits


def command(  # noqa: PLR0917  each argument is an option of the command line
    model: Annotated[str, typer.Argument(help="A name, a file or a folder; see `pull`.")],
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help='"kl<0.02", "top1>95%", "ppl_ratio<1.05", "size<80MB", "memory<1GB", '
            '"decode>100", "prefill>500"; may be repeated. Default: kl<0.1'
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="Text to calibrate and measure on. Default: the model writes its own."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for the artifact and its report.")
    ] = None,
    budget_s: Annotated[float, typer.Option(min=1, help="Seconds to spend, about.")] = 270,
    tokens: Annotated[
        int | None, typer.Option(min=128, help="Tokens to measure on. Default: as time allows.")
    ] = None,
    force: Annotated[
        bool, typer.Option(help="Write the nearest miss if nothing is within.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an artifact at --out.")] = False,
    fresh: Annotated[
        bool, typer.Option(help="Measure again what an earlier run measured.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Search formats for the fastest that keeps your limits; write it with its proof.

    Example: slipstream optimize smollm2:135m --limit "kl<0.1" -o out/smollm2

    A killed run resumes where it was. Exit code 3: nothing keeps the limits, nothing is written.
    """  # fmt: skip
    run_session(
        Order(
            model=model,
            out=out,
            limits=parse_limits(limit or []),
            text=text,
            tokens=tokens,
            budget_s=budget_s,
            force=force,
            overwrite=overwrite,
            fresh=fresh,
            as_json=as_json,
        )
    )
