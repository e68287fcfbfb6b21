"""What ``/v1/responses`` and Ollama's routes answer, for the API document alone."""

from typing import Annotated, Any, Literal

from pydantic import Field

from slipstream.serve.openapi_shapes import CachedTokens, ChosenLogprob, Count, Shape


class ReasoningTokens(Shape):
    """Of the answer, spent on reasoning."""

    reasoning_tokens: Count


class ResponseUsage(Shape):
    """Tokens read and written."""

    input_tokens: Count
    input_tokens_details: CachedTokens
    output_tokens: Count
    output_tokens_details: ReasoningTokens
    total_tokens: Count


class ResponseObject(Shape):
    """A response; `output` holds messages, calls and reasoning."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    error: None
    incomplete_details: dict[str, str] | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, None]
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage
    user: str | None


class ResponseDeleted(Shape):
    """It is forgotten."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputItems(Shape):
    """What a response was asked."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    has_more: Literal[False]


class OllamaError(Shape):
    """Every refusal of Ollama's routes."""

    error: Annotated[str, Field(min_length=1)]


class OllamaCalled(Shape):
    """Arguments are an object."""

    name: str
    arguments: Any


class OllamaCall(Shape):
    """One call."""

    function: OllamaCalled


class OllamaMessageShape(Shape):
    """The assistant's."""

    role: Literal["assistant"]
    content: str
    thinking: str = ""
    tool_calls: list[OllamaCall] = Field(default_factory=list)


class OllamaEnding(Shape):
    """How an answer ended; durations in nanoseconds."""

    model: str
    created_at: str
    done: Literal[True]
    done_reason: Literal["stop", "length", "load"]
    total_duration: Count = 0
    load_duration: Count = 0
    prompt_eval_count: Count = 0
    prompt_eval_duration: Count = 0
    eval_count: Count = 0
    eval_duration: Count = 0
    logprobs: list[ChosenLogprob] = Field(default_factory=list)


class OllamaChatAnswer(OllamaEnding):
    """A whole answer of ``/api/chat``."""

    message: OllamaMessageShape


class OllamaTextAnswer(OllamaEnding):
    """A whole answer of ``/api/generate``."""

    response: str
    thinking: str = ""


class OllamaModels(Shape):
    """All models."""

    models: list[dict[str, Any]]


class OllamaModel(Shape):
    """One model."""

    modified_at: str
    template: str
    details: dict[str, Any]
    model_info: dict[str, Any]
    capabilities: list[str]


class Version(Shape):
    """Of the server."""

    version: str
