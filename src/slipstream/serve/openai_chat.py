"""The body of ``POST /v1/chat/completions``."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from slipstream.engine.grammar import Grammar
from slipstream.engine.request import TOP_LOGPROBS_MAX, SamplingParams
from slipstream.serve.conversation import Conversation
from slipstream.serve.openai import Generation, NonEmpty, Strict, only
from slipstream.serve.openai_messages import ChatMessage
from slipstream.serve.openai_tools import NamedChoice, ToolSpec, chosen


class TextFormat(Strict):
    """Plain text: what one gets anyway."""

    type: Literal["text"]

    def grammar(self) -> Grammar | None:
        """None: anything goes."""
        return None


class JsonObjectFormat(Strict):
    """Any JSON object."""

    type: Literal["json_object"]

    def grammar(self) -> Grammar | None:
        """For the engine."""
        return Grammar("json_object")


class NamedSchema(Strict):
    """``json_schema``. The schema is enforced whether `strict` or not."""

    name: NonEmpty
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(Strict):
    """JSON that a schema describes."""

    type: Literal["json_schema"]
    json_schema: NamedSchema

    def grammar(self) -> Grammar | None:
        """For the engine."""
        schema = self.json_schema.schema_
        return Grammar("json_object") if schema is None else json_schema_grammar(schema)


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]


class ChatRequest(Generation):
    """Messages in, the assistant's next one out."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=TOP_LOGPROBS_MAX)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[ToolSpec] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    functions: Annotated[Any, only([])] = None
    function_call: Annotated[Any, only("none", "auto")] = None
    modalities: Annotated[Any, only(["text"])] = None
    audio: Annotated[Any, only()] = None
    prediction: Annotated[Any, only()] = None
    reasoning_effort: Annotated[Any, only()] = None
    verbosity: Annotated[Any, only()] = None
    web_search_options: Annotated[Any, only()] = None
    service_tier: Annotated[Any, only("auto", "default")] = None
    store: Annotated[Any, only(False)] = None
    metadata: Annotated[Any, only({})] = None
    safety_identifier: str | None = None  # like `user`
    prompt_cache_key: str | None = None  # a hint; changes no answer

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.max_tokens and self.max_completion_tokens not in (None, self.max_tokens):
            raise ValueError("max_tokens and max_completion_tokens differ; give one")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=true")
        if self.response_format is not None and self.structured_outputs is not None:
            raise ValueError("give response_format or structured_outputs, not both")
        return self

    def params(self) -> SamplingParams:
        """For the engine."""
        top = (self.top_logprobs or 0) if self.logprobs else None
        return self.sampling(self.max_completion_tokens or self.max_tokens, top)

    def grammar(self) -> Grammar | None:
        """What the answer must look like, where it is no call."""
        if self.response_format is not None:
            return self.response_format.grammar()
        return super().grammar()

    def conversation(self) -> Conversation:
        """For `prepare`. RequestError for a choice of a tool that is not there."""
        specs: Sequence[ToolSpec] = self.tools or ()
        tools, choice = chosen([spec.tool() for spec in specs], self.tool_choice)
        return Conversation(
            messages=[message.message() for message in self.messages],
            tools=tools,
            choice=choice,
            parallel=self.parallel_tool_calls is not False,
            grammar=self.grammar(),
            template=self.chat_template_kwargs or {},
        )


def json_schema_grammar(schema: dict[str, Any]) -> Grammar:
    """For the engine."""
    return Grammar("json_schema", json.dumps(schema))
