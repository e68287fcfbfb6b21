"""How byte-level BPE cuts text into words before merging, by the name that a GGUF file gives.

GGUF stores only a name (``tokenizer.ggml.pre``); this is the table from names to what the model's
own ``tokenizer.json`` does: normalizer, split patterns, and whether whole words skip the merges.
`tokenizer_gguf` is the caller. A name that is not here is refused, never guessed.
"""

from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Punctuation, Split

from slipstream.errors import UnsupportedError

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CAMEL = (  # words that change from upper to lower case at most once: {0} ends each word
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{{0}}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{{0}}"
)
CJK = "[一-龥ࠀ-一가-퟿]+"
CASED = r"[\p{Lu}\p{Ll}\p{Lt}&&[^ა-ჿ]]"
ASCII_MARKS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""


def _words(
    digits: str, marks: str = r" ?[^\s\p{L}\p{N}]+[\r\n]*", contractions: bool = True
) -> str:
    """The cl100k family: contractions, words, numbers as `digits`, marks, blanks."""
    start = CONTRACTIONS + "|" if contractions else ""
    return rf"{start}[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}|{marks}|{BLANKS}"


LLAMA3 = _words(r"\p{N}{1,3}")
QWEN2 = _words(r"\p{N}")
QWEN35 = (
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}|"
    rf" ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{BLANKS}"
)
GPT4O = (
    CAMEL.replace("{0}", CONTRACTIONS + "?") + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + BLANKS
)
TEKKEN = CAMEL.replace("{0}", "") + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + BLANKS
SEED = _words(r"\p{N}{1}", r" ?[^\s\p{L}\p{N}\r\n]+")
DEEPSEEK3 = (
    ASCII_MARKS + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + BLANKS
)
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|"
    r"\s*[\r\n]|\s+(?!\S)|\s+"
)
DEFAULT_MARKS = r"[\p{P}\$\+<=>\^~\|]+"


@dataclass(frozen=True)
class Splitting:
    """What one name means. `patterns` are applied in turn, each isolating its matches.

    `gpt2`: the classical GPT-2 words come after the patterns. `digits`: single digits come first.
    """

    patterns: tuple[str, ...] = ()
    digits: bool = False
    gpt2: bool = False
    nfc: bool = False
    whole_words: bool = False  # a word that is a token is taken whole, without merging
    add_bos: bool = False  # where the file does not say

    def pre_tokenizer(self) -> PreTokenizer:
        """The same as an object of the `tokenizers` library, byte-level mapping included."""
        steps: list[PreTokenizer] = [Digits(individual_digits=True)] if self.digits else []
        steps += [Split(Regex(pattern), "isolated") for pattern in self.patterns]
        steps.append(ByteLevel(add_prefix_space=False, use_regex=self.gpt2))
        return pre_tokenizers.Sequence(steps)

    def normalizer(self) -> normalizers.Normalizer | None:
        """Unicode composition where the model was trained with it."""
        return normalizers.NFC() if self.nfc else None


@dataclass(frozen=True)
class FalconSplitting(Splitting):
    """Falcon (and files that name nothing): marks, GPT-2 words, runs of digits, then threes."""

    def pre_tokenizer(self) -> PreTokenizer:
        """As Falcon's own tokenizer.json has it."""
        marks = (
            Split(Regex(self.patterns[0]), "isolated")
            if self.patterns
            else Punctuation("contiguous")
        )
        return pre_tokenizers.Sequence(
            [
                marks,
                ByteLevel(add_prefix_space=False, use_regex=True),
                Digits(individual_digits=False),
                Split(Regex("[0-9][0-9][0-9]"), "isolated"),
            ]
        )


_GPT2 = Splitting(gpt2=True)
_DIGITS = Splitting(gpt2=True, digits=True)
_LLAMA3 = Splitting((LLAMA3,), whole_words=True, add_bos=True)
_QWEN2 = Splitting((QWEN2,), nfc=True)
_DEEPSEEK3 = Splitting((r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3))
_CODER = Splitting(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"))
_DEEPSEEK = Splitting(
    ("[\r\n]", rf"\s?{CASED}+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", CJK, r"\p{N}")
)
_GPT4O = Splitting((GPT4O,))

_FAMILIES: tuple[tuple[Splitting, str], ...] = (
    (
        _GPT2,
        "gpt-2 phi-2 jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe",
    ),
    (_GPT2, "jais trillion granite-docling gigachat a.x-4.0 mellum"),
    (Splitting(gpt2=True, nfc=True), "mpt olmo"),
    (_DIGITS, "smollm starcoder refact command-r codeshell exaone minerva-7b"),
    (_LLAMA3, "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano"),
    (Splitting((LLAMA3,)), "dbrx smaug-bpe chatglm-bpe glm4 gpt-4 cl100k chatglm4"),
    (_QWEN2, "qwen2 stablelm2 deepseek-r1-qwen hunyuan megrez kormo f2llmv2"),
    (Splitting((QWEN35,), nfc=True), "qwen35"),
    (_GPT4O, "gpt-4o llama4 minimax-m2 o200k kanana2 talkie"),
    (Splitting((TEKKEN,), whole_words=True, add_bos=True), "tekken"),
    (_DEEPSEEK, "deepseek-llm"),
    (_CODER, "deepseek-coder"),
    (_DEEPSEEK3, "deepseek-v3 hunyuan-dense"),
    (Splitting((BLOOM,)), "bloom poro-chat gpt3-finnish"),
    (Splitting((BLOOM, r"\p{N}")), "viking"),
    (Splitting((SEED,)), "seed-coder"),
    (Splitting((BAILING,)), "bailingmoe bailingmoe2 llada-moe"),
    (Splitting((QWEN2,)), "grok-2"),
    (FalconSplitting(), "falcon"),
    (FalconSplitting((DEFAULT_MARKS,)), "default"),
)

SPLITTINGS = {name: splitting for splitting, names in _FAMILIES for name in names.split()}


def splitting(name: str) -> Splitting:
    """The splitting that a GGUF file means by `name`; UnsupportedError for one we do not know."""
    found = SPLITTINGS.get(name)
    if found is None:
        raise UnsupportedError(
            f"this file's tokenizer splits text as {name!r}, which is not known here; "
            "use the model's Hugging Face folder, whose tokenizer.json says how"
        )
    return found
