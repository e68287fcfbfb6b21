"""How a model talks beyond plain text: its way to call tools and to reason.

Read off its chat template and vocabulary, once for each served model; a `Served` may name its tool
format outright. `conversation` asks for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from slipstream.engine.codec import TextCodec
from slipstream.errors import UnsupportedError
from slipstream.serve.reasoning import CLOSE, OPEN
from slipstream.serve.tools.formats import FORMATS, ToolFormat, format_of, knows_tools


@dataclass(frozen=True)
class Dialect:
    """One model's way to talk.

    tools        None: its tool calls are not understood here
    tools_known  whether its template writes tools into the prompt
    reasons      whether it may write ``<think>…</think>``
    template     the chat template's source
    token_ids    markers that are control tokens: not spelled, and left out of plain text
    """

    tools: ToolFormat | None
    tools_known: bool
    reasons: bool
    template: str
    token_ids: Mapping[str, int]

    @property
    def speaks_in_channels(self) -> bool:
        """Whether every answer comes in channels, which mark its reasoning and its calls."""
        return self.tools is not None and self.tools.speaks_in_channels

    def hidden_markers(self, *, calls: bool, thoughts: bool) -> bool:
        """Whether control tokens mark its calls, or its thoughts: plain text leaves them out."""
        calls = calls or self.speaks_in_channels
        marked = calls and self.tools is not None and self.tools.syntax.opener in self.token_ids
        return marked or (thoughts and CLOSE in self.token_ids)

    def tool_format(self) -> ToolFormat:
        """The format of tool calls. UnsupportedError where there is none."""
        if self.tools is None:
            known = ", ".join(FORMATS)
            raise UnsupportedError(
                "tools: this model's chat template calls tools in a format that is not known "
                f"here; if it is one of {known}, serve it with that --tool-format"
            )
        return self.tools


def dialect_of(codec: TextCodec, tool_format: str | None = None) -> Dialect:
    """The dialect of a model; `tool_format` overrides what its template says."""
    source = str(getattr(codec.chat, "source", ""))
    tools = format_of(source)
    if tool_format is not None:
        if tool_format not in (*FORMATS, "none"):
            known = ", ".join((*FORMATS, "none"))
            raise UnsupportedError(f"tool format '{tool_format}' is not known; choose of {known}")
        tools = FORMATS.get(tool_format)
    markers = (OPEN, CLOSE, *(tools.markers if tools else ()))
    return Dialect(
        tools=tools,
        tools_known=knows_tools(source),
        reasons=CLOSE in source,
        template=source,
        token_ids=_control_tokens(codec, markers),
    )


def _control_tokens(codec: TextCodec, markers: tuple[str, ...]) -> dict[str, int]:
    """Those markers that are control tokens of the vocabulary."""
    found: dict[str, int] = {}
    for marker in markers:
        ids = codec.encode(marker, special=False)
        if len(ids) == 1 and ids[0] in codec.special_ids:
            found[marker] = ids[0]
    return found
