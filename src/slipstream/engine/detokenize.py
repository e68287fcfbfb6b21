"""Token ids to text while they come: no character is ever split, no stop string slips through.

The engine keeps one `TextStream` per answer. What it returns is final: the pieces, joined, are the
text of the whole answer.
"""

from collections.abc import Sequence

from slipstream.engine.codec import Decoder

REPLACEMENT = "\ufffd"  # what decoders write for bytes that are not a character (yet)
CONTEXT_TOKENS = 6  # earlier tokens decoded along: spacing depends on them, and a character
WINDOW_TOKENS = 24  # spans at most 4; the window is cut back to CONTEXT when it is longer


class CharacterStream:
    """Turns ids into characters, holding back a last one that may be incomplete.

    window   … context │ given out │ new
    text     … … … … … │ … … … … … │ sure … … �      a last U+FFFD may yet become a character
                                   given            so it waits for the next id
    """

    def __init__(
        self, decoder: Decoder, context_ids: Sequence[int] = (), *, skip_special: bool = True
    ) -> None:
        self._decoder = decoder
        self._skip_special = skip_special
        self._window = list(context_ids[-CONTEXT_TOKENS:])
        self._given = len(self._text()) if self._window else 0

    def push(self, token: int) -> str:
        """The characters that `token` completes; often none."""
        self._window.append(token)
        text = self._text()
        sure = text.removesuffix(REPLACEMENT)
        new = sure[self._given :]
        self._given = max(self._given, len(sure))
        if len(self._window) > WINDOW_TOKENS and sure == text:
            self._window = self._window[-CONTEXT_TOKENS:]
            self._given = len(self._text())
        return new

    def flush(self) -> str:
        """What was held back: there will be no further id."""
        if not self._window:
            return ""
        text = self._text()
        rest = text[self._given :]
        self._given = len(text)
        return rest

    def _text(self) -> str:
        return self._decoder.decode(self._window, self._skip_special)


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
