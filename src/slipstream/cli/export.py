"""`slipstream export`: a model in the words of another library, checked before it is kept."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from slipstream.backends.onnx_write import MODEL, write_onnx
from slipstream.checkpoint.artifact import write_tokenizer
from slipstream.checkpoint.compressed_tensors_plain import write_plain
from slipstream.checkpoint.float8_write import write_float8
from slipstream.checkpoint.gptq_write import SETTINGS, Library, write_gptq
from slipstream.cli.export_gguf import StoredTensors, export_gguf, modelfile
from slipstream.compress.gguf_round import KINDS
from slipstream.errors import ArtifactError, UnsupportedError
from slipstream.models.load import load
from slipstream.models.model import Model
from slipstream.optimize.write import whole_settings

TARGETS = ("gguf", "modelfile", "gptq", "awq", "compressed-tensors", "fp8", "onnx")
CONFIG = "config.json"


def command(  # noqa: PLR0917  each argument is an option of the command line
    model: Annotated[str, typer.Argument(help="A name, a file or a folder; see `pull`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="What to write: a file or a folder.")],
    to: Annotated[str, typer.Option(help=f"One of {', '.join(TARGETS)}.")] = "gguf",
    type: Annotated[str, typer.Option(help=f"Of GGUF: one of {', '.join(KINDS)}.")] = "q8_0",
    text: Annotated[
        Path | None, typer.Option(help="GGUF: weight errors by the inputs seen on this text.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=64, help="How much of the text to read.")] = 8192,
    overwrite: Annotated[bool, typer.Option(help="Replace what is at --out.")] = False,
) -> None:
    """Write a model for llama.cpp, Ollama, onnxruntime and others.

    Example: slipstream export smollm2:135m --to gguf --type q4_k_m -o model.gguf
    """
    if to not in TARGETS:
        raise UnsupportedError(f"--to is one of {', '.join(TARGETS)}, not {to!r}")
    if to in ("gguf", "modelfile") and type not in KINDS:
        raise UnsupportedError(f"--type is one of {', '.join(KINDS)}, not {type!r}")
    if out.exists() and not overwrite:
        raise ArtifactError(f"{out} exists already: choose another name, or say --overwrite")
    console = Console(stderr=True)
    loaded = load(model)
    if to == "gguf":
        export_gguf(loaded, out, type, text=text, tokens=tokens, console=console)
    elif to == "modelfile":
        _write_folder(out, "Modelfile", lambda to: _modelfile(loaded, to, type, text, tokens))
    elif to == "onnx":
        _write_folder(out, MODEL, lambda to: _onnx(loaded, to))
    elif to == "compressed-tensors":
        _write_folder(out, CONFIG, lambda to: _plain(loaded, to))
    elif to == "fp8":
        _write_folder(out, CONFIG, lambda to: _float8(loaded, to))
    else:
        library: Library = "gptq" if to == "gptq" else "awq"
        _write_folder(out, SETTINGS, lambda to: _gptq(loaded, library, to))
    console.print(f"Written: {out}", soft_wrap=True, markup=False)


def _modelfile(model: Model, folder: Path, type: str, text: Path | None, tokens: int) -> None:
    export_gguf(model, folder / "model.gguf", type, text=text, tokens=tokens)
    (folder / "Modelfile").write_text(modelfile(model, "model.gguf"), encoding="utf-8")


def _onnx(model: Model, folder: Path) -> None:
    write_onnx(model.graph, model.weights, folder)
    _tokenizer(model, folder)


def _gptq(model: Model, library: Library, folder: Path) -> None:
    write_gptq(folder, library, model.checkpoint.config, StoredTensors(model))
    _tokenizer(model, folder)


def _plain(model: Model, folder: Path) -> None:
    settings = whole_settings(model.activations)
    write_plain(folder, model.checkpoint.config, StoredTensors(model), settings)
    _tokenizer(model, folder)


def _float8(model: Model, folder: Path) -> None:
    write_float8(folder, model.checkpoint.config, StoredTensors(model))
    _tokenizer(model, folder)


def _tokenizer(model: Model, folder: Path) -> None:
    chat = model.tokenizer.chat
    write_tokenizer(folder, model.tokenizer, None if chat is None else chat.source)


def _write_folder(folder: Path, mark: str, fill: Callable[[Path], None]) -> None:
    """Whole or not at all; a folder that lacks `mark` is not one of ours, and stays."""
    if folder.exists() and not (folder / mark).is_file():
        raise ArtifactError(f"{folder} holds no {mark}, so it is not overwritten")
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    try:
        fill(building)
        building.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
