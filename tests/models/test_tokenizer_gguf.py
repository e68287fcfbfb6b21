"""Tokenizers rebuilt from GGUF metadata give the ids of the tokenizers that they were made from."""

import io
import random
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from slipstream.checkpoint.checkpoint import TokenizerData
from slipstream.checkpoint.gguf import GGUFFile
from slipstream.errors import FileFormatError, GGUFError, UnsupportedError
from slipstream.models.tokenizer import Tokenizer, build_tokenizer
from slipstream.models.tokenizer_bytes import gpt2_alphabet
from slipstream.models.tokenizer_gguf import rebuild
from slipstream.models.tokenizer_split import SPLITTINGS, splitting

ALPHABET = gpt2_alphabet()
VOCABULARIES = ["bert-bge", "deepseek-coder", "falcon", "gpt-2", "llama-spm", "phi-3"]
PREFIX = "tokenizer.ggml."
HARD = [
    "", " ", "  ", "\n", "\t\n \r\n", " hello", "hello  ", "a\n\n\nb", "Hello, world! 12345 3.14e-10",
    "I'M, you'Re; don't", "naïve café ﬁ Å Å", "日本語のテキスト、한국어 文", "🙂👩‍👩‍👧‍👦🏳️‍🌈 e\u0301", "\u200b\u00a0\u3000x",
    "def f(x):\n\treturn x**2  # ok\n", "<b>&amp;</b> {\"a\": [1, 2]}", "\x00\x01\x7f", "ⅷ½²", "ا\u0644عربية עברית",
]  # fmt: skip


def metadata_of(path: Path) -> dict[str, Any]:
    found = GGUFFile(path).metadata
    return {
        key.removeprefix(PREFIX): value for key, value in found.items() if key.startswith(PREFIX)
    }


def varied_text(seed: int, count: int) -> list[str]:
    """Lines of words, numbers, marks, scripts and blanks in every order."""
    source = random.Random(seed)
    scripts = [
        "abcdeXYZ",
        "0123456789",
        " \t\n",
        "'’\"!?.,;:-_()[]{}<>/\\@#$%^&*+=~`|",
        "éßñøдфλ",
        "漢字かな한",
        "🙂🚀\u0301\u200d",
    ]
    lines = []
    for _ in range(count):
        runs = [source.choice(scripts) for _ in range(source.randint(1, 30))]
        lines.append(
            "".join(source.choice(run) for run in runs for _ in range(source.randint(1, 4)))
        )
    return lines


