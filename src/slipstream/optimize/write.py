"""What a study chose, as an artifact with its proof, and the report inside it.

OUT/  config.json · model.safetensors · tokenizer… · slipstream.json · report.html, all hashed
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from slipstream.checkpoint.artifact import write_artifact
from slipstream.checkpoint.prompts import PROMPTS
from slipstream.compress.run import overlay
from slipstream.engine.proof import record_prompts
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import DenseTensor, Quantized, Tensor, arrays_of, with_arrays
from slipstream.models.model import Model
from slipstream.models.weights import parse_part
from slipstream.optimize.programs import settings_of
from slipstream.optimize.report import report_html
from slipstream.optimize.study import Result, Study

REPORT = "report.html"


def write_choice(
    model: Model,
    study: Study,
    chosen: Result,
    changed: Mapping[str, Tensor],
    folder: Path,
    *,
    overwrite: bool = False,
) -> Path:
    """The artifact of `chosen` with its `changed` tensors; returns the report's path.

    Whole or not at all; an existing folder is refused unless `overwrite` is said.
    """
    weights = overlay(model.weights, changed)
    settings = settings_of(model.graph, weights, chosen.recipe.activations)
    chat = model.tokenizer.chat
    folder = write_artifact(
        folder,
        config=model.checkpoint.config,
        tensors=whole_tensors(weights),
        tokenizer=model.tokenizer,
        chat_template=None if chat is None else chat.source,
        manifest=manifest_of(model, study, chosen),
        activations=whole_settings(settings),
        proofs={PROMPTS: record_prompts},
        files={REPORT: report_html(study, chosen)},
        overwrite=overwrite,
    )
    return folder / REPORT


def manifest_of(model: Model, study: Study, chosen: Result) -> dict[str, Any]:
    """What was done, to what, and how far the result lies from it."""
    verdict = study.verdict(chosen)
    return {
        "source": {"name": model.name, "identity": model.checkpoint.identity()},
        "recipe": chosen.recipe.to_json(),
        "name": chosen.name,
        "limits": [limit.text for limit in study.limits],
        "within_limits": verdict.met,
        "evaluation": None if chosen.evaluation is None else chosen.evaluation.to_json(),
        "text": {
            "source": study.text,
            "evaluation_tokens": study.evaluation_tokens,
            "calibration_tokens": study.calibration_tokens,
        },
        "size_bytes": chosen.size_bytes,
        "memory_bytes": chosen.memory_bytes,
        "decode_tokens_per_s": None if chosen.decode is None else chosen.decode.to_json(),
        "prefill_tokens_per_s": None if chosen.prefill is None else chosen.prefill.to_json(),
        "search": {key: value for key, value in study.to_json().items() if key != "facts"},
        "facts": study.facts,
    }


def whole_tensors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as Hugging Face names them: rows that the graph reads apart are joined again.

    UnsupportedError for weights that are stored turned (GPT-2), which the layout cannot hold.
    """
    whole: dict[str, Tensor] = {}
    pieces: dict[str, list[tuple[int, Tensor]]] = {}
    for name in weights:
        part = parse_part(name)
        if part.turned and isinstance(weights[name], Quantized):
            raise UnsupportedError(f"{name} is stored turned, which compressed-tensors cannot hold")
        if part.rows is None or part.turned:
            whole[name] = weights[name]
        else:
            pieces.setdefault(part.stored, []).append((part.rows[0], weights[name]))
    for name, parts in pieces.items():
        whole[name] = joined(name, [tensor for _, tensor in sorted(parts, key=lambda p: p[0])])
    return whole


def joined(name: str, tensors: list[Tensor]) -> Tensor:
    """Rows on top of each other; UnsupportedError if their formats differ."""
    first = tensors[0]
    if all(isinstance(tensor, DenseTensor) for tensor in tensors):
        return DenseTensor(np.concatenate([t.data for t in tensors if isinstance(t, DenseTensor)]))
    parts = [tensor for tensor in tensors if isinstance(tensor, Quantized)]
    kinds = {(type(part), part.format) for part in parts}
    if len(parts) < len(tensors) or len(kinds) > 1:
        raise UnsupportedError(f"the parts of {name} have different formats; give them one")
    arrays = [arrays_of(part) for part in parts]
    whole = {name: np.concatenate([part[name] for part in arrays]) for name in arrays[0]}
    return with_arrays(first, whole)


def whole_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """By the names of `whole_tensors`."""
    named = {}
    for name, setting in settings.items():
        part = parse_part(name)
        named[name if part.rows is None else part.stored] = setting
    return named
