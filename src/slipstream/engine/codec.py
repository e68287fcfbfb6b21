"""What the engine needs of a tokenizer, and no more. `models.tokenizer.Tokenizer` satisfies it.

Kept as protocols so that tests may use a tokenizer of single bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Message = Mapping[str, Any]  # {"role": …, "content": …}, as chat templates want them


class ChatRenderer(Protocol):
    """A chat template: messages to the text of a prompt."""

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The prompt; `variables` reach the template by name (``tools``, ``enable_thinking``).

        TemplateError when the template refuses the messages.
        """
        ...


class Decoder(Protocol):
    """Ids to text."""

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD."""
        ...


class TextCodec(Decoder, Protocol):
    """Both directions, and the facts about a model's text that the engine must know."""

    @property
    def vocabulary_size(self) -> int:
        """One more than the highest id it knows; a model's logits may be wider (padding)."""
        ...

    @property
    def eos_ids(self) -> frozenset[int]:
        """All ids that end a turn."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Control tokens, which are no text."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """What one token adds to a running text."""
        ...

    @property
    def chat(self) -> ChatRenderer | None:
        """The model's chat template, if it has one."""
        ...

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Ids of a text; `special` adds what the model wants around it (beginning of text)."""
        ...
