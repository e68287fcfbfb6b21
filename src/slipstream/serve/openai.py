"""What clients may send, as OpenAI's API spells it; anything else is refused, never ignored.

Here are the fields that chat and plain completions share. Fields of that API that are not served
are accepted with the value that changes nothing (``suffix=""``), since clients send those unasked.
Extensions are spelled as vLLM spells them (`top_k`, `min_p`, `repetition_penalty`,
`structured_outputs`, `priority` …); `timeout`, `typical_p` and `beam_width` are ours.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from slipstream.engine.grammar import Grammar
from slipstream.engine.request import (
    BAD_WORDS_MAX,
    BEAM_WIDTH_MAX,
    BIASES_MAX,
    CHOICES_MAX,
    STOP_STRINGS_MAX,
    TOP_LOGPROBS_MAX,
    SamplingParams,
)
from slipstream.errors import RequestError


@dataclass(frozen=True)
class Only(AfterValidator):
    """What `only` makes."""

    values: tuple[Any, ...] = ()

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """In the API document: null, or one of the values."""
        return {"enum": [None, *self.values]}


def only(*neutral: Any) -> Only:
    """For a field that is accepted as null or with these values: they ask for nothing special."""
    names = " or ".join(json.dumps(value) for value in neutral)

    def check(value: Any) -> Any:
        if value is not None and not any(_same(value, one) for one in neutral):
            raise ValueError(f"not supported{f', except as {names}' if names else ''}")
        return value

    return Only(check, neutral)


def _same(value: Any, other: Any) -> bool:
    """Equal as JSON: False is not 0 there."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


class Strict(BaseModel):
    """No field that is not listed. Validators are built when first used: starts are quicker."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)


class StreamOptions(Strict):
    """``stream_options``."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, only(False)] = None


class StructuredOutputs(Strict):
    """``structured_outputs``, as vLLM has it: exactly one of its fields."""

    json_schema: dict[str, Any] | str | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1)] | None = None
    grammar: str | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of json, json_object, regex, choice and grammar")
        return self

    def engine_grammar(self) -> Grammar | None:
        """For the engine."""
        if self.json_schema is not None:
            schema = self.json_schema
            return Grammar("json_schema", schema if isinstance(schema, str) else json.dumps(schema))
        if self.regex is not None:
            return Grammar("regex", self.regex)
        if self.choice is not None:
            return Grammar("choice", json.dumps(self.choice))
        if self.grammar is not None:
            return Grammar("ebnf", self.grammar)
        return Grammar("json_object") if self.json_object else None


NonEmpty = Annotated[str, Field(min_length=1)]
TokenId = Annotated[int, Field(ge=0)]


class Generation(Strict):
    """The fields that both kinds of completion share."""

    model: str
    n: Annotated[int, Field(ge=1, le=CHOICES_MAX)] | None = None
    beam_width: Annotated[int, Field(ge=1, le=BEAM_WIDTH_MAX)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    logit_bias: (
        Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=BIASES_MAX)]
        | None
    ) = None
    allowed_token_ids: Annotated[list[TokenId], Field(min_length=1)] | None = None
    bad_words: Annotated[list[NonEmpty], Field(max_length=BAD_WORDS_MAX)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    stop: NonEmpty | Annotated[list[NonEmpty], Field(max_length=STOP_STRINGS_MAX)] | None = None
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=TOP_LOGPROBS_MAX)] | None = None
    structured_outputs: StructuredOutputs | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None  # names the caller; changes nothing
    priority: int | None = None  # the lower, the earlier it runs
    timeout: float | None = None  # seconds for the whole answer

    @model_validator(mode="after")
    def _stream_fits(self) -> Self:
        if self.stream and (self.beam_width or 1) > 1:
            raise ValueError("beam search is not streamed; give stream=false or beam_width=1")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed with stream=true")
        return self

    @property
    def answers(self) -> int:
        """How many requests run at once for one prompt."""
        return max(self.n or 1, self.beam_width or 1)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def grammar(self) -> Grammar | None:
        """What the whole answer must look like."""
        return self.structured_outputs.engine_grammar() if self.structured_outputs else None

    def sampling(self, max_tokens: int | None, top_logprobs: int | None) -> SamplingParams:
        """For the engine, with OpenAI's defaults; `top_logprobs` None: no logprobs at all."""
        return SamplingParams(
            n=self.n or 1,
            beam_width=self.beam_width or 1,
            temperature=self._temperature(),
            top_p=self.top_p or 1.0,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            typical_p=self.typical_p or 1.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            logit_bias=_bias(self.logit_bias or {}),
            allowed_ids=None
            if self.allowed_token_ids is None
            else frozenset(self.allowed_token_ids),
            bad_words=tuple(self.bad_words or ()),
            max_tokens=max_tokens,
            min_tokens=self.min_tokens or 0,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            stop_ids=frozenset(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            seed=None if self.seed is None else self.seed % 2**64,
            logprobs=top_logprobs is not None,
            top_logprobs=top_logprobs or 0,
            prompt_logprobs=self.prompt_logprobs,
            grammar=self.grammar(),
        )

    def _temperature(self) -> float:
        """OpenAI's default is 1; beams are not drawn."""
        if self.temperature is None:
            return 0.0 if (self.beam_width or 1) > 1 else 1.0
        return self.temperature


def _bias(given: dict[str, float]) -> tuple[tuple[int, float], ...]:
    """Token ids arrive as JSON's keys, which are strings."""
    try:
        return tuple((int(token), value) for token, value in given.items())
    except ValueError as error:
        raise RequestError("logit_bias: its keys must be token ids") from error
