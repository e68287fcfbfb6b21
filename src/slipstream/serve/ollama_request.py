"""The bodies of Ollama's ``/api/chat`` and ``/api/generate``; what is not served is refused.

Defaults are Ollama's, except that nothing is penalized for repeating unless asked.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from slipstream.engine.codec import Message
from slipstream.engine.grammar import Grammar
from slipstream.engine.request import STOP_STRINGS_MAX, TOP_LOGPROBS_MAX, SamplingParams
from slipstream.errors import RequestError
from slipstream.serve.conversation import Conversation
from slipstream.serve.openai import NonEmpty, Strict, only
from slipstream.serve.openai_tools import ToolName
from slipstream.serve.tools.formats import Tool


class Options(Strict):
    """``options``: how to draw. Those that concern loading are the server's own choice."""

    num_predict: Annotated[int, Field(ge=-2)] | None = None  # -1, -2: as many as fit
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: NonEmpty | Annotated[list[NonEmpty], Field(max_length=STOP_STRINGS_MAX)] | None = None
    num_ctx: Annotated[int, Field(ge=1)] | None = None  # at most the model's own

    repeat_last_n: Annotated[Any, only(-1)] = None  # a penalty counts the whole text
    penalize_newline: Annotated[Any, only(True)] = None
    mirostat: Annotated[Any, only(0)] = None
    tfs_z: Annotated[Any, only(1)] = None
    num_keep: Annotated[Any, only(0)] = None

    def params(self, top_logprobs: int | None, grammar: Grammar | None) -> SamplingParams:
        """For the engine; `top_logprobs` None: no logprobs."""
        stop = self.stop or ()
        return SamplingParams(
            temperature=0.8 if self.temperature is None else self.temperature,
            top_k=40 if self.top_k is None else self.top_k,
            top_p=self.top_p or 0.9,
            min_p=self.min_p or 0.0,
            typical_p=self.typical_p or 1.0,
            repetition_penalty=self.repeat_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            seed=None if self.seed is None else self.seed % 2**64,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            max_tokens=self.num_predict if (self.num_predict or 0) > 0 else None,
            logprobs=top_logprobs is not None,
            top_logprobs=top_logprobs or 0,
            grammar=grammar,
        )

    def check_context(self, context: int) -> None:
        """RequestError where more is asked for than the model is served with."""
        if (self.num_ctx or 0) > context:
            raise RequestError(f"num_ctx: this model is served with {context}, not {self.num_ctx}")


class Asked(Strict):
    """What both bodies share. `keep_alive` is taken: a model stays until the server unloads it."""

    model: str
    stream: bool | None = None  # yes, unless said otherwise
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: Options | None = None
    think: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=TOP_LOGPROBS_MAX)] | None = None
    keep_alive: float | str | None = None

    def params(self) -> SamplingParams:
        """For the engine."""
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs=true")
        top = (self.top_logprobs or 0) if self.logprobs else None
        return (self.options or Options()).params(top, self.grammar())

    def grammar(self) -> Grammar | None:
        """What the answer must look like."""
        if isinstance(self.format, dict):
            return Grammar("json_schema", json.dumps(self.format))
        return Grammar("json_object") if self.format == "json" else None

    def template(self) -> dict[str, Any]:
        """Variables for the chat template."""
        return {} if self.think is None else {"enable_thinking": self.think}


class CalledFunction(Strict):
    """A call; arguments are an object here, not text."""

    name: str
    arguments: dict[str, Any]
    index: int | None = None
    description: str | None = None


class CallMade(Strict):
    """One of an assistant's ``tool_calls``."""

    function: CalledFunction
    id: str | None = None
    type: Literal["function"] | None = None


class OllamaMessage(Strict):
    """One turn."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[CallMade] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    images: Annotated[Any, only([])] = None


class FunctionOffer(Strict):
    """A function that the model may call."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolOffer(Strict):
    """One of ``tools``."""

    type: Literal["function"] | None = None
    function: FunctionOffer

    def tool(self) -> Tool:
        """For templates and parsers."""
        name, parameters = self.function.name, self.function.parameters or {}
        function = {"name": name, "description": self.function.description or ""}
        spec = {"type": "function", "function": {**function, "parameters": parameters}}
        return Tool(name, parameters, spec)


class OllamaChatRequest(Asked):
    """The body of ``POST /api/chat``; without messages it asks whether the model is loaded."""

    messages: list[OllamaMessage] | None = None
    tools: list[ToolOffer] | None = None

    def conversation(self) -> Conversation:
        """For `prepare`."""
        return Conversation(
            messages=_messages(self.messages or []),
            tools=[offer.tool() for offer in self.tools or ()],
            grammar=self.grammar(),
            template=self.template(),
        )


class OllamaGenerateRequest(Asked):
    """The body of ``POST /api/generate``; without a prompt it asks whether the model is loaded."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    suffix: Annotated[Any, only("")] = None
    template_: Annotated[Any, only("")] = Field(None, alias="template")
    context: Annotated[Any, only([])] = None
    images: Annotated[Any, only([])] = None

    def conversation(self) -> Conversation:
        """The prompt as a chat of one turn."""
        orders = [{"role": "system", "content": self.system}] if self.system else []
        turns = [*orders, {"role": "user", "content": self.prompt or ""}]
        return Conversation(turns, grammar=self.grammar(), template=self.template())


def _messages(given: list[OllamaMessage]) -> list[Message]:
    """As chat templates want them. Calls get ids in order; results answer them in order."""
    made: list[Message] = []
    unanswered: list[str] = []
    count = 0
    for message in given:
        turn: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        if message.thinking:
            turn["reasoning_content"] = message.thinking
        for call in message.tool_calls or ():
            count += 1
            name = call.id or f"{count:09d}"
            unanswered.append(name)
            function = {"name": call.function.name, "arguments": call.function.arguments}
            entry = {"id": name, "type": "function", "function": function}
            turn.setdefault("tool_calls", []).append(entry)
        if message.role == "tool":
            turn["tool_call_id"] = message.tool_call_id or (unanswered or [f"{0:09d}"])[0]
            unanswered = unanswered[1:]
        made.append(turn)
    return made


class ShowRequest(Strict):
    """The body of ``POST /api/show``; `name` is what older clients say."""

    model: str | None = None
    name: str | None = None
    verbose: Annotated[Any, only(False)] = None
