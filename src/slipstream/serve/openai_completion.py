"""The body of ``POST /v1/completions``."""

from typing import Annotated, Any, Self, cast

from pydantic import Field, model_validator

from slipstream.engine.request import TOP_LOGPROBS_MAX, SamplingParams
from slipstream.serve.openai import Generation, only

COMPLETION_TOKENS = 16  # OpenAI's default
PROMPTS_MAX = 64

Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class CompletionRequest(Generation):
    """Each prompt gets its own `n` choices, in the prompts' order."""

    prompt: (
        str | Ids | Annotated[list[str] | list[Ids], Field(min_length=1, max_length=PROMPTS_MAX)]
    )
    logprobs: Annotated[int, Field(ge=0, le=TOP_LOGPROBS_MAX)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    suffix: Annotated[Any, only("")] = None

    @model_validator(mode="after")
    def _best_of_is_n(self) -> Self:
        if self.best_of not in (None, self.n or 1):
            raise ValueError("best_of is not supported, except as n")
        return self

    def prompts(self) -> list[str | list[int]]:
        """One entry per prompt."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return [*cast(list[str | list[int]], self.prompt)]

    def params(self) -> SamplingParams:
        """For the engine; an echo with logprobs needs the prompt's too."""
        if self.echo and self.logprobs is not None and self.prompt_logprobs is None:
            asked = self.model_copy(update={"prompt_logprobs": self.logprobs})
        else:
            asked = self
        return asked.sampling(self.max_tokens or COMPLETION_TOKENS, self.logprobs)
