"""The options that all verbs of compression share, as typer reads them."""

from pathlib import Path
from typing import Annotated

import typer

ModelName = Annotated[str, typer.Argument(help="A name, a file or a folder; see `pull`.")]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="Folder for the artifact.")]
Recipe = Annotated[
    Path | None, typer.Option(help="A TOML recipe of passes, instead of the options above.")
]
Text = Annotated[
    Path | None,
    typer.Option(
        help="Text, .jsonl or chats to calibrate and measure on. Default: the model writes."
    ),
]
Limits = Annotated[
    list[str] | None, typer.Option("--limit", help="Write nothing unless kept; see `optimize`.")
]
Tokens = Annotated[int, typer.Option(min=128, help="Tokens to measure on.")]
Memory = Annotated[
    str | None, typer.Option(help="Most memory to compress with, as 2GB. Default: half.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what each layer would become, and stop.")
]
Force = Annotated[bool, typer.Option(help="Write even what breaks a limit.")]
Overwrite = Annotated[bool, typer.Option(help="Replace an artifact at --out.")]
Fresh = Annotated[bool, typer.Option(help="Begin anew where a run was cut short.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
