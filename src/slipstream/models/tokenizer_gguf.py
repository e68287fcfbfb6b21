"""A tokenizer rebuilt from the metadata of a GGUF file.

GGUF keeps the vocabulary, the merges or scores, and a few switches; the rest (normalizer, split
patterns, decoder) is restored here to what the model's own ``tokenizer.json`` has, so that ids
equal those of `transformers`. `tokenizer.build_tokenizer` is the caller.

    gpt2   byte-level BPE: merges from the file     llama  SentencePiece BPE: merges from scores
    t5     SentencePiece unigram                    bert   WordPiece
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from slipstream.errors import GGUFError, UnsupportedError
from slipstream.models.tokenizer_split import splitting
from slipstream.models.tokenizer_vocabulary import (
    SPACE,
    Kind,
    Vocabulary,
    read_vocabulary,
    token_id,
)


def rebuild(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that `metadata` (keys without ``tokenizer.ggml.``) describes."""
    model = str(metadata.get("model", ""))
    build = {
        "gpt2": _byte_level,
        "llama": _sentencepiece,
        "gemma4": _sentencepiece,
        "t5": _unigram,
        "bert": _wordpiece,
    }
    if model not in build:
        raise UnsupportedError(
            f"tokenizers of kind {model!r} are not rebuilt from GGUF (known: {', '.join(build)}); "
            "use the model's Hugging Face folder, whose tokenizer.json is read as it is"
        )
    vocabulary = read_vocabulary(metadata)
    tokenizer = build[model](vocabulary, metadata)
    tokenizer.add_special_tokens(_added(vocabulary, {Kind.CONTROL, Kind.UNKNOWN}, special=True))
    tokenizer.add_tokens(_added(vocabulary, {Kind.USER_DEFINED}, special=False))
    _add_ends(tokenizer, vocabulary, metadata)
    return tokenizer


