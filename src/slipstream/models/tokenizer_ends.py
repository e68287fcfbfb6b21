"""Which tokens begin and end a text, gathered from every place where a model may say so.

Files disagree: an instruct model often names one end token in its tokenizer and answers with
another. An answer ends at any of them, so `end_ids` collects them all.
"""

import json
from pathlib import Path
from typing import Any, SupportsIndex

import tokenizers

from slipstream.checkpoint.checkpoint import TokenizerData

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
GGUF_NAMES = {"unk": "unknown", "pad": "padding", "sep": "seperator"}  # as GGUF spells them
END_NAMES = (  # special tokens that end an answer under every convention we know of
    "<|endoftext|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<turn|>",
    "<｜end▁of▁sentence｜>",
    "<|END_OF_TURN_TOKEN|>",
    "<|end_of_role|>",
    "<EOT>",
    "<|eot|>",
    "[EOT]",
)


def special_names(data: TokenizerData, inner: tokenizers.Tokenizer) -> dict[str, str]:
    """``bos_token``, ``eos_token`` … → text, for those that exist in the vocabulary."""
    names: dict[str, str] = {}
    for role in ROLES:
        text = _text(data.config.get(f"{role}_token"))
        if text is None and data.gguf is not None:
            index = _ids(data.gguf.get(f"{GGUF_NAMES.get(role, role)}_token_id"))
            text = inner.id_to_token(index[0]) if index else None
        if text is not None and inner.token_to_id(text) is not None:
            names[f"{role}_token"] = text
    return names


def _text(value: Any) -> str | None:
    """A special token is a text, or (in older configs) a mapping with its text as ``content``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def end_ids(
    data: TokenizerData, inner: tokenizers.Tokenizer, special: dict[str, str]
) -> frozenset[int]:
    """Every id that ends an answer: the declared ones, and special tokens of a well-known name."""
    found: set[int] = set()
    if "eos_token" in special:
        found.update(_ids(inner.token_to_id(special["eos_token"])))
    for role in ("eos", "eot", "eom"):
        found.update(_ids((data.gguf or {}).get(f"{role}_token_id")))
    found.update(_ids(data.config.get("eos_token_id")))
    if data.json_path is not None:
        found.update(_ids(_generation_config(data.json_path.parent).get("eos_token_id")))
    added = {
        token.content: i for i, token in inner.get_added_tokens_decoder().items() if token.special
    }
    found.update(added[name] for name in END_NAMES if name in added)
    if {"<|return|>", "<|call|>", "<|end|>"} <= added.keys():
        found.discard(added["<|end|>"])  # harmony: ends a message, the answer goes on
    return frozenset(found)


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [int(item) for item in values if isinstance(item, SupportsIndex) and int(item) >= 0]


def _generation_config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "generation_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
