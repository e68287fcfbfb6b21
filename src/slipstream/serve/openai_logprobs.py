"""Log-probabilities as OpenAI's API spells them, for chats and for plain completions.

`chat_logprobs` and `completion_logprobs` take the engine's entries; a token is spelled as the text
that it has alone.
"""

from collections.abc import Sequence

from slipstream.engine.codec import Decoder
from slipstream.engine.sampler import TokenLogprob
from slipstream.serve.replies import Json

IMPOSSIBLE = -9999.0


def chat_logprobs(decoder: Decoder, entries: Sequence[TokenLogprob]) -> Json | None:
    """The ``logprobs`` of a chat's choice; None without entries."""
    if not entries:
        return None
    content = [
        {
            **_token(decoder, entry.id, entry.logprob),
            "top_logprobs": [_token(decoder, token, value) for token, value in entry.top],
        }
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    decoder: Decoder, entries: Sequence[TokenLogprob | None], ids: Sequence[int], offset: int = 0
) -> Json | None:
    """The ``logprobs`` of a plain completion's choice.

    `entries[i]` belongs to `ids[i]`; it is None for the first token of an echoed prompt. `offset`
    is the number of characters before the first of them.
    """
    if not entries:
        return None
    texts = [spelled(decoder, token) for token in ids]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [entry and shown(entry.logprob) for entry in entries],
        "top_logprobs": [
            entry and {spelled(decoder, token): shown(value) for token, value in entry.top}
            for entry in entries
        ],
        "text_offset": offsets,
    }


def prompt_logprobs(
    decoder: Decoder, ids: Sequence[int], entries: Sequence[TokenLogprob] | None
) -> list[Json | None] | None:
    """vLLM's ``prompt_logprobs``: each prompt token's candidates by id; null for the first."""
    if entries is None:
        return None
    listed: list[Json | None] = [None]
    for token, entry in zip(ids[1:], entries, strict=True):
        candidates = {**dict(entry.top), token: entry.logprob}
        listed.append(
            {
                str(candidate): {
                    "logprob": shown(value),
                    "decoded_token": spelled(decoder, candidate),
                }
                for candidate, value in candidates.items()
            }
        )
    return listed


def spelled(decoder: Decoder, token: int) -> str:
    """The text of one token, special ones too."""
    return decoder.decode([token], skip_special=False)


def shown(logprob: float) -> float:
    """OpenAI's word for impossible is -9999: JSON has no infinity."""
    return max(logprob, IMPOSSIBLE)


def _token(decoder: Decoder, token: int, value: float) -> Json:
    text = spelled(decoder, token)
    whole = "\ufffd" not in text  # otherwise its bytes are part of a character
    return {"token": text, "logprob": shown(value), "bytes": list(text.encode()) if whole else None}
