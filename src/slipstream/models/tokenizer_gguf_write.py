"""A tokenizer as GGUF's metadata: what `tokenizer_gguf` rebuilds, told to llama.cpp.

`cli.export` calls `tokenizer_metadata`. A model that came as GGUF hands its own keys on; for a
``tokenizer.json`` the kind, the name of the splitting and the scores are found again. What
llama.cpp has no name for is refused, never guessed.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import normalizers, pre_tokenizers

from slipstream.checkpoint.checkpoint import TokenizerData
from slipstream.errors import UnsupportedError
from slipstream.models.tokenizer import Tokenizer
from slipstream.models.tokenizer_split import SPLITTINGS, Splitting
from slipstream.models.tokenizer_vocabulary import Kind

# Enough of everything that splittings treat differently.
_PROBE = (
    "Hello  World's we'LL iPhone HTTPServer x=1234567,89 ... !!\n\n\tfoo_bar  \r\n 我们你好 กขค"
    " ÀÉß naïve e\u0301 3.14€ “quotes” don't CamelCaseABC 12 Россия を見る 🙂🙂  end \n "
)


def tokenizer_metadata(tokenizer: Tokenizer, data: TokenizerData, rows: int) -> dict[str, Any]:
    """Every ``tokenizer.*`` key; `rows` is the height of the embedding, which ids must fill.

    UnsupportedError for a kind or a splitting that llama.cpp has no name for.
    """
    if data.gguf is not None:
        found = {f"tokenizer.ggml.{key}": data.gguf[key] for key in data.gguf}
    else:
        found = _of_json(tokenizer, rows)
    if tokenizer.chat is not None:
        found["tokenizer.chat_template"] = tokenizer.chat.source
    return found


def _of_json(tokenizer: Tokenizer, rows: int) -> dict[str, Any]:
    whole = json.loads(tokenizer.inner.to_str())
    model = whole["model"]
    kind = _kind_of(whole)
    tokens, kinds = _tokens(tokenizer, whole, rows)
    found: dict[str, Any] = {"model": kind, "tokens": tokens, "token_type": kinds}
    if kind == "gpt2":
        found["pre"] = splitting_name(tokenizer, bool(model.get("ignore_merges")))
        found["merges"] = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    elif kind == "llama":
        found["pre"] = "default"
        found["scores"] = _scores_of_merges(model["merges"], tokens)
        found["add_space_prefix"] = _has_prefix(whole)
    else:
        scores = [float(score) for _, score in model["vocab"]]
        found["scores"] = scores + [0.0] * (rows - len(scores))
        found["add_space_prefix"] = _has_prefix(whole)
    found |= _special_ids(tokenizer, model)
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()}


def _kind_of(whole: Mapping[str, Any]) -> str:
    """``gpt2`` (bytes), ``llama`` (SentencePiece by merges) or ``t5`` (unigram)."""
    kind, text = whole["model"]["type"], json.dumps([whole["pre_tokenizer"], whole["decoder"]])
    if kind == "BPE" and '"ByteLevel"' in text:
        return "gpt2"
    if kind == "BPE" and whole["model"].get("byte_fallback"):
        return "llama"
    if kind == "Unigram" and not _charsmap(whole):
        return "t5"
    raise UnsupportedError(
        f"a tokenizer of the kind {kind!r} with these steps has no equal in GGUF: use llama.cpp's"
        " own converter"
    )


def _charsmap(whole: Mapping[str, Any]) -> bool:
    return '"Precompiled"' in json.dumps(whole["normalizer"])


def splitting_name(tokenizer: Tokenizer, whole_words: bool) -> str:
    """The name in `tokenizer_split` that cuts as this tokenizer does, tried on odd text."""
    own = _cuts(tokenizer.inner.pre_tokenizer, tokenizer.inner.normalizer)
    for name, rules in SPLITTINGS.items():
        same = rules.whole_words == whole_words and own == _cuts_of(rules)
        if same:
            return name
    raise UnsupportedError(
        "this tokenizer cuts text as none of those that llama.cpp has a name for: use llama.cpp's"
        " own converter, which may know it"
    )


def _cuts_of(rules: Splitting) -> list[str]:
    return _cuts(rules.pre_tokenizer(), rules.normalizer())


def _cuts(
    cutter: pre_tokenizers.PreTokenizer | None, normalizer: normalizers.Normalizer | None
) -> list[str]:
    text = _PROBE if normalizer is None else normalizer.normalize_str(_PROBE)
    return [text] if cutter is None else [word for word, _ in cutter.pre_tokenize_str(text)]


def _tokens(
    tokenizer: Tokenizer, whole: Mapping[str, Any], rows: int
) -> tuple[list[str], list[int]]:
    """One text and kind for each row of the embedding; rows without a token are unused."""
    by_id = {index: token for token, index in tokenizer.inner.get_vocab(True).items()}
    if max(by_id, default=-1) >= rows:
        raise UnsupportedError(
            f"the tokenizer has ids up to {max(by_id)}, the embedding only {rows} rows"
        )
    unknown = whole["model"].get("unk_token")
    added = {entry["id"]: bool(entry["special"]) for entry in whole["added_tokens"]}
    fallback = bool(whole["model"].get("byte_fallback"))
    tokens, kinds = [], []
    for index in range(rows):
        token = by_id.get(index)
        tokens.append(f"[PAD{index}]" if token is None else token)
        if token is None:
            kinds.append(int(Kind.UNUSED))
        elif unknown is not None and token == unknown:
            kinds.append(int(Kind.UNKNOWN))
        elif index in added:
            kinds.append(int(Kind.CONTROL if added[index] else Kind.USER_DEFINED))
        elif fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            kinds.append(int(Kind.BYTE))
        else:
            kinds.append(int(Kind.NORMAL))
    return tokens, kinds


def _scores_of_merges(merges: Sequence[Any], tokens: Sequence[str]) -> list[float]:
    """SentencePiece merges by score: the earlier a merge makes a token, the higher its score."""
    rank: dict[str, int] = {}
    for index, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        rank.setdefault("".join(pair), index)
    worst = float(len(merges) + 1)
    return [-float(rank[token] + 1) if token in rank else -worst for token in tokens]


def _has_prefix(whole: Mapping[str, Any]) -> bool:
    steps = json.dumps([whole["normalizer"], whole["pre_tokenizer"]])
    return '"Prepend"' in steps or '"always"' in steps or '"first"' in steps


def _special_ids(tokenizer: Tokenizer, model: Mapping[str, Any]) -> dict[str, Any]:
    """Ids of the special tokens, and whether a text gets a beginning or an end."""
    find = tokenizer.inner.token_to_id
    names = {
        "bos_token_id": tokenizer.special.get("bos_token"),
        "eos_token_id": tokenizer.special.get("eos_token"),
        "padding_token_id": tokenizer.special.get("pad_token"),
        "unknown_token_id": tokenizer.special.get("unk_token") or model.get("unk_token"),
    }
    ids = {key: find(token) for key, token in names.items() if isinstance(token, str)}
    found: dict[str, Any] = {key: index for key, index in ids.items() if index is not None}
    if "eos_token_id" not in found and tokenizer.eos_ids:
        found["eos_token_id"] = min(tokenizer.eos_ids)
    turns = sorted(tokenizer.eos_ids - {found.get("eos_token_id")})
    if turns:
        found["eot_token_id"] = turns[0]
    around = tokenizer.encode("a")
    found["add_bos_token"] = bool(around) and around[0] == found.get("bos_token_id")
    found["add_eos_token"] = bool(around) and around[-1] == found.get("eos_token_id")
    return found
