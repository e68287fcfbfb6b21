"""What the OpenAI-shaped routes answer, for the API document alone: replies are written by hand,
and tests hold them against these shapes.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Finish = Literal["stop", "length", "tool_calls"]


class Shape(BaseModel):
    """No field that is not listed."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Shape):
    """What is wrong, and where."""

    message: Annotated[str, Field(min_length=1)]
    type: Literal[
        "invalid_request_error", "rate_limit_error", "authentication_error", "server_error"
    ]
    param: str | None
    code: str


class Error(Shape):
    """Every refusal."""

    error: ErrorDetail


class CachedTokens(Shape):
    """Of the prompt, found in the prefix cache."""

    cached_tokens: Count


class Usage(Shape):
    """Tokens read and written."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: CachedTokens


class TokenLogprobShape(Shape):
    """One token."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChosenLogprob(TokenLogprobShape):
    """A token of the answer, and the likeliest in its place."""

    top_logprobs: list[TokenLogprobShape]


class ChatLogprobs(Shape):
    """Of a chat's answer."""

    content: list[ChosenLogprob]
    refusal: None


class CalledFunctionShape(Shape):
    """Arguments are JSON text."""

    name: str
    arguments: str


class CallShape(Shape):
    """One call."""

    id: str
    type: Literal["function"]
    function: CalledFunctionShape


class MessageShape(Shape):
    """The assistant's."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str = ""
    tool_calls: list[CallShape] = Field(default_factory=list)


PromptLogprobs = list[dict[str, Any] | None] | None


class ChatChoice(Shape):
    """One of `n`."""

    index: Count
    message: MessageShape
    logprobs: ChatLogprobs | None
    finish_reason: Finish
    prompt_logprobs: PromptLogprobs = None


class ChatCompletion(Shape):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextLogprobs(Shape):
    """Of a plain completion."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[Count]


class TextChoice(Shape):
    """One of `n` for each prompt."""

    index: Count
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish
    prompt_logprobs: PromptLogprobs = None


class TextCompletion(Shape):
    """A whole answer."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class Embedding(Shape):
    """One vector: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: Count
    embedding: list[float] | str


class EmbeddingUsage(Shape):
    """Tokens read."""

    prompt_tokens: Count
    total_tokens: Count


class Embeddings(Shape):
    """One vector for each input."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


class ModelCard(Shape):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: Count
    version: str


class ModelList(Shape):
    """All of them."""

    object: Literal["list"]
    data: list[ModelCard]


class Tokens(Shape):
    """A text's ids."""

    count: Count
    max_model_len: Count
    tokens: list[Count]
    token_strs: list[str] | None


class Detokenized(Shape):
    """The text of ids."""

    prompt: str
