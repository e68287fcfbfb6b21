"""Documents to calibrate and measure on: a text, JSON lines, or chats through the model's template.

wiki.txt      as it is
docs.jsonl    one object a line, with "text" (or "content", "prompt")
chats.jsonl   one object a line, with "messages" (or "conversations"), rendered as a chat
hf:ORG/NAME/FILE.jsonl[@REVISION]   any of them, as a file of a dataset on the hub
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slipstream.errors import SourceError, UnsupportedError
from slipstream.machine import cache_dir
from slipstream.models.chat import ChatTemplate

TEXT_KEYS = ("text", "content", "prompt")
CHAT_KEYS = ("messages", "conversations")
_ROLES = {"human": "user", "gpt": "assistant"}  # ShareGPT's names


def read_documents(path: Path, template: ChatTemplate | None) -> str:
    """The file's documents as one text, an empty line between them.

    SourceError for a file that cannot be read; UnsupportedError names the line that is no document,
    or says that the model has no chat template.
    """
    return "\n\n".join(documents_of(path, template))


def documents_of(path: Path, template: ChatTemplate | None) -> list[str]:
    """The same apart; a plain text is one document."""
    if on_hub(path):
        from slipstream.checkpoint.sources_dataset import fetch_dataset  # noqa: PLC0415  its client

        path = fetch_dataset(path.as_posix(), cache_dir())
    try:
        content = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SourceError(f"the text {path} cannot be read: {error.strerror}") from None
    if path.suffix not in (".jsonl", ".ndjson"):
        return [content]
    return list(_documents(content, path.name, template))


def on_hub(path: Path) -> bool:
    """Whether a text is named as a file of a dataset."""
    return path.as_posix().startswith("hf:")


def _documents(content: str, name: str, template: ChatTemplate | None) -> Iterator[str]:
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            yield _document(line, f"{name}, line {number}", template)


def _document(line: str, where: str, template: ChatTemplate | None) -> str:
    try:
        entry = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UnsupportedError(f"{where} is not JSON: {error}") from None
    if not isinstance(entry, dict):
        raise UnsupportedError(f"{where} is no object")
    for key in CHAT_KEYS:
        if isinstance(entry.get(key), list):
            return _chat(entry[key], where, template)
    for key in TEXT_KEYS:
        if isinstance(entry.get(key), str):
            return str(entry[key])
    known = ", ".join((*TEXT_KEYS, *CHAT_KEYS))
    raise UnsupportedError(f"{where} has no text; known keys are {known}")


def _chat(messages: list[Any], where: str, template: ChatTemplate | None) -> str:
    if template is None:
        raise UnsupportedError(f"{where} is a chat, but the model has no chat template")
    if not messages or not all(isinstance(message, Mapping) for message in messages):
        raise UnsupportedError(f"{where}: its messages are no list of objects")
    return template.render([_message(m) for m in messages], add_generation_prompt=False)


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """``{"from": "human", "value": …}`` as ``{"role": "user", "content": …}``."""
    if "role" in message:
        return dict(message)
    role = str(message.get("from", "user"))
    return {"role": _ROLES.get(role, role), "content": str(message.get("value", ""))}
