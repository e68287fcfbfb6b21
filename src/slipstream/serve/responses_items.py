"""The items of ``/v1/responses`` as clients send them, and the messages that they mean.

Items are what a response stores and what the next one continues from, so the model's own output
items are accepted as input too.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from slipstream.engine.codec import Message
from slipstream.serve.openai import Strict, only
from slipstream.serve.openai_tools import call_message

Status = Literal["in_progress", "completed", "incomplete"]


class TextContent(Strict):
    """A piece of text in a message or in a tool's output."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: Annotated[Any, only([])] = None
    logprobs: Annotated[Any, only([])] = None


class MessageItem(Strict):
    """A turn; also one that the model wrote in an earlier response."""

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextContent]
    id: str | None = None
    status: Status | None = None
    phase: Annotated[Any, only()] = None


class CallItem(Strict):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None


class CallOutputItem(Strict):
    """What a call brought."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[TextContent]
    id: str | None = None
    status: Status | None = None


class ReasoningText(Strict):
    """A piece of reasoning."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(Strict):
    """What the model thought in an earlier response."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: Annotated[Any, only([])] = None
    content: list[ReasoningText] | None = None
    encrypted_content: Annotated[Any, only()] = None
    status: Status | None = None


def _kind(item: Any) -> str:
    kind = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return kind if isinstance(kind, str) else "message"


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[CallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_kind),
]
Items = Annotated[list[Item], Field(min_length=1)]


def messages_of(items: Sequence[Any]) -> list[Message]:
    """The chat that `items` are: an assistant's text, reasoning and calls in a row are one turn."""
    messages: list[dict[str, Any]] = []
    for item in items:
        match item:
            case MessageItem():
                role = "system" if item.role == "developer" else item.role
                if role == "assistant":
                    turn = _assistant(messages)
                    turn["content"] += _text(item.content)
                else:
                    messages.append({"role": role, "content": _text(item.content)})
            case CallItem():
                calls = _assistant(messages).setdefault("tool_calls", [])
                calls.append(call_message(item.call_id, item.name, item.arguments))
            case CallOutputItem():
                output = {"role": "tool", "tool_call_id": item.call_id}
                messages.append({**output, "content": _text(item.output)})
            case ReasoningItem():
                thought = "".join(part.text for part in item.content or ())
                if thought:
                    _assistant(messages)["reasoning_content"] = thought
    return list(messages)


def _assistant(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The assistant's turn at the end, begun if need be."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _text(content: str | list[TextContent]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