def _byte_level(vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> Tokenizer:
    rules = splitting(str(metadata.get("pre") or "default"))
    model = _bpe(vocabulary, _merge_pairs(vocabulary), ignore_merges=rules.whole_words)
    tokenizer = Tokenizer(model)
    if normalizer := rules.normalizer():
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = rules.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _bpe(vocabulary: Vocabulary, merges: list[tuple[str, str]], **options: Any) -> models.BPE:
    try:
        return models.BPE(vocab=vocabulary.ids, merges=merges, **options)
    except Exception as error:  # the library raises a bare one for merges outside the vocabulary
        raise GGUFError(f"the tokenizer's merges do not fit its tokens: {error}") from error


def _merge_pairs(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    return [(left, right) for left, _, right in (m.partition(" ") for m in vocabulary.merges)]


def _sentencepiece(vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> Tokenizer:
    prefix = bool(metadata.get("add_space_prefix", metadata.get("model") == "llama"))
    merges = _merge_pairs(vocabulary) if vocabulary.merges else merges_from_scores(vocabulary)
    model = _bpe(
        vocabulary,
        merges,
        unk_token=_unknown(vocabulary, metadata),
        fuse_unk=True,
        byte_fallback=Kind.BYTE in vocabulary.kinds,
    )
    tokenizer = Tokenizer(model)
    spaces: list[normalizers.Normalizer] = [normalizers.Prepend(SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*spaces, normalizers.Replace(" ", SPACE)])
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if prefix else []))
    return tokenizer


def merges_from_scores(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """SentencePiece stores scores, BPE wants an order of merges: best score first.

    Every way to cut a token into two other tokens is a merge with the token's score; among equal
    scores the longer left part comes first, then the longer right part, as in transformers.
    """
    mergeable = {Kind.NORMAL, Kind.USER_DEFINED}
    ids = vocabulary.ids
    found: list[tuple[float, int, int, str, str]] = []
    for token, kind, score in zip(
        vocabulary.tokens, vocabulary.kinds, vocabulary.scores, strict=True
    ):
        if kind not in mergeable or len(token) > 128:
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ids and right in ids:
                found.append((-score, -cut, cut - len(token), left, right))
    found.sort(key=lambda entry: entry[:3])
    return [(left, right) for _, _, _, left, right in found]


def _unigram(vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> Tokenizer:
    pieces = list(zip(vocabulary.tokens, vocabulary.scores, strict=True))
    unknown = token_id(metadata, "unknown_token_id", len(pieces))
    if unknown is None and Kind.UNKNOWN in vocabulary.kinds:
        unknown = vocabulary.kinds.index(Kind.UNKNOWN)
    if unknown is None or not all(math.isfinite(score) for score in vocabulary.scores):
        raise GGUFError("a unigram tokenizer needs an unknown token, and finite scores")
    tokenizer = Tokenizer(models.Unigram(pieces, unknown, Kind.BYTE in vocabulary.kinds))
    steps: list[normalizers.Normalizer] = []
    charsmap = metadata.get("precompiled_charsmap")
    if charsmap is not None and len(charsmap):
        steps.append(_precompiled(charsmap))
    if metadata.get("remove_extra_whitespaces", True):
        steps.append(normalizers.Strip(left=False, right=True))
        steps.append(normalizers.Replace(Regex(" {2,}"), SPACE))
    if steps:
        tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if metadata.get("add_space_prefix", True) else "never"
    words = pre_tokenizers.Metaspace(SPACE, scheme)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    tokenizer.decoder = decoders.Metaspace(SPACE, scheme)
    return tokenizer


def _precompiled(charsmap: Sequence[int]) -> normalizers.Normalizer:
    try:
        return normalizers.Precompiled(bytes(int(byte) & 0xFF for byte in charsmap))
    except Exception as error:
        raise GGUFError(f"the tokenizer's precompiled_charsmap is damaged: {error}") from error


def _wordpiece(vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> Tokenizer:
    """GGUF marks the start of a word with ▁; WordPiece marks the rest with ##."""
    ids: dict[str, int] = {}
    for index, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True)):
        if kind != Kind.NORMAL or (token.startswith("[") and token.endswith("]")):
            ids.setdefault(token, index)
        else:
            ids.setdefault(token[1:] if token.startswith(SPACE) else "##" + token, index)
    unknown = _unknown(vocabulary, metadata) or "[UNK]"
    if unknown not in ids:
        raise GGUFError("a WordPiece tokenizer needs an unknown token")
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=unknown, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece("##")
    return tokenizer


def _unknown(vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> str | None:
    index = token_id(metadata, "unknown_token_id", len(vocabulary.tokens))
    if index is None and Kind.UNKNOWN in vocabulary.kinds:
        index = vocabulary.kinds.index(Kind.UNKNOWN)
    return None if index is None else vocabulary.tokens[index]


def _added(vocabulary: Vocabulary, kinds: set[int], *, special: bool) -> list[AddedToken]:
    return [
        AddedToken(token, special=special, normalized=False)
        for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True)
        if kind in kinds and token
    ]


def _add_ends(tokenizer: Tokenizer, vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> None:
    """Beginning and end tokens, by the file's switches or the habit of its kind of tokenizer."""
    begin, end = ends(metadata)
    count = len(vocabulary.tokens)
    first = token_id(metadata, "bos_token_id", count) if begin else None
    last = token_id(metadata, "eos_token_id", count) if end else None
    if metadata.get("model") == "bert":
        first = token_id(metadata, "cls_token_id", count) if begin else None
        last = token_id(metadata, "seperator_token_id", count) if end else None  # GGUF spells it so
    special = [(vocabulary.tokens[i], i) for i in (first, last) if i is not None]
    if special:
        names = [vocabulary.tokens[i] if i is not None else None for i in (first, last)]
        parts = [names[0], "$A", names[1]]
        pieces = [part for part in parts if part is not None]
        tokenizer.post_processor = TemplateProcessing(single=pieces, special_tokens=special)


def ends(metadata: Mapping[str, Any]) -> tuple[bool, bool]:
    """(add a beginning token, add an end token), the defaults being those of llama.cpp."""
    model = metadata.get("model")
    begin = model in {"llama", "gemma4", "bert"}
    if model == "gpt2":
        begin = splitting(str(metadata.get("pre") or "default")).add_bos
    end = model in {"t5", "bert"}
    return bool(metadata.get("add_bos_token", begin)), bool(metadata.get("add_eos_token", end))
