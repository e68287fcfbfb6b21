"""How large the values of a chat template may grow, checked before they do.

`chat_sandbox` calls these in front of every operation whose result can be far larger than what it
works on. Each raises `TemplateError`; none changes a value.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from slipstream.errors import TemplateError

MAX_LENGTH = 16_000_000  # characters of a text, items of a list
COST_OF_AN_ITEM = 80  # characters that one item of a list counts for, when it is written out
LONGEST_WIDTH = re.compile(r"\d{6}")
WIDTH_ARGUMENT = re.compile(r":[^{}]*{")
WRITERS = frozenset({"string", "join", "pprint", "format", "urlencode", "list", "sum", "tojson"})


def size_of(value: Any) -> int:
    """Characters or items."""
    return len(value) if isinstance(value, str | list | tuple | dict) else 0


def check_length(length: int) -> None:
    """Of a text or list about to be made."""
    if length > MAX_LENGTH:
        raise TemplateError(f"the chat template makes a text longer than {MAX_LENGTH} characters")


def check_numbers(values: Iterable[Any]) -> None:
    """Widths, counts and repetitions."""
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_LENGTH:
            raise TemplateError("the chat template uses a number that is too large")


def check_product(left: Any, right: Any) -> None:
    """``left * right``."""
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > 4096:
            raise TemplateError("the chat template uses a number that is too large")
    elif isinstance(right, int):
        check_length(size_of(left) * right)
    elif isinstance(left, int):
        check_length(size_of(right) * left)


def check_format(text: str, arguments: Sequence[Any]) -> None:
    """``text % arguments`` and ``text.format(…)``."""
    if LONGEST_WIDTH.search(text):
        raise TemplateError("the chat template formats to a width of more than 99999 characters")
    if WIDTH_ARGUMENT.search(text) or "*" in text:
        check_numbers(arguments)
    check_written(list(arguments) * max(1, min(text.count("{"), 1000)))


def check_written(*values: Any) -> None:
    """Values about to become text: lists within lists may be far longer than they look."""
    total, waiting = 0, list(values)
    while waiting:
        value = waiting.pop()
        total += size_of(value) + COST_OF_AN_ITEM
        if total > MAX_LENGTH:
            raise TemplateError("the chat template writes out a value that is too large")
        if isinstance(value, dict):
            waiting.extend(value.keys())
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)


def check_filter(name: str, subject: Any, arguments: Sequence[Any]) -> None:
    """``subject | name(arguments)``."""
    if name not in ("default", "d"):
        check_numbers(arguments)
    if isinstance(subject, str):
        check_method(subject, name, arguments)
    if name in WRITERS and not isinstance(subject, str):
        check_written(subject)
    if name == "join":
        check_length((size_of(subject) + 1) * max([0, *map(size_of, arguments)]))


def check_method(text: str, name: str, arguments: Sequence[Any]) -> None:
    """``text.name(arguments)``, and filters of a text."""
    texts = [len(argument) for argument in arguments if isinstance(argument, str)]
    widths = [argument for argument in arguments if isinstance(argument, int)]
    if name == "replace" and len(texts) >= 2:
        check_length((len(text) // max(1, texts[0]) + 1) * texts[1])
    elif name == "join":
        check_written(*arguments)
        check_length(len(text) * max([0, *map(size_of, arguments)]))
    elif name == "format":
        check_format(text, arguments)
    elif name == "expandtabs":
        check_length(len(text) * max([8, *widths]))
    elif name == "indent":
        check_length(len(text) + (text.count("\n") + 1) * max([4, *widths, *texts]))
    elif name == "wordwrap":
        check_length(len(text) * max([1, *texts]))
    elif name == "translate":
        raise TemplateError("the chat template uses translate, which is not supported")
