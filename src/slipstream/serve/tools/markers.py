"""Finding markers such as ``<tool_call>`` in text that arrives in pieces."""


def held_back(text: str, markers: tuple[str, ...]) -> int:
    """How many characters at the end of `text` may be the beginning of a marker.

    >>> held_back("well <tool", ("<tool_call>",))
    5
    """
    longest = max((len(marker) for marker in markers), default=1) - 1
    for length in range(min(len(text), longest), 0, -1):
        end = text[-length:]
        if any(marker.startswith(end) for marker in markers if len(marker) > length):
            return length
    return 0


def first_marker(text: str, markers: tuple[str, ...]) -> tuple[int, str] | None:
    """Where the first marker in `text` begins, and which it is; None without one."""
    found = [(text.find(marker), marker) for marker in markers if marker in text]
    return min(found, default=None)
