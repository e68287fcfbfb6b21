"""The families' ways to call tools: how calls are found in text, and how they can be enforced.

`FORMATS` is the menu, `format_of` chooses from a chat template. A format that is not here is
refused when tools are given, never guessed.
"""

import json
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slipstream.errors import UnsupportedError
from slipstream.serve.tools.call_parser import CallParser, Syntax
from slipstream.serve.tools.harmony_parser import HarmonyParser, HarmonySyntax
from slipstream.serve.tools.tag_parser import TagParser, TagSyntax
from slipstream.serve.tools.tool import Tool

__all__ = ["FORMATS", "Tool", "ToolFormat", "format_of", "knows_tools", "lark_json"]

Json = dict[str, Any]

NO_PARAMETERS: Json = {"type": "object", "properties": {}, "additionalProperties": False}
SHORT_ID = string.ascii_letters + string.digits  # Mistral's templates want 9 of these
WHITE_SPACE = r"(\n[ ]{0,32}|[ ]?)"
OTHER_TAGS = ("<function=", "<arg_key>", "<invoke", "<parameter", "<tool_name>")


@dataclass(frozen=True)
class ToolFormat:
    """One family's calls. Written text is ``before {call} between {call} after``.

    call_head   what stands before the arguments of tool NAME, as JSON would write it
    call_tail   what stands after them
    short_ids   calls' ids have 9 letters or digits, as Mistral's templates want them
    """

    name: str
    syntax: Syntax | TagSyntax | HarmonySyntax
    before: str = ""
    between: str = ""
    after: str = ""
    call_head: str = '{"name": "NAME", "arguments": '
    call_tail: str = "}"
    short_ids: bool = False

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts that may be tokens of their own in a vocabulary."""
        listed = (self.syntax.opener, self.syntax.closer, "[ARGS]")
        return tuple(marker for marker in listed if marker)

    @property
    def speaks_in_channels(self) -> bool:
        """Whether every answer is in this format, with its reasoning, also without tools."""
        return isinstance(self.syntax, HarmonySyntax)

    def parser(self, tools: Sequence[Tool]) -> CallParser | TagParser | HarmonyParser:
        """A parser for one answer."""
        match self.syntax:
            case Syntax() as syntax:
                return CallParser(syntax, frozenset(tool.name for tool in tools))
            case TagSyntax() as syntax:
                return TagParser(syntax, tools)
            case HarmonySyntax():
                return HarmonyParser(tools)

    def call_id(self) -> str:
        """An id for one call."""
        if self.short_ids:
            return "".join(secrets.choice(SHORT_ID) for _ in range(9))
        return "call_" + secrets.token_hex(12)

    def rules(self, tools: Sequence[Tool], token_ids: Mapping[str, int], parallel: bool) -> str:
        """Rules in Lark's notation whose symbol ``calls`` is one call, or several if `parallel`.

        `token_ids`: markers that are tokens of their own. UnsupportedError for formats whose calls
        are not JSON.
        """
        if not isinstance(self.syntax, Syntax):
            raise UnsupportedError(
                f"tools: calls in the format '{self.name}' cannot be enforced here; leave "
                "tool_choice at 'auto', and give no response_format or grammar beside tools"
            )
        calls = " | ".join(f"call_{place}" for place in range(len(tools)))
        parts = [self._literal(text, token_ids) for text in (self.before, self.between, self.after)]
        before, between, after = (part and f" {part} " for part in parts)
        more = f"({between} call)*" if parallel else ""
        lines = [f"calls: {before}call{more}{after}", f"call: {calls}"]
        for place, tool in enumerate(tools):
            head = self._literal(self.call_head.replace("NAME", tool.name), token_ids)
            tail = self._literal(self.call_tail, token_ids)
            lines += [
                f"call_{place}: {head} arguments_{place} {tail}".rstrip(),
                f"arguments_{place}: %json {lark_json(tool.parameters or NO_PARAMETERS)}",
            ]
        return "\n".join(lines)

    def _literal(self, text: str, token_ids: Mapping[str, int]) -> str:
        """Terminals that match exactly `text`."""
        if not self.markers or not text:
            return json.dumps(text) if text else ""
        pieces = re.split("(" + "|".join(map(re.escape, self.markers)) + ")", text)
        return " ".join(
            f"<[{token_ids[piece]}]>" if piece in token_ids else json.dumps(piece)
            for piece in pieces
            if piece
        )


HERMES = ToolFormat(
    "hermes",
    Syntax("<tool_call>", "</tool_call>"),
    before="<tool_call>\n",
    between="\n</tool_call>\n<tool_call>\n",
    after="\n</tool_call>",
)
LLAMA3 = ToolFormat(
    "llama3",
    Syntax("<|python_tag|>", bare=True, separators=" \t\r\n,;"),
    between="; ",
    call_head='{"name": "NAME", "parameters": ',
)
MISTRAL = ToolFormat(
    "mistral",
    Syntax("[TOOL_CALLS]", heads=True),
    before="[TOOL_CALLS][",
    between=", ",
    after="]",
    short_ids=True,
)
MISTRAL_ARGS = ToolFormat(
    "mistral-args",
    Syntax("[TOOL_CALLS]", heads=True),
    before="[TOOL_CALLS]",
    between="[TOOL_CALLS]",
    call_head="NAME[ARGS]",
    call_tail="",
    short_ids=True,
)
QWEN_CODER = ToolFormat(
    "qwen3-coder",
    TagSyntax(
        opener="<tool_call>",
        closer="</tool_call>",
        lead="<function=",
        head=">",
        key_open="<parameter=",
        key_close=">",
        value_open="",
        value_close="</parameter>",
        call_close="</function>",
        newlines=True,
    ),
)
GLM = ToolFormat(
    "glm",
    TagSyntax(
        opener="<tool_call>",
        closer="</tool_call>",
        lead="",
        head="",
        key_open="<arg_key>",
        key_close="</arg_key>",
        value_open="<arg_value>",
        value_close="</arg_value>",
        call_close="</tool_call>",
    ),
)
HARMONY = ToolFormat("harmony", HarmonySyntax())
FORMATS = {
    one.name: one for one in (HERMES, LLAMA3, MISTRAL, MISTRAL_ARGS, QWEN_CODER, GLM, HARMONY)
}


def lark_json(schema: Json) -> str:
    """A schema within a grammar: white space as models write it, and never without end."""
    return json.dumps({**schema, "x-guidance": {"whitespace_pattern": WHITE_SPACE}})


def knows_tools(template: str) -> bool:
    """Whether a chat template writes tools into its prompt."""
    return re.search(r"\b(xml_|custom_)?tools\b", template) is not None


def format_of(template: str) -> ToolFormat | None:
    """The format that a chat template teaches; None if it is not one of ours.

    A template without tools gets Hermes' format: `plain` writes the instructions.
    """
    if "[TOOL_CALLS]" in template:
        return MISTRAL_ARGS if "[ARGS]" in template else MISTRAL
    if "<|channel|>" in template and "<|message|>" in template and "to=assistant" in template:
        return HARMONY
    if "<tool_call>" in template and "<function=" in template and "<parameter=" in template:
        return QWEN_CODER
    if "<tool_call>" in template and "<arg_key>" in template and "<arg_value>" in template:
        return GLM
    if "<tool_call>" in template and not any(tag in template for tag in OTHER_TAGS):
        return HERMES
    if '"parameters": ' in template and "<|start_header_id|>" in template:
        return LLAMA3
    return None if knows_tools(template) else HERMES
