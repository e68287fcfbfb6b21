"""The messages of a chat, as OpenAI's API has them."""

from typing import Annotated, Any, Literal, Self

from pydantic import model_validator

from slipstream.engine.codec import Message
from slipstream.serve.openai import Strict, only
from slipstream.serve.openai_tools import ToolCall


class TextPart(Strict):
    """A piece of a message's content; only text is served."""

    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    """One turn. What an assistant's earlier answer carries beside its content must be empty."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None  # of the tool that was called

    refusal: Annotated[Any, only()] = None
    function_call: Annotated[Any, only()] = None
    annotations: Annotated[Any, only([])] = None
    audio: Annotated[Any, only()] = None

    @model_validator(mode="after")
    def _fields_fit_the_role(self) -> Self:
        if self.content is None and not self.tool_calls:
            raise ValueError("content: Missing required parameter")
        if self.role != "assistant" and (self.tool_calls or self.reasoning_content):
            raise ValueError("tool_calls and reasoning_content belong to an assistant's message")
        if self.role != "tool" and self.name is not None:
            raise ValueError("name is not supported, except in a tool's message")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise ValueError("a tool's message, and only that, has a tool_call_id")
        return self

    def message(self) -> Message:
        """As chat templates want it: no key that has nothing to say."""
        made: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": text_of(self.content),
        }
        if self.tool_calls:
            made["tool_calls"] = [call.message() for call in self.tool_calls]
        if self.reasoning_content:
            made["reasoning_content"] = self.reasoning_content
        if self.tool_call_id is not None:
            made["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            made["name"] = self.name
        return made


def text_of(content: str | list[TextPart] | None) -> str:
    """The text of a message."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)
