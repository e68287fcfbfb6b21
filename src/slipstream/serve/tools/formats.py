"""The families' ways to call tools: how calls are found in text, and how they can be enforced.

`FORMATS` is the menu, `format_of` chooses from a chat template. A format that is not here is
refused when tools are given, never guessed.
"""

import re
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slipstream.serve.tools.call_parser import CallParser, Syntax
from slipstream.serve.tools.harmony_parser import START, HarmonyParser, HarmonySyntax
from slipstream.serve.tools.harmony_rules import CONSTRAIN, END, harmony_rules
from slipstream.serve.tools.rules import NO_PARAMETERS, Spelling, lark_json
from slipstream.serve.tools.tag_parser import TagParser, TagSyntax
from slipstream.serve.tools.tag_rules import tag_rules
from slipstream.serve.tools.tool import Tool

__all__ = ["FORMATS", "Tool", "ToolFormat", "format_of", "knows_tools"]

SHORT_ID = string.ascii_letters + string.digits  # Mistral's templates want 9 of these
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
        listed = (self.syntax.opener, self.syntax.closer, "[ARGS]", *self._more_markers())
        return tuple(dict.fromkeys(marker for marker in listed if marker))

    def _more_markers(self) -> tuple[str, ...]:
        match self.syntax:
            case TagSyntax() as tags:
                return tags.key_open, tags.key_close, tags.value_open, tags.value_close
            case HarmonySyntax():
                return START, END, CONSTRAIN
            case Syntax():
                return ()

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

        `token_ids`: markers that are tokens of their own. UnsupportedError names what of a tool's
        schema cannot be enforced.
        """
        spelling = Spelling({name: token_ids[name] for name in self.markers if name in token_ids})
        match self.syntax:
            case Syntax():
                return self._json_rules(tools, spelling, parallel)
            case TagSyntax() as syntax:
                return tag_rules(syntax, tools, spelling, parallel=parallel)
            case HarmonySyntax():
                return harmony_rules(tools, spelling)

    def _json_rules(self, tools: Sequence[Tool], spelling: Spelling, parallel: bool) -> str:
        calls = " | ".join(f"call_{place}" for place in range(len(tools)))
        parts = [spelling.literal(text) for text in (self.before, self.between, self.after)]
        before, between, after = (part and f" {part} " for part in parts)
        more = f"({between} call)*" if parallel else ""
        lines = [f"calls: {before}call{more}{after}", f"call: {calls}"]
        for place, tool in enumerate(tools):
            head = spelling.literal(self.call_head.replace("NAME", tool.name))
            tail = spelling.literal(self.call_tail)
            lines += [
                f"call_{place}: {head} arguments_{place} {tail}".rstrip(),
                f"arguments_{place}: %json {lark_json(tool.parameters or NO_PARAMETERS)}",
            ]
        return "\n".join(lines)


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