@pytest.mark.parametrize("name", VOCABULARIES)
def test_ids_equal_the_recorded_ones(name: str, shared_data: Path) -> None:
    path = shared_data / "vectors" / "vocabularies" / f"ggml-vocab-{name}.gguf"
    tokenizer = rebuild(metadata_of(path))
    texts = Path(f"{path}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    expected = Path(f"{path}.out").read_text().splitlines()
    assert len(expected) >= 40
    for text, ids in zip(texts, expected, strict=False):
        found = tokenizer.encode(text, add_special_tokens=False).ids
        assert found == [int(word) for word in ids.split()], text


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Tokenizer:
    return build_tokenizer(TokenizerData(gguf=metadata_of(smollm2_path)))


def real_lines(shared_data: Path) -> list[str]:
    texts = [
        *sorted((shared_data / "text").rglob("*.utf8")),
        shared_data / "text" / "wiki.valid.raw",
    ]
    return [
        line
        for path in texts
        for line in path.read_bytes()[:60_000].decode("utf-8", "ignore").splitlines(True)
    ]


@pytest.mark.slow
def test_smollm2_gives_the_ids_of_transformers_on_real_text(
    smollm2: Tokenizer, smollm2_path: Path, shared_data: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    other = transformers.AutoTokenizer.from_pretrained(
        smollm2_path.parent, gguf_file=smollm2_path.name
    )
    # transformers 5.23 reads no "smollm" from GGUF; this is what the model's tokenizer.json has
    words = [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    lines = [*real_lines(shared_data), *HARD, *varied_text(1, 2000)]
    assert len(lines) > 3000
    for line in lines:
        assert smollm2.encode(line) == other(line)["input_ids"], line


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt-2", "phi-3", "llama-spm"])
def test_other_vocabularies_give_the_ids_of_transformers_on_real_text(
    name: str, shared_data: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = shared_data / "vectors" / "vocabularies"
    file = f"ggml-vocab-{name}.gguf"
    other = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    ours = build_tokenizer(TokenizerData(gguf=metadata_of(folder / file)))
    for line in [*real_lines(shared_data)[:2000], *HARD, *varied_text(6, 1000)]:
        # of a leading space transformers 5.23 makes one ▁ fewer for Llama than SentencePiece does
        if not (name == "llama-spm" and line.startswith(" ")):
            assert ours.encode(line) == other(line)["input_ids"], line


def test_smollm2_knows_its_ends_and_undoes_itself(smollm2: Tokenizer) -> None:
    assert smollm2.vocabulary_size == 49152
    assert smollm2.bos_id == 1 and smollm2.eos_ids == {0, 2}
    for text in [*HARD, *varied_text(2, 200)]:
        ids = smollm2.encode(text)
        assert smollm2.decode(ids) == text
        assert b"".join(map(smollm2.token_bytes, ids)) == text.encode()


def test_special_tokens_in_a_text_are_single_ids(smollm2: Tokenizer) -> None:
    ids = smollm2.encode("<|im_start|>user\nhi<|im_end|>")
    assert ids[0] == 1 and ids[-1] == 2
    assert smollm2.decode(ids) == "user\nhi"
    assert smollm2.decode(ids, skip_special=False) == "<|im_start|>user\nhi<|im_end|>"
    assert {0, 1, 2} <= smollm2.special_ids


def sentencepiece_model(kind: str, **settings_: Any) -> tuple[Any, dict[str, Any]]:
    """A model trained here by SentencePiece itself, and what a GGUF file would say of it."""
    sentencepiece = pytest.importorskip("sentencepiece")
    proto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    written = io.BytesIO()
    text = [
        f"the {a} {b}s and {b}ing, {a}{b} {i * 37}"
        for i in range(60)
        for a, b in [("walk", "talk"), ("new", "read"), ("low", "kind")]
    ]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=written, vocab_size=400, model_type=kind,
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2, **settings_,
    )  # fmt: skip
    model = proto.ModelProto.FromString(written.getvalue())
    metadata = {
        "model": "llama" if kind == "bpe" else "t5",
        "tokens": [piece.piece for piece in model.pieces],
        "scores": [piece.score for piece in model.pieces],
        "token_type": [piece.type for piece in model.pieces],
        "unknown_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "precompiled_charsmap": list(model.normalizer_spec.precompiled_charsmap),
    }
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue()), metadata


@pytest.mark.parametrize("prefix", [True, False])
def test_bpe_with_scores_gives_the_ids_of_sentencepiece(prefix: bool) -> None:
    other, metadata = sentencepiece_model(
        "bpe",
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
    )
    tokenizer = build_tokenizer(TokenizerData(gguf=metadata | {"add_space_prefix": prefix}))
    words = ["walking", "talks", "the new reads", "lowlow kind", "12 345", "walk talking  newread"]
    for text in [*words, *HARD, *varied_text(3, 300)]:
        if "\0" not in text:
            assert tokenizer.encode(text, special=False) == other.encode(text), text
    assert tokenizer.encode("the")[0] == 1 and tokenizer.eos_ids == {2}


def test_unigram_gives_the_ids_of_sentencepiece() -> None:
    other, metadata = sentencepiece_model("unigram", normalization_rule_name="nmt_nfkc")
    tokenizer = build_tokenizer(TokenizerData(gguf=metadata))
    for text in [
        "walking",
        "the new reads",
        "lowlow kind",
        " 12  345 ",
        "walk talking",
        "café ﬁ",
        "\tnewread\n",
    ]:
        assert tokenizer.encode(text, special=False) == other.encode(text), text
    assert tokenizer.encode("the")[-1] == 2


def test_the_real_stories_model_gives_the_ids_of_sentencepiece(shared_data: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = shared_data / "models" / "stories260K"
    other = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tok512.model"))
    tokenizer = build_tokenizer(TokenizerData(gguf=metadata_of(folder / "stories260K.gguf")))
    for line in (folder / "STORY.txt").read_text().splitlines():
        text = " ".join(line.split())  # what SentencePiece does first, and GGUF does not record
        assert tokenizer.encode(text, special=False) == other.encode(text), text
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", sorted(SPLITTINGS))
def test_splitting_loses_nothing(name: str) -> None:
    rules = splitting(name)
    for text in HARD + varied_text(5, 50):
        normal = unicodedata.normalize("NFC", text) if rules.nfc else text
        normalizer = rules.normalizer()
        assert (normalizer.normalize_str(text) if normalizer else text) == normal
        pieces = rules.pre_tokenizer().pre_tokenize_str(normal)
        spelled = "".join(piece for piece, _ in pieces)
        assert bytes(ALPHABET[character] for character in spelled) == normal.encode()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpt-2", ["I", "'m", " at", " 12345", " HelloWORLDs", "!!", "\n\n ", " x", "'", "LL"]),
        ("smollm", ["I", "'m", " at", " ", "1", "2", "3", "4", "5", " HelloWORLDs", "!!", "\n\n ", " x", "'", "LL"]),
        ("llama-bpe", ["I", "'m", " at", " ", "123", "45", " HelloWORLDs", "!!\n\n", " ", " x", "'LL"]),
        ("qwen2", ["I", "'m", " at", " ", "1", "2", "3", "4", "5", " HelloWORLDs", "!!\n\n", " ", " x", "'LL"]),
        ("gpt-4o", ["I'm", " at", " ", "123", "45", " Hello", "WORLDs", "!!\n\n", " ", " x'LL"]),
        ("tekken", ["I", "'m", " at", " ", "1", "2", "3", "4", "5", " Hello", "WORLDs", "!!\n\n", " ", " x", "'", "LL"]),
        ("falcon", ["I", "'", "m", " at", " ", "123", "45", " HelloWORLDs", "!!", "\n\n ", " x", "'", "LL"]),
        ("deepseek-v3", ["I", "'m", " at", " ", "123", "45", " HelloWORLDs", "!!\n\n", " ", " x", "'LL"]),
    ],
)  # fmt: skip
def test_words_are_cut_as_the_model_was_trained(name: str, words: list[str]) -> None:
    text = "I'm at 12345 HelloWORLDs!!\n\n  x'LL"
    if name == "tekken":
        words = [*words[:-2], "'LL"]
    pieces = splitting(name).pre_tokenizer().pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in pieces] == words


