"""Tools for chat templates that know nothing of them: written into the messages themselves.

The words are Hermes' and Qwen's, which most small models have seen; the answer is then parsed as
theirs.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from slipstream.serve.tools.formats import Tool

INSTRUCTIONS = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""

Message = Mapping[str, Any]


def with_tools_in_text(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The same conversation in system, user and assistant messages of plain text."""
    turns = [_plain(message) for message in messages]
    if not tools:
        return turns
    listed = "\n".join(json.dumps(tool.spec, ensure_ascii=False) for tool in tools)
    words = INSTRUCTIONS.format(tools=listed)
    if turns and turns[0]["role"] == "system":
        first = {**turns[0], "content": f"{turns[0]['content']}\n\n{words}"}
        return [first, *turns[1:]]
    return [{"role": "system", "content": words}, *turns]


def _plain(message: Message) -> Message:
    if message["role"] == "tool":
        content = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": content}
    calls = message.get("tool_calls")
    if not calls:
        return message
    parts = [message["content"]] if message["content"] else []
    for call in calls:
        function = call["function"]
        written = {"name": function["name"], "arguments": function["arguments"]}
        parts.append(f"<tool_call>\n{json.dumps(written, ensure_ascii=False)}\n</tool_call>")
    return {"role": message["role"], "content": "\n".join(parts)}
