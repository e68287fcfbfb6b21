"""What every shape of answer has in common: the `Reply` that `answering.respond` fills in.

Each API's replies (`openai_chat_reply`, `openai_completion_reply`, `responses_reply`,
`ollama_reply`) know how to spell a whole answer and the events of a stream. A reply serves one
HTTP request, decides nothing and waits for nothing.
"""

import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from slipstream.engine.answer import Completion, Delta
from slipstream.serve.stream import Framing

Json = dict[str, Any]


class Reply(Protocol):
    """One HTTP request's answers, in the shape of one API.

    `n` consecutive answers belong to the same prompt.
    """

    @property
    def framing(self) -> Framing:
        """How the events of a stream are written."""
        ...

    def whole(self, completions: Sequence[Completion]) -> Json:
        """The body of a response that is not streamed."""
        ...

    def events(self, index: int, delta: Delta) -> Iterable[Json | bytes]:
        """What the next delta of answer `index` adds to the stream; often one event.

        Bytes are an event that is framed already.
        """
        ...

    def closing(self, completions: Sequence[Completion]) -> Iterable[Json]:
        """The events after the last delta."""
        ...


def fresh_id(prefix: str) -> str:
    """An id that nobody else has: ``chatcmpl-5f0c…``."""
    return prefix + uuid.uuid4().hex


def usage(completions: Sequence[Completion], n: int = 1) -> Json:
    """Tokens read and written; the prompt of `n` answers in a row is counted once."""
    leaders = completions[::n]
    read = sum(len(done.prompt_ids) for done in leaders)
    written = sum(len(done.ids) for done in completions)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": sum(done.cached_tokens for done in leaders)},
    }
