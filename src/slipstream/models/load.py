"""From a name to a model: the door through which every verb of the command line comes.

name → path (sources) → checkpoint (open) → config → graph, lazy weights, tokenizer
"""

from pathlib import Path

from slipstream.checkpoint.checkpoint import Checkpoint
from slipstream.checkpoint.open import open_checkpoint
from slipstream.checkpoint.sources import resolve
from slipstream.models.model import Model
from slipstream.models.registry import blueprint_of
from slipstream.models.tokenizer import build_tokenizer
from slipstream.models.weights import Weights


def load(name: str | Path) -> Model:
    """Finds (and fetches, if it must) the model called `name`, and makes it ready to run.

    `name` is anything that `checkpoint.sources.resolve` accepts. Weights stay on disk until read.
    Refused with a typed error: what cannot be found, read, or run here.
    """
    return model_of(open_checkpoint(resolve(name)), str(name))


def model_of(checkpoint: Checkpoint, name: str) -> Model:
    """The model that an open checkpoint holds."""
    blueprint = blueprint_of(checkpoint.config)
    return Model(
        name=name,
        graph=blueprint.graph,
        weights=Weights(checkpoint, blueprint.shapes, blueprint.spellings),
        tokenizer=build_tokenizer(checkpoint.tokenizer),
        checkpoint=checkpoint,
    )
