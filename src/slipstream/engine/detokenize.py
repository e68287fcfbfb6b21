"""Token ids to text while they come: no character is ever split, no stop string slips through.

The engine keeps one `TextStream` per answer. What it returns is final: the pieces, joined, are the
text of the whole answer.
"""

from collections.abc import Sequence
from copy import copy

from slipstream.engine.codec import Decoder

REPLACEMENT = "\ufffd"  # what decoders write for bytes that are not a character (yet)
CONTEXT_TOKENS = 6  # earlier tokens decoded along, since spacing depends on them
WINDOW_TOKENS = 24  # the window is cut back to a context when it is longer
UNSURE_TOKENS = 8  # a character spans at most 4; after so many the bytes are no text at all
UNSURE_CHARACTERS = 3  # what may then still become a character


class CharacterStream:
    """Turns ids into characters, holding back those at the end that may be incomplete.

    window   … context │ given out │ new
    text     … … … … … │ … … … … … │ sure … … ��     U+FFFD at the end may yet become characters
                                   given             so they wait for the next ids

    SentencePiece's decoders write U+FFFD for every byte of a run of byte tokens until all of it is
    valid, characters included that were given out: what is given stays given.
    """

    def __init__(
        self, decoder: Decoder, context_ids: Sequence[int] = (), *, skip_special: bool = True
    ) -> None:
        self._decoder = decoder
        self._skip_special = skip_special
        self._given = 0  # characters of the window's text
        self._unsure = 0  # tokens since the text had no U+FFFD at its end
        self._begin_with(list(context_ids[-WINDOW_TOKENS:]))

    def clone(self) -> "CharacterStream":
        """Another one that has come as far."""
        other = copy(self)
        other._window = list(self._window)
        return other

    def push(self, token: int) -> str:
        """The characters that `token` completes; often none."""
        self._window.append(token)
        text = self._text(self._window)
        sure = text.rstrip(REPLACEMENT)
        self._unsure = 0 if sure == text else self._unsure + 1
        if self._unsure > UNSURE_TOKENS:
            sure = text[:-UNSURE_CHARACTERS]
        new = sure[self._given :]
        self._given = max(self._given, len(sure))
        if len(self._window) > WINDOW_TOKENS and sure == text:
            self._begin_with(self._window)
        return new

    def flush(self) -> str:
        """What was held back: there will be no further id."""
        if not self._window:
            return ""
        text = self._text(self._window)
        rest = text[self._given :]
        self._given = len(text)
        return rest

    def _begin_with(self, ids: list[int]) -> None:
        """Keeps the last of `ids` as context, whose text counts as given out.

        It must not begin within a character: its bytes would never become text again.
        """
        for count in range(min(CONTEXT_TOKENS, len(ids)), -1, -1):
            self._window = ids[len(ids) - count :]
            text = self._text(self._window) if count else ""
            if not text.startswith(REPLACEMENT):
                break
        self._given = len(text)

    def _text(self, ids: Sequence[int]) -> str:
        return self._decoder.decode(ids, self._skip_special)


class StopFinder:
    """Finds the first stop string in a stream of text, holding back what may become one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """(text that is surely before any stop string, the stop string that was completed)."""
        self._held += text
        found = [(self._held.find(stop), stop) for stop in self._stop if stop in self._held]
        if found:
            start, stop = min(found, key=lambda item: (item[0], -len(item[1])))
            before, self._held = self._held[:start], ""
            return before, stop
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - keep
        sure, self._held = self._held[:cut], self._held[cut:]
        return sure, None

    def flush(self) -> str:
        """What was held back: it did not become a stop string."""
        held, self._held = self._held, ""
        return held


class TextStream:
    """The text of one answer, token by token.

    >>> stream = TextStream(tokenizer, prompt_ids, stop=("END",))
    >>> stream.push(17)
    ('Hello', None)
    """

    def __init__(
        self,
        decoder: Decoder,
        prompt_ids: Sequence[int] = (),
        stop: Sequence[str] = (),
        *,
        skip_special: bool = True,
    ) -> None:
        self._characters = CharacterStream(decoder, prompt_ids, skip_special=skip_special)
        self._finder = StopFinder(stop)

    def clone(self) -> "TextStream":
        """Another one that has come as far: where beams part."""
        other = copy(self)
        other._characters, other._finder = self._characters.clone(), copy(self._finder)
        return other

    def push(self, token: int) -> tuple[str, str | None]:
        """(new text that is final, the stop string that ended the answer or None)."""
        return self._finder.push(self._characters.push(token))

    def finish(self) -> tuple[str, str | None]:
        """The rest, when no token follows: an incomplete character comes out as U+FFFD."""
        text, stopped = self._finder.push(self._characters.flush())
        return (text, stopped) if stopped else (text + self._finder.flush(), None)


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop` without completing it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
