"""The bodies of ``/tokenize`` and ``/detokenize``, spelled as vLLM spells them."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from slipstream.serve.conversation import Conversation
from slipstream.serve.openai import Strict, only
from slipstream.serve.openai_messages import ChatMessage
from slipstream.serve.openai_tools import ToolSpec


class TokenizeRequest(Strict):
    """Either a `prompt`, or the `messages` of a chat, which the model's template renders.

    `model` may be left out where a server has one.
    """

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    tools: list[ToolSpec] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: Annotated[Any, only(True)] = None
    continue_final_message: Annotated[Any, only(False)] = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self

    def conversation(self) -> Conversation | None:
        """The chat, if it is one."""
        if self.messages is None:
            return None
        return Conversation(
            messages=[message.message() for message in self.messages],
            tools=[spec.tool() for spec in self.tools or ()],
            template=self.chat_template_kwargs or {},
        )


class DetokenizeRequest(Strict):
    """Token ids; special ones are spelled out."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]
