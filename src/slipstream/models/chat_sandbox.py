"""The Jinja environment in which chat templates run: what Hugging Face templates expect, bounded.

A template comes with a model that a stranger may have made. Jinja's immutable sandbox keeps it from
touching Python; here it is also kept from running for ever or filling the memory: loop turns and
calls are counted, and sizes are checked (`chat_bounds`) before they grow. `chat` is the caller.
"""

import json
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
from slipstream.models import chat_bounds as bounds

MAX_STEPS = 1_000_000  # of one rendering: a loop turn is one step, a call is several
STEPS_OF_A_CALL = 10


@dataclass
class Budget:
    """What one rendering may still do; `now` is its clock."""

    now: Callable[[], datetime]
    steps: int = MAX_STEPS

    def step(self, cost: int = 1) -> None:
        """Count a loop turn, or a call at its `cost`."""
        self.steps -= cost
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
        finalize=_printable,
    )
    sandbox.filters["tojson"] = _tojson
    filters = sandbox.filters.items()
    sandbox.filters = {name: _bounded(name, function) for name, function in filters}
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
            bounds.check_product(left, right)
        elif operator == "**" and (abs(right) > 64 or abs(left) > 1 << 64):
            raise TemplateError("the chat template raises a number to too high a power")
        elif operator == "%" and isinstance(left, str):
            bounds.check_format(left, right if isinstance(right, tuple) else [right])
        elif operator == "+":
            bounds.check_length(bounds.size_of(left) + bounds.size_of(right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, *arguments: Any, **named: Any) -> Any:
        """A call from the template: counted, a text's methods and the result bounded."""
        budget.get().step(STEPS_OF_A_CALL)
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            everything = (*arguments, *named.values())
            bounds.check_numbers(everything)
            bounds.check_method(owner, function.__name__, everything)
        result = super().call(context, function, *arguments, **named)
        bounds.check_length(bounds.size_of(result))
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``text.format``, which Jinja replaces by a safer one of its own."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text = value.__self__

        def checked(*arguments: Any, **named: Any) -> str:
            bounds.check_format(text, (*arguments, *named.values()))
            return wrapped(*arguments, **named)

        return checked

    def concat_bounded(self, parts: Iterable[Any]) -> str:
        """``a ~ b ~ c``."""
        texts = [str(_printable(part)) for part in parts]
        bounds.check_length(sum(map(len, texts)))
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


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose arguments are checked before it runs, and whose result after."""

    @wraps(function)
    def checked(*arguments: Any, **named: Any) -> Any:
        budget.get().step(STEPS_OF_A_CALL)
        subject, *rest = _without_context(arguments)
        bounds.check_filter(name, subject, (*rest, *named.values()))
        result = function(*arguments, **named)
        bounds.check_length(bounds.size_of(result))
        return result

    return checked


def _without_context(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The filter's own arguments: Jinja may put its context or environment before them."""
    kinds = (Context, ImmutableSandboxedEnvironment, nodes.EvalContext)
    return arguments[1:] if isinstance(arguments[0], kinds) else arguments


def _printable(value: Any) -> Any:
    """What an expression gives, about to be written out."""
    if isinstance(value, list | tuple | dict):
        bounds.check_written(value)
    return value


def _raise_exception(message: str) -> None:
    raise TemplateError(f"the chat template refuses these messages: {message}")


def _strftime_now(pattern: str) -> str:
    bounds.check_format(pattern, ())
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
