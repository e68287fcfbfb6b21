"""A model ready to be run: graph, weights, tokenizer. `load` is the door from files to everything.

checkpoint (GGUF, folder, artifact) → config → one page in this folder → graph
"""

from collections.abc import Mapping
from dataclasses import dataclass

from slipstream.checkpoint.checkpoint import Checkpoint
from slipstream.checkpoint.fingerprint import quick_identity
from slipstream.formats.tensor import Tensor
from slipstream.graph.graph import Graph
from slipstream.graph.ops import Activations
from slipstream.models.tokenizer import Tokenizer
from slipstream.models.weights import Weights, activations_of


@dataclass(frozen=True)
class Model:
    """Everything a backend and an engine need. `weights` is lazy: it reads from the memory map."""

    name: str
    graph: Graph
    weights: Mapping[str, Tensor]
    tokenizer: Tokenizer
    checkpoint: Checkpoint

    @property
    def activations(self) -> Mapping[str, Activations]:
        """How the checkpoint wants linears' inputs stored, by weight name of the graph."""
        return activations_of(self.checkpoint, self.graph.weight_names())

    def quick_identity(self) -> str | None:
        """See `checkpoint.fingerprint`; None where the weights are not the checkpoint's own, or
        its files have gone.
        """
        weights = self.weights
        if not isinstance(weights, Weights) or weights.checkpoint is not self.checkpoint:
            return None
        try:
            return quick_identity(self.checkpoint)
        except OSError:
            return None
