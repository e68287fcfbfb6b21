"""What clients may send, as OpenAI's API spells it; anything else is refused, never ignored.

Fields of that API that are not served yet are accepted with the value that changes nothing
(``n=1``, ``tools=null``), since clients send those unasked. `top_k`, `min_p`, `stop_token_ids`,
`ignore_eos` and `priority` are extensions, spelled as vLLM spells them; `timeout` is ours.
"""

import json
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from slipstream.engine.codec import Message
from slipstream.engine.request import STOP_STRINGS_MAX, TOP_LOGPROBS_MAX, SamplingParams

COMPLETION_TOKENS = 16  # OpenAI's default for /v1/completions
PROMPTS_MAX = 64


def only(*neutral: Any) -> AfterValidator:
    """For a field that is accepted as null or with these values: they ask for nothing special."""
    names = " or ".join(json.dumps(value) for value in neutral)

    def check(value: Any) -> Any:
        if value is not None and value not in neutral:
            raise ValueError(f"not supported yet{f', except as {names}' if names else ''}")
        return value

    return AfterValidator(check)


class Strict(BaseModel):
    """No field that is not listed."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Strict):
    """``stream_options``."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, only(False)] = None


class Generation(Strict):
    """The fields that both kinds of completion share."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=STOP_STRINGS_MAX)]
        | None
    ) = None
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = None
    ignore_eos: bool | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None  # names the caller; changes nothing
    priority: int | None = None  # the lower, the earlier it runs
    timeout: float | None = None  # seconds for the whole answer

    n: Annotated[Any, only(1)] = None
    frequency_penalty: Annotated[Any, only(0)] = None
    presence_penalty: Annotated[Any, only(0)] = None
    logit_bias: Annotated[Any, only({})] = None

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed with stream=true")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, max_tokens: int | None, top_logprobs: int | None) -> SamplingParams:
        """For the engine, with OpenAI's defaults; `top_logprobs` None: no logprobs at all."""
        return SamplingParams(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            max_tokens=max_tokens,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            stop_ids=frozenset(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            seed=None if self.seed is None else self.seed % 2**64,
            logprobs=top_logprobs is not None,
            top_logprobs=top_logprobs or 0,
        )


class TextPart(Strict):
    """A piece of a message's content; only text is served."""

    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    """One turn. What an assistant's earlier answer carries beside its content must be empty."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    name: Annotated[Any, only()] = None
    refusal: Annotated[Any, only()] = None
    tool_calls: Annotated[Any, only([])] = None
    function_call: Annotated[Any, only()] = None
    annotations: Annotated[Any, only([])] = None
    audio: Annotated[Any, only()] = None

    def message(self) -> Message:
        """As chat templates want it."""
        text = self.content
        if not isinstance(text, str):
            text = "".join(part.text for part in text)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ResponseFormat(Strict):
    """``response_format``: plain text alone."""

    type: Literal["text"]


class ChatRequest(Generation):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=TOP_LOGPROBS_MAX)] | None = None
    response_format: ResponseFormat | None = None

    tools: Annotated[Any, only([])] = None
    tool_choice: Annotated[Any, only("none", "auto")] = None
    parallel_tool_calls: bool | None = None  # without tools it changes nothing
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
        return self

    def params(self) -> SamplingParams:
        """For the engine."""
        top = (self.top_logprobs or 0) if self.logprobs else None
        return self.sampling(self.max_completion_tokens or self.max_tokens, top)


Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class CompletionRequest(Generation):
    """The body of ``POST /v1/completions``; each prompt gets its own choice."""

    prompt: (
        str | Ids | Annotated[list[str] | list[Ids], Field(min_length=1, max_length=PROMPTS_MAX)]
    )
    logprobs: Annotated[int, Field(ge=0, le=TOP_LOGPROBS_MAX)] | None = None

    best_of: Annotated[Any, only(1)] = None
    echo: Annotated[Any, only(False)] = None
    suffix: Annotated[Any, only("")] = None

    def prompts(self) -> list[str | list[int]]:
        """One entry per choice."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return [*cast(list[str | list[int]], self.prompt)]

    def params(self) -> SamplingParams:
        """For the engine."""
        return self.sampling(self.max_tokens or COMPLETION_TOKENS, self.logprobs)
