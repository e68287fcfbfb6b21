"""`slipstream export --to gguf` and `modelfile`: the file, its importance matrix, its check."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from slipstream.backends.native import NativeOptions, compile_native
from slipstream.checkpoint.gguf_checkpoint import GGUFCheckpoint
from slipstream.checkpoint.gguf_config_write import gguf_architecture
from slipstream.checkpoint.gguf_names import gguf_names
from slipstream.checkpoint.gguf_write import GGUFContent, write_gguf
from slipstream.compress.calibration_text import read_documents
from slipstream.compress.gguf_round import GGUFEncoder
from slipstream.compress.importance import measure_importance
from slipstream.compress.inputs import input_groups
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import Tensor
from slipstream.graph.graph import Node
from slipstream.graph.ops import Attention
from slipstream.models.model import Model
from slipstream.models.registry import blueprint_of
from slipstream.models.tokenizer_gguf_write import tokenizer_metadata
from slipstream.models.weights import parse_part

CHUNK = 512


@dataclass(frozen=True)
class StoredTensors(Mapping[str, Tensor]):
    """A checkpoint's own tensors: whole, under Hugging Face's names."""

    model: Model

    def __getitem__(self, name: str) -> Tensor:
        return self.model.checkpoint.tensor(name)

    def __iter__(self) -> Any:
        return iter(self.wanted())

    def __len__(self) -> int:
        return len(self.wanted())

    def wanted(self) -> list[str]:
        """Those that the graph reads; a checkpoint may hold others, as a copy of a tied head."""
        stored = set(self.model.checkpoint.names())
        named = {name if name in stored else parse_part(name).stored for name in self.model.weights}
        if not named <= stored:
            raise UnsupportedError("the checkpoint spells its tensors in a way that GGUF has not")
        return sorted(named)


def export_gguf(
    model: Model,
    path: Path,
    kind: str,
    *,
    text: Path | None = None,
    tokens: int = 8192,
    console: Console | None = None,
) -> dict[str, str]:
    """Writes `path` and returns the type of each tensor.

    Before the file takes its name it is read back: UnsupportedError unless its graph is the
    model's. `text` weights the errors by the importance of inputs measured on it.
    """
    tensors = StoredTensors(model)
    importance = {} if text is None else measured_importance(model, text, tokens)
    config = model.checkpoint.config
    layers = len(model.graph.attentions)
    tied = not any(name.startswith("lm_head") for name in tensors)
    encoder = GGUFEncoder(kind, layers, tied, _by_gguf_names(model, importance))
    rows = model.graph.vocabulary
    metadata = {
        "general.name": Path(model.name).name,
        "general.quantization_version": 2,
        "general.file_type": encoder.file_type,
        **tokenizer_metadata(model.tokenizer, model.checkpoint.tokenizer, rows),
    }

    def progress(name: str) -> None:
        if console is not None and name.endswith("ffn_down.weight"):
            console.print(f"{name.removesuffix('.ffn_down.weight')} of {layers}", markup=False)

    content = GGUFContent(config, tensors, metadata)
    return write_gguf(
        path, content, encoder, check=lambda file: _check(model, file), on_tensor=progress
    )


def measured_importance(model: Model, text: Path, tokens: int) -> dict[str, NDArray[np.float32]]:
    """Mean square of each linear's input over the text, by weight name of the graph."""
    ids = np.asarray(model.tokenizer.encode(read_documents(text, model.tokenizer.chat)), np.int32)
    length = min(CHUNK, model.graph.context, len(ids), tokens)
    count = min(tokens, len(ids)) // max(length, 1)
    if count < 1:
        raise UnsupportedError(f"{text} is too short to calibrate on")
    chunks = ids[: count * length].reshape(count, length)
    options = NativeOptions(activations="f32", kv_dtype="float32")
    program = compile_native(model.graph, model.weights, options)
    groups = input_groups(model.graph, lambda name: model.weights[name].shape[1])
    return measure_importance(program, chunks, groups)


def _by_gguf_names(model: Model, found: Mapping[str, Any]) -> dict[str, Any]:
    stored = {parse_part(name).stored: power for name, power in found.items()}
    names = gguf_names(gguf_architecture(model.checkpoint.config), stored)
    return {names[ours]: power for ours, power in stored.items()}


def _check(model: Model, path: Path) -> None:
    """Whether the file says all that the model is."""
    read = blueprint_of(GGUFCheckpoint(path).config)
    ours, theirs = model.graph, read.graph
    context, sizes = theirs.context, (ours.width, ours.vocabulary)
    nodes, written = ([_as_run(node, context) for node in graph] for graph in (ours, theirs))
    if nodes != written or sizes != (theirs.width, theirs.vocabulary):
        differing = [
            a.name
            for a, b in zip(ours, theirs, strict=False)
            if _as_run(a, context) != _as_run(b, context)
        ]
        where = f", first at {differing[0]}" if differing else ""
        raise UnsupportedError(
            f"llama.cpp has no words for all that this {ours.architecture} does{where}: the file"
            " would compute something else, so it was not kept"
        )


def _as_run(node: Node, context: int) -> str:
    """All that a node is, less what makes no difference: a window that this context never fills,
    and on which side a matrix is stored.
    """
    op = node.op
    if isinstance(op, Attention) and op.window is not None and op.window >= context:
        node = replace(node, op=replace(op, window=None))
    return repr(node).replace(".weight.T", ".weight")


def modelfile(model: Model, weights: str) -> str:
    """An Ollama Modelfile for a GGUF file beside it; its chat template is in the file."""
    stops = sorted(
        text
        for index in model.tokenizer.eos_ids
        if (text := model.tokenizer.inner.id_to_token(index)) is not None
    )
    lines = [f"FROM ./{weights}", f"PARAMETER num_ctx {min(model.graph.context, 8192)}"]
    lines += [f'PARAMETER stop "{stop}"' for stop in stops if '"' not in stop]
    return "\n".join(lines) + "\n"
