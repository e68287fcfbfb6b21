"""The body of ``POST /v1/responses``."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from slipstream.engine.grammar import Grammar
from slipstream.engine.request import SamplingParams
from slipstream.serve.conversation import Conversation
from slipstream.serve.openai import NonEmpty, StreamOptions, Strict, only
from slipstream.serve.openai_chat import JsonObjectFormat, TextFormat
from slipstream.serve.openai_tools import FunctionSpec, chosen
from slipstream.serve.responses_items import Item, Items, MessageItem, messages_of


class SchemaFormat(Strict):
    """JSON that a schema describes; enforced whether `strict` or not."""

    type: Literal["json_schema"]
    name: NonEmpty
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None

    def grammar(self) -> Grammar:
        """For the engine."""
        return Grammar("json_schema", json.dumps(self.schema_))


class TextOptions(Strict):
    """``text``."""

    format: (
        Annotated[TextFormat | JsonObjectFormat | SchemaFormat, Field(discriminator="type")] | None
    ) = None
    verbosity: Annotated[Any, only("medium")] = None


class ReasoningOptions(Strict):
    """``reasoning``: nothing to choose yet; see `chat_template_kwargs`."""

    effort: Annotated[Any, only()] = None
    summary: Annotated[Any, only()] = None
    generate_summary: Annotated[Any, only()] = None


class FunctionTool(FunctionSpec):
    """One of ``tools``: a function, without the wrapping that chat completions have."""

    type: Literal["function"]


class NamedFunction(Strict):
    """``tool_choice`` of one function."""

    type: Literal["function"]
    name: str


class ResponsesRequest(Strict):
    """`input` continues the conversation of `previous_response_id`, if that is given."""

    model: str
    input: str | Items
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None  # yes, unless said otherwise
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    priority: int | None = None
    timeout: float | None = None

    truncation: Annotated[Any, only("disabled")] = None
    include: Annotated[Any, only([])] = None
    background: Annotated[Any, only(False)] = None
    conversation_: Annotated[Any, only()] = Field(None, alias="conversation")
    max_tool_calls: Annotated[Any, only()] = None
    prompt: Annotated[Any, only()] = None
    service_tier: Annotated[Any, only("auto", "default")] = None
    top_logprobs: Annotated[Any, only(0)] = None

    def items(self) -> list[Item]:
        """The input as items."""
        if isinstance(self.input, str):
            return [MessageItem(type="message", role="user", content=self.input)]
        return list(self.input)

    def conversation(self, earlier: Sequence[Item]) -> Conversation:
        """For `prepare`; `earlier` items come before the input."""
        specs: Sequence[FunctionTool] = self.tools or ()
        tools, choice = chosen([spec.tool() for spec in specs], self.tool_choice)
        said = messages_of([*earlier, *self.items()])
        orders = [{"role": "system", "content": self.instructions}] if self.instructions else []
        shape = self.text.format if self.text else None
        return Conversation(
            messages=[*orders, *said],
            tools=tools,
            choice=choice,
            parallel=self.parallel_tool_calls is not False,
            grammar=shape.grammar() if shape else None,
            template=self.chat_template_kwargs or {},
        )

    def params(self) -> SamplingParams:
        """For the engine, with OpenAI's defaults."""
        return SamplingParams(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            seed=None if self.seed is None else self.seed % 2**64,
            max_tokens=self.max_output_tokens,
        )
