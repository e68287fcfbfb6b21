"""A compressed edition as an artifact: its own config, its tensors, what was done and measured."""

from pathlib import Path
from typing import Any

from slipstream.checkpoint.artifact import write_artifact
from slipstream.checkpoint.prompts import PROMPTS
from slipstream.cli.compress_measure import served_inputs
from slipstream.compress.chain import Chain
from slipstream.compress.work import Edition
from slipstream.engine.proof import record_prompts
from slipstream.models.model import Model
from slipstream.optimize.report import report_html
from slipstream.optimize.study import Study
from slipstream.optimize.write import REPORT, manifest_of, whole_settings, whole_tensors


def write_edition(
    model: Model,
    after: Edition,
    chain: Chain,
    study: Study,
    folder: Path,
    *,
    overwrite: bool = False,
) -> Path:
    """Whole or not at all; an existing folder is refused unless `overwrite` is said."""
    named = {name: after.weights[name] for name in after.graph.weight_names()}
    settings = served_inputs(after, chain.activations)
    chat = model.tokenizer.chat
    result = study.candidates[0]
    return write_artifact(
        folder,
        config=after.config,
        tensors=whole_tensors(named),
        tokenizer=model.tokenizer,
        chat_template=None if chat is None else chat.source,
        manifest=_manifest(model, after, chain, study),
        activations=whole_settings(settings),
        proofs={PROMPTS: record_prompts},
        files={REPORT: report_html(study, result)},
        overwrite=overwrite,
    )


def _manifest(model: Model, after: Edition, chain: Chain, study: Study) -> dict[str, Any]:
    """That of a search, with the chain for its recipe and the notes of layers that fell back."""
    return {
        **manifest_of(model, study, study.candidates[0]),
        "recipe": chain.to_json(),
        "notes": [vars(note) for note in after.notes],
    }
