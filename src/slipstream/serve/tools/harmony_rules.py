"""Answers in channels, enforced: reasoning first if the model wants, then a call or the answer.

    <|channel|>analysis<|message|>…<|end|><|start|>assistant
    <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}
    <|channel|>final<|message|>…

The grammar of what `HarmonyParser` reads; the model's own end of turn closes the last message.
"""

from collections.abc import Sequence

from slipstream.serve.tools.harmony_parser import BODY, CHANNEL, START
from slipstream.serve.tools.rules import NO_PARAMETERS, Spelling, lark_json
from slipstream.serve.tools.tool import Tool

END, CONSTRAIN = "<|end|>", "<|constrain|>"


def harmony_rules(tools: Sequence[Tool], spelling: Spelling) -> str:
    """Rules whose symbol ``calls`` is one call: the turn ends with it."""
    lines = ["calls: " + " | ".join(f"call_{place}" for place in range(len(tools)))]
    for place, tool in enumerate(tools):
        head = f"{CHANNEL}commentary to=functions.{tool.name} {CONSTRAIN}json{BODY}"
        schema = lark_json(tool.parameters or NO_PARAMETERS)
        lines += [
            f"call_{place}: {spelling.literal(head)} arguments_{place}",
            f"arguments_{place}: %json {schema}",
        ]
    return "\n".join(lines)


def channel_rules(spelling: Spelling) -> str:
    """Rules for ``thoughts``, messages of reasoning, and for ``final``, the head of an answer."""
    opened, after = spelling.literal(f"{CHANNEL}analysis{BODY}"), spelling.literal(START)
    return "\n".join(
        (
            "thoughts: thought*",
            f'thought: {opened} thinking {after} "assistant"',
            spelling.text_rule("thinking", END),
            f"final: {spelling.literal(f'{CHANNEL}final{BODY}')}",
        )
    )
