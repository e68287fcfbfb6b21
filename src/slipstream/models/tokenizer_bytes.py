"""The bytes of every token, so that a stream can be cut at characters instead of at tokens.

Vocabularies spell bytes in three ways: GPT-2's printable alphabet (byte-level BPE), ▁ for a space
with ``<0xE2>`` for single bytes (SentencePiece), and ## for the rest of a word (WordPiece). Which
one is read from the tokenizer's own decoder.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import tokenizers

SPACE = "\u2581"
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def token_bytes_table(inner: tokenizers.Tokenizer, size: int) -> list[bytes]:
    """Entry i: what token i adds to a text (b"" for ids without a token)."""
    spell = _spelling(inner)
    table = [b""] * size
    for token, index in inner.get_vocab(with_added_tokens=False).items():
        table[index] = spell(token)
    for index, added in inner.get_added_tokens_decoder().items():
        table[index] = added.content.encode("utf-8", "replace")
    return table


def _spelling(inner: tokenizers.Tokenizer) -> Callable[[str], bytes]:
    decoder = inner.decoder
    kinds = _kinds(json.loads(decoder.__getstate__()) if decoder is not None else None)
    if "ByteLevel" in kinds:
        return _byte_level
    if "WordPiece" in kinds:
        return _wordpiece
    if kinds & {"ByteFallback", "Metaspace", "Replace"}:
        return _sentencepiece
    return str.encode


def _kinds(decoder: dict[str, Any] | None) -> set[str]:
    if not decoder:
        return set()
    return {decoder["type"]}.union(*(_kinds(part) for part in decoder.get("decoders", [])))


def gpt2_alphabet() -> dict[str, int]:
    """Character → byte. Printable bytes stand for themselves, the others for U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + position): byte for position, byte in enumerate(rest)}


_ALPHABET = gpt2_alphabet()


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_ALPHABET[character] for character in token])
    except KeyError:  # not of the alphabet: the library decodes it as plain text
        return token.encode("utf-8", "replace")


def _sentencepiece(token: str) -> bytes:
    if match := BYTE_TOKEN.fullmatch(token):
        return bytes([int(match[1], 16)])
    return token.replace(SPACE, " ").encode("utf-8", "replace")


def _wordpiece(token: str) -> bytes:
    return token[2:].encode() if token.startswith("##") else b" " + token.encode()