def test_an_unknown_splitting_is_refused_not_guessed() -> None:
    with pytest.raises(UnsupportedError, match="Hugging Face folder"):
        splitting("from-the-future")


def test_gemma_takes_the_order_of_its_tokens_and_spells_spaces() -> None:
    tokens = [
        "<unk>",
        "<bos>",
        "<eos>",
        "<start_of_turn>",
        "  ",
        "\u2581",
        "a",
        "b",
        "ab",
        "ba",
        "aba",
    ]
    metadata = {
        "model": "llama", "tokens": tokens, "scores": [0.0] * len(tokens), "add_space_prefix": False,
        "token_type": [2, 3, 3, 3, 4] + [1] * 6, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    tokenizer = rebuild(metadata)
    assert tokenizer.encode("aba", add_special_tokens=False).ids == [8, 6] or tokenizer.encode(
        "aba"
    ).ids[1:] == [10]
    assert tokenizer.encode("a  b", add_special_tokens=False).ids == [6, 4, 7]
    assert tokenizer.encode("<start_of_turn>a").ids == [1, 3, 6]


TINY: Mapping[str, Any] = {
    "model": "gpt2", "pre": "gpt-2", "tokens": ["a", "b", "ab", "<e>"], "merges": ["a b"],
    "token_type": [1, 1, 1, 3], "eos_token_id": 3,
}  # fmt: skip


def test_a_duplicate_token_keeps_its_place() -> None:
    tokenizer = build_tokenizer(
        TokenizerData(gguf={**TINY, "tokens": ["a", "b", "ab", "a"], "token_type": [1] * 4})
    )
    assert tokenizer.vocabulary_size == 4 and tokenizer.encode("ab") == [2]


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": None}, {"tokens": []}, {"tokens": [1, 2]}, {"tokens": "abc"}, {"tokens": ["x" * 10_000]},
        {"merges": ["a"]}, {"merges": ["a c"]}, {"merges": ["c b"]}, {"merges": [3]}, {"merges": 5},
        {"token_type": [1]}, {"scores": [1.0]}, {"scores": 3}, {"token_type": ["x"] * 4}, {"eos_token_id": 99, "add_eos_token": True},
        {"bos_token_id": -1, "add_bos_token": True}, {"model": "t5", "precompiled_charsmap": [1, 2, 3]},
    ],
)  # fmt: skip
def test_damaged_metadata_is_one_typed_error(change: dict[str, Any]) -> None:
    with pytest.raises(FileFormatError):
        build_tokenizer(TokenizerData(gguf={**TINY, **change}))


@settings(max_examples=150, deadline=None)
@given(
    st.fixed_dictionaries(
        {"model": st.sampled_from(["gpt2", "llama", "t5", "bert", "gemma4"])},
        optional={
            "tokens": st.lists(st.text(max_size=6), max_size=8),
            "scores": st.lists(st.floats(), max_size=8),
            "token_type": st.lists(st.integers(-2, 9), max_size=8),
            "merges": st.lists(st.text("ab ", max_size=4), max_size=4),
            "bos_token_id": st.integers(-3, 12),
            "eos_token_id": st.one_of(st.integers(-3, 12), st.text(max_size=2)),
            "unknown_token_id": st.integers(-3, 12),
            "add_bos_token": st.booleans(),
            "add_eos_token": st.booleans(),
            "precompiled_charsmap": st.lists(st.integers(0, 255), max_size=12),
        },
    )
)
def test_hostile_metadata_makes_a_tokenizer_or_one_typed_error(metadata: dict[str, Any]) -> None:
    try:
        tokenizer = build_tokenizer(TokenizerData(gguf=metadata))
    except (FileFormatError, UnsupportedError):
        return
    ids = tokenizer.encode("ab a")
    assert all(0 <= index < tokenizer.vocabulary_size for index in ids)
    tokenizer.decode(ids)
    assert len(tokenizer.token_bytes(0)) >= 0


def test_gguf_errors_are_gguf_errors() -> None:
    with pytest.raises(GGUFError):
        rebuild({"model": "gpt2"})
