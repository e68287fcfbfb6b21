"""The Jinja environment in which chat templates run: what Hugging Face templates expect, bounded.

A template comes with a model that a stranger may have made. Jinja's immutable sandbox keeps it from
touching Python; here it is also kept from running for ever or filling the memory: every loop turn
and call is counted, and no text or list may outgrow `MAX_LENGTH`. `chat` is the caller.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import cache, wraps
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from slipstream.errors import TemplateError

MAX_STEPS = 2_000_000  # loop turns and calls of one rendering
MAX_LENGTH = 16_000_000  # characters of a text, items of a list


@dataclass
class Budget:
    """What one rendering may still do; `now` is its clock."""

    now: Callable[[], datetime]
    steps: int = MAX_STEPS

    def step(self) -> None:
        """Count one loop turn or call."""
        self.steps -= 1
        if self.steps < 0:
            raise TemplateError(f"the chat template takes more than {MAX_STEPS} steps")


budget: ContextVar[Budget] = ContextVar("budget")


@cache
def environment() -> "Sandbox":
    """The one environment of the process; templates compiled in it may run in any thread."""
    sandbox = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, loopcontrols],
        autoescape=False,
    )
    sandbox.filters = {name: _bounded(function) for name, function in sandbox.filters.items()}
    sandbox.filters["tojson"] = _tojson
    sandbox.globals.pop("lipsum", None)
    sandbox.globals["raise_exception"] = _raise_exception
    sandbox.globals["strftime_now"] = _strftime_now
    return sandbox


class Generation(Extension):
    """``{% generation %}…{% endgeneration %}`` marks the assistant's text for training: a scope."""

    tags = {"generation"}  # noqa: RUF012 (declared by Jinja as an instance variable)

    def parse(self, parser: Parser) -> nodes.Node:
        """The body, with assignments kept inside, as transformers has it."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Generator(CodeGenerator):
    """Jinja's code generator with `~` and `for` going through the sandbox."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat_bounded((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        counted = nodes.EnvironmentAttribute("counted")
        node.iter = nodes.Call(counted, [node.iter], [], None, None, lineno=node.lineno)
        super().visit_For(node, frame)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with every way to grow without end closed, as far as we know them."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An arithmetic operation, refused where its result would be too large."""
        if operator == "*":
            _check_product(left, right)
        elif operator == "**" and (abs(right) > 64 or abs(left) > 1 << 64):
            raise TemplateError("the chat template raises a number to too high a power")
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        elif operator == "+":
            _check_length(_size(left) + _size(right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, *arguments: Any, **named: Any) -> Any:
        """A call from the template: counted, its arguments and result bounded."""
        budget.get().step()
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            _check_text_method(owner, function.__name__, arguments)
        _check_numbers(arguments, named)
        result = super().call(context, function, *arguments, **named)
        _check_length(_size(result))
        return result

    def concat_bounded(self, parts: Iterable[Any]) -> str:
        """``a ~ b ~ c``."""
        texts = [str(part) for part in parts]
        _check_length(sum(map(len, texts)))
        return "".join(texts)

    def counted(self, items: Any) -> Any:
        """The items of a loop, each counted; a list keeps its length."""
        return _CountedItems(items) if hasattr(items, "__len__") else _count(items)


class _CountedItems:
    def __init__(self, items: Any) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return _count(self._items)


def _count(items: Iterable[Any]) -> Iterator[Any]:
    spend = budget.get()
    for item in items:
        spend.step()
        yield item


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose numbers are checked before it runs, and whose result after."""

    @wraps(function)
    def checked(*arguments: Any, **named: Any) -> Any:
        budget.get().step()
        _check_numbers(arguments, named)
        subject, *rest = _without_context(arguments)
        if isinstance(subject, str):
            _check_text_method(subject, function.__name__.removeprefix("do_"), rest)
        elif function.__name__ == "sync_do_join" and isinstance(subject, list | tuple):
            separator = rest[0] if rest else ""
            _check_length(_joined(str(separator), subject))
        result = function(*arguments, **named)
        _check_length(_size(result))
        return result

    return checked


def _without_context(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The filter's own arguments: Jinja may put its context or environment before them."""
    kinds = (Context, ImmutableSandboxedEnvironment, nodes.EvalContext)
    return arguments[1:] if isinstance(arguments[0], kinds) else arguments


def _check_text_method(text: str, name: str, arguments: Any) -> None:
    """Methods and filters of a text whose result can be far larger than it is."""
    if name == "replace" and len(arguments) >= 2 and isinstance(arguments[1], str):
        old = max(1, len(arguments[0])) if isinstance(arguments[0], str) else 1
        _check_length((len(text) // old + 1) * len(arguments[1]))
    elif name == "join" and arguments and isinstance(arguments[0], list | tuple):
        _check_length(_joined(text, arguments[0]))
    elif name in {"format", "format_map"}:
        _check_format(text)
    elif name == "expandtabs":
        _check_length(len(text) * max(8, *(int(width) for width in arguments), 8))
    elif name == "indent" and arguments and isinstance(arguments[0], int):
        _check_length(len(text) + (text.count("\n") + 1) * arguments[0])


def _joined(separator: str, items: Iterable[Any]) -> int:
    return sum(_size(item) + len(separator) for item in items)


def _check_numbers(arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    for value in (*arguments, *named.values()):
        if isinstance(value, int) and abs(value) > MAX_LENGTH and value.bit_length() > 64:
            raise TemplateError("the chat template uses a number that is too large")


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > 4096:
            raise TemplateError("the chat template uses a number that is too large")
    elif isinstance(right, int):
        _check_length(_size(left) * right)
    elif isinstance(left, int):
        _check_length(_size(right) * left)


def _check_format(text: str) -> None:
    if re.search(r"\d{6}", text):
        raise TemplateError("the chat template formats to a width of more than 99999 characters")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else 0


def _check_length(length: int) -> None:
    if length > MAX_LENGTH:
        raise TemplateError(f"the chat template makes a text longer than {MAX_LENGTH} characters")


def _raise_exception(message: str) -> None:
    raise TemplateError(f"the chat template refuses these messages: {message}")


def _strftime_now(pattern: str) -> str:
    return budget.get().now().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escaping, as transformers has it."""
    if isinstance(indent, int) and indent > 100:
        raise TemplateError("the chat template indents JSON by more than 100 characters")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
