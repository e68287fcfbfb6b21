"""A chat as all APIs mean it. Chat completions, responses and Ollama's chat translate their bodies
into a `Conversation`; `preparing.prepare` makes it ready for the engine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from slipstream.engine.codec import Message
from slipstream.engine.grammar import Grammar
from slipstream.serve.tools.formats import Tool


@dataclass(frozen=True)
class Conversation:
    """Messages, and how the next one may look.

    tools     that may be called
    choice    "auto" as the model likes, "none" not at all, "required" at least one
    parallel  whether an answer may hold several calls
    grammar   of the answer, where it is no call
    template  further variables for the chat template (``enable_thinking``)
    """

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    choice: Literal["auto", "none", "required"] = "auto"
    parallel: bool = True
    grammar: Grammar | None = None
    template: Mapping[str, Any] = field(default_factory=dict)

    @property
    def callable_tools(self) -> Sequence[Tool]:
        """Those that the answer may call."""
        return () if self.choice == "none" else self.tools
