"""Text to token ids and back: one `Tokenizer`, whichever file the model came from.

A thin owner of the `tokenizers` library's object plus what an engine must know beside it: the ids
that end an answer, the bytes of a single token, the chat template. `models.load` builds it with
`build_tokenizer`; ids equal those of `transformers`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from slipstream.checkpoint.checkpoint import TokenizerData
from slipstream.errors import FileFormatError, RequestError
from slipstream.models.chat import ChatTemplate
from slipstream.models.tokenizer_bytes import token_bytes_table
from slipstream.models.tokenizer_ends import end_ids, special_names
from slipstream.models.tokenizer_gguf import rebuild


@dataclass(frozen=True)
class Tokenizer:
    """What `build_tokenizer` makes. Safe to share between threads.

    `eos_ids` holds every id that ends an answer, not only the one that the file calls EOS.
    """

    inner: tokenizers.Tokenizer
    bos_id: int | None
    eos_ids: frozenset[int]
    chat: ChatTemplate | None
    special: Mapping[str, str]  # "bos_token" → its text, and so on, as chat templates name them
    size: int | None = None  # of the vocabulary, where the file says it

    @cached_property
    def vocabulary_size(self) -> int:
        """One more than the highest id."""
        if self.size is not None:  # asking the library makes a dictionary: 30 ms of each start
            return self.size
        return max(self.inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of `text`; with `special`, the model's own beginning and end tokens around it.

        Special tokens spelled out in the text become their ids (a rendered chat needs that), so
        give a rendered chat ``special=False``: its template wrote the beginning already.
        """
        try:
            return self.inner.encode(text, add_special_tokens=special).ids
        except (UnicodeEncodeError, TypeError) as error:
            raise RequestError("the text is not valid Unicode (it has lone surrogates)") from error

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD. Refuses unknown ids."""
        values = [int(value) for value in ids]
        if values and not 0 <= min(values) <= max(values) < self.vocabulary_size:
            raise RequestError(f"token ids must lie in 0…{self.vocabulary_size - 1}")
        return self.inner.decode(values, skip_special_tokens=skip_special)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one token adds to a running text, for streaming; special tokens too.

        Joined over an answer they are its text in UTF-8, which a multi-token character needs.
        """
        return self._bytes[token_id]

    @cached_property
    def _bytes(self) -> Sequence[bytes]:
        return token_bytes_table(self.inner, self.vocabulary_size)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of control tokens, which `decode` leaves out."""
        added = self.inner.get_added_tokens_decoder()
        return frozenset(index for index, token in added.items() if token.special)

    def save_json(self, path: Path) -> None:
        """Write ``tokenizer.json``, readable by transformers and vLLM."""
        path.write_text(self.inner.to_str(), encoding="utf-8")

    def config(self) -> dict[str, Any]:
        """A ``tokenizer_config.json`` that goes with `save_json`."""
        return {"tokenizer_class": "PreTrainedTokenizerFast", **self.special}


def build_tokenizer(data: TokenizerData) -> Tokenizer:
    """A tokenizer from a ``tokenizer.json``, or rebuilt from GGUF metadata.

    FileFormatError for damaged data, UnsupportedError for a kind that is not known.
    """
    if (data.json_path is None) == (data.gguf is None):
        raise FileFormatError("a tokenizer comes either from tokenizer.json or from GGUF metadata")
    inner = _read_json(data.json_path) if data.json_path else rebuild(data.gguf or {})
    inner.no_padding()
    inner.no_truncation()
    special = special_names(data, inner)
    template = _template_source(data)
    bos = special.get("bos_token")
    return Tokenizer(
        inner=inner,
        bos_id=inner.token_to_id(bos) if bos else None,
        eos_ids=end_ids(data, inner, special),
        chat=ChatTemplate(template, special) if template else None,
        special=special,
        size=None if data.gguf is None else len(data.gguf["tokens"]),
    )


def _read_json(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path} is not UTF-8: {error}") from error
    except OSError:
        raise
    except Exception as error:  # the library raises a bare Exception
        raise FileFormatError(f"{path} is not a tokenizer that can be read: {error}") from error


def _template_source(data: TokenizerData) -> str | None:
    """The chat template; of several named ones, the one called default."""
    found = data.chat_template or data.config.get("chat_template")
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found}
        found = named.get("default")
    return found if isinstance(found, str) and found.strip() else None


def tokenizer_of_folder(folder: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder (tokenizer.json beside its config and template)."""
    config_path, template_path = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    config = json.loads(config_path.read_text("utf-8")) if config_path.exists() else {}
    template = template_path.read_text("utf-8") if template_path.exists() else None
    return build_tokenizer(
        TokenizerData(json_path=folder / "tokenizer.json", config=config, chat_template=template)
    )
