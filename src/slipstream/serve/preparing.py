"""From a conversation to what the engine and the reply need.

`prepare` renders the prompt with the model's template and sets up tools, reasoning and grammar.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from slipstream.engine.codec import Message, TextCodec
from slipstream.engine.request import SamplingParams
from slipstream.errors import RequestError, UnsupportedError
from slipstream.serve.conversation import Conversation
from slipstream.serve.dialect import Dialect
from slipstream.serve.enforced import enforced
from slipstream.serve.reasoning import CLOSE, OPEN, ReasoningSplitter
from slipstream.serve.splitter import Splitter
from slipstream.serve.tools.plain import with_tools_in_text


@dataclass(frozen=True)
class Prepared:
    """Ready for the engine and for the reply."""

    prompt_ids: list[int]
    params: SamplingParams
    new_splitter: Callable[[], Splitter]
    new_call_id: Callable[[], str]


def prepare(
    codec: TextCodec, dialect: Dialect, asked: Conversation, params: SamplingParams
) -> Prepared:
    """Renders and tokenizes the prompt, which may take a while; sets up everything else.

    TemplateError, UnsupportedError and RequestError say what the model or its template refuses.
    """
    tools = asked.callable_tools
    form = dialect.tool_format() if tools or dialect.speaks_in_channels else None
    text = _rendered(codec, dialect, asked)
    inside = dialect.reasons and text.rstrip().endswith(OPEN)
    thinks = dialect.reasons and not text.rstrip().endswith(CLOSE)
    grammar = enforced(asked, dialect, thinks=thinks, inside=inside)
    if grammar is not None:
        params = replace(params, grammar=grammar)
    if dialect.hidden_markers(calls=form is not None, thoughts=thinks):
        params = replace(params, skip_special=False)

    def new_splitter() -> Splitter:
        return Splitter(
            ReasoningSplitter(inside=inside) if thinks else None,
            form.parser(tools) if form else None,
            one_call=not asked.parallel,
        )

    new_call_id = form.call_id if form else str
    return Prepared(codec.encode(text, special=False), params, new_splitter, new_call_id)


def plainly(codec: TextCodec, prompt: str, params: SamplingParams) -> Prepared:
    """A prompt that no template touches; the answer is all said."""
    return Prepared(codec.encode(prompt), params, Splitter, str)


def _rendered(codec: TextCodec, dialect: Dialect, asked: Conversation) -> str:
    if codec.chat is None:
        raise UnsupportedError("this model has no chat template; use a plain completion")
    messages: Sequence[Message] = asked.messages
    variables: dict[str, Any] = dict(asked.template)
    reserved = {"self", "messages", "tools", "add_generation_prompt"} & variables.keys()
    if reserved:
        raise RequestError(f"chat_template_kwargs must not hold {', '.join(sorted(reserved))}")
    if not dialect.tools_known:
        messages = with_tools_in_text(messages, asked.callable_tools)
    elif asked.callable_tools:
        variables["tools"] = [tool.spec for tool in asked.callable_tools]
        if "xml_tools" in dialect.template:
            variables["xml_tools"] = variables["tools"]
    return codec.chat.render(messages, add_generation_prompt=True, **variables)
