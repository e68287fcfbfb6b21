"""Tools and the choice among them, as chat completions have them."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from slipstream.errors import RequestError
from slipstream.serve.openai import Strict
from slipstream.serve.tools.formats import Tool

Choice = Literal["auto", "none", "required"]
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class FunctionSpec(Strict):
    """A function. Its parameters are a JSON schema; `strict` changes nothing: see docs/api.md."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def tool(self) -> Tool:
        """For templates and parsers; templates get what `transformers` gives them."""
        parameters = self.parameters or {}
        function = {"name": self.name, "description": self.description or ""}
        spec = {"type": "function", "function": {**function, "parameters": parameters}}
        return Tool(self.name, parameters, spec)


class ToolSpec(Strict):
    """One of ``tools``."""

    type: Literal["function"]
    function: FunctionSpec

    def tool(self) -> Tool:
        """For templates and parsers."""
        return self.function.tool()


class FunctionName(Strict):
    """A function by name."""

    name: str


class NamedChoice(Strict):
    """``tool_choice`` of one function."""

    type: Literal["function"]
    function: FunctionName

    @property
    def name(self) -> str:
        """Its name."""
        return self.function.name


class FunctionCall(Strict):
    """What an assistant called."""

    name: str
    arguments: str


class ToolCall(Strict):
    """One of an assistant's ``tool_calls``."""

    id: str
    type: Literal["function"]
    function: FunctionCall
    index: Annotated[int, Field(ge=0)] | None = None  # clients that gather a stream send it back

    def message(self) -> dict[str, Any]:
        """As chat templates want it."""
        return call_message(self.id, self.function.name, self.function.arguments)


def call_message(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """A call as chat templates want it: arguments as an object, where they are one."""
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        parsed = arguments
    function = {"name": name, "arguments": parsed if isinstance(parsed, dict) else arguments}
    return {"id": call_id, "type": "function", "function": function}


def chosen(tools: Sequence[Tool], choice: Any) -> tuple[Sequence[Tool], Choice]:
    """(the tools that may be called, how). A named choice leaves that one, required.

    `choice` is a word, an object with a `name`, or None. RequestError where tools lack.
    """
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise RequestError("tools: two functions have the same name")
    if choice is None or choice in ("auto", "none"):
        return tools, choice or "auto"
    if choice == "required":
        if not tools:
            raise RequestError("tool_choice: 'required' needs tools")
        return tools, "required"
    found = [tool for tool in tools if tool.name == choice.name]
    if not found:
        raise RequestError(f"tool_choice: there is no tool named '{choice.name}'")
    return found, "required"
