"""What every checkpoint offers, whatever file it came from.

GGUF files, Hugging Face folders and our own artifacts are all read into this shape: a config and
tensors spelled as Hugging Face spells them, so that a model is described once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from slipstream.formats.tensor import Tensor
from slipstream.graph.ops import Activations


@dataclass(frozen=True)
class TokenizerData:
    """What a tokenizer is built from; `models.tokenizer` builds it.

    Exactly one of `json_path` (a ``tokenizer.json``) and `gguf` (the ``tokenizer.ggml.*`` metadata,
    keys without that prefix) is set. `config` is tokenizer_config.json, or what GGUF says of it.
    """

    json_path: Path | None = None
    gguf: Mapping[str, Any] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str | None = None


class Checkpoint(Protocol):
    """A model at rest. Tensors are read when asked for (memory-mapped), never all at once."""

    path: Path
    config: Mapping[str, Any]  # as config.json; always has "architectures" and "model_type"
    tokenizer: TokenizerData
    activations: Mapping[str, Activations]  # by weight name; absent: the backend's default

    def names(self) -> Sequence[str]:
        """The tensor names, Hugging Face spelling, sorted."""
        ...

    def tensor(self, name: str) -> Tensor:
        """One tensor as stored. KeyError if there is none; FileFormatError if it is damaged."""
        ...

    def files(self) -> Sequence[Path]:
        """The files that decide what the tensors are."""
        ...

    def release(self) -> None:
        """Lets the memory of what was read go; it is read again when it is asked for again."""
        ...

    def identity(self) -> str:
        """SHA-256 (hex) of the content: equal checkpoints have equal identities."""
        ...
