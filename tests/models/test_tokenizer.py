"""One `Tokenizer`, whichever file it came from: ids, text, bytes, ends, and refusals."""

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from slipstream.checkpoint.checkpoint import TokenizerData
from slipstream.errors import FileFormatError, RequestError
from slipstream.models.tokenizer import Tokenizer, build_tokenizer, tokenizer_of_folder
from slipstream.models.tokenizer_bytes import gpt2_alphabet

BYTES = {character: byte for character, byte in gpt2_alphabet().items()}


def byte_json(folder: Path, **changes: str) -> Path:
    """A tokenizer.json of 256 byte tokens, a few merges, and special tokens from id 300."""
    vocabulary = dict(BYTES) | {"he": 256, "ll": 257}
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[("h", "e"), ("l", "l")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<s>", "</s>", "<|im_end|>"])
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 258)]
    )
    folder.mkdir(exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    config = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "chat_template": "{{ bos_token }}{{ messages[0].content }}",
    }
    return build_tokenizer(TokenizerData(json_path=byte_json(tmp_path), config=config))


def test_a_text_becomes_ids_and_text_again(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("hell") == [258, 256, 257]
    assert tokenizer.encode("hell", special=False) == [256, 257]
    assert tokenizer.decode([258, 256, 257, 259]) == "hell"
    assert tokenizer.decode([258, 256], skip_special=False) == "<s>he"
    assert tokenizer.vocabulary_size == 261


def test_every_end_is_known(tokenizer: Tokenizer) -> None:
    assert tokenizer.bos_id == 258
    assert tokenizer.eos_ids == {259, 260}


def test_ends_of_generation_config_count(tmp_path: Path) -> None:
    path = byte_json(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 259]}')
    assert build_tokenizer(TokenizerData(json_path=path)).eos_ids == {7, 259, 260}
    (tmp_path / "generation_config.json").write_text("not json")
    assert build_tokenizer(TokenizerData(json_path=path)).eos_ids == {260}


def test_bytes_of_tokens_join_to_the_text(tokenizer: Tokenizer) -> None:
    text = "héllo 🙂\n"
    ids = tokenizer.encode(text, special=False)
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert tokenizer.token_bytes(258) == b"<s>"
    assert tokenizer.special_ids == {258, 259, 260}


def test_the_chat_template_knows_the_special_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.chat is not None
    assert tokenizer.chat.render([{"role": "user", "content": "hi"}]) == "<s>hi"


def test_of_several_templates_the_default_is_taken(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    made = build_tokenizer(
        TokenizerData(json_path=byte_json(tmp_path), config={"chat_template": named})
    )
    assert made.chat is not None and made.chat.source == "plain"
    assert build_tokenizer(TokenizerData(json_path=byte_json(tmp_path))).chat is None


def test_text_that_is_not_unicode_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="Unicode"):
        tokenizer.encode("\ud800")


@pytest.mark.parametrize("ids", [[-1], [261], [1 << 40], [0, 99999]])
def test_ids_out_of_range_are_refused(ids: list[int], tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="0…260"):
        tokenizer.decode(ids)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff\xfe", b'{"model": {"type": "BPE"}}', b"x" * 100]
)
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(FileFormatError):
        build_tokenizer(TokenizerData(json_path=tmp_path / "tokenizer.json"))


def test_there_is_exactly_one_source(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError):
        build_tokenizer(TokenizerData())


def test_what_is_saved_reads_back_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    tokenizer.save_json(folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer.config()))
    again = tokenizer_of_folder(folder)
    assert again.encode("hello 🙂") == tokenizer.encode("hello 🙂")
    assert (again.bos_id, again.special) == (tokenizer.bos_id, tokenizer.special)


@pytest.mark.slow
def test_transformers_reads_what_is_saved(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "saved"
    folder.mkdir()
    tokenizer.save_json(folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer.config()))
    other = transformers.AutoTokenizer.from_pretrained(folder)
    for text in ["hello 🙂", "<s>he</s>", " a  b\n"]:
        assert other(text)["input_ids"] == tokenizer.encode(text)
    assert other.eos_token == "</s>"
