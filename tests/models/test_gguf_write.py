"""Every architecture as GGUF: what is written is read back as the same graph and the same weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from slipstream.checkpoint.checkpoint import TokenizerData
from slipstream.checkpoint.gguf_checkpoint import GGUFCheckpoint
from slipstream.checkpoint.gguf_write import GGUFContent, write_gguf
from slipstream.cli.export_gguf import StoredTensors, _check, export_gguf, modelfile
from slipstream.compress.gguf_round import GGUFEncoder
from slipstream.errors import UnsupportedError
from slipstream.models.model import Model
from slipstream.models.registry import blueprint_of
from slipstream.models.tokenizer import Tokenizer, build_tokenizer
from slipstream.models.tokenizer_gguf_write import tokenizer_metadata
from slipstream.models.tokenizer_split import SPLITTINGS

WRITTEN = [
    "llama", "llama-tied-biased", "llama-wide-heads", "llama-3", "llama-linear", "llama-yarn", "mistral", "mistral-whole",
    "qwen2", "qwen3", "qwen3-yarn", "phi3", "phi3-short", "olmo2", "gpt2",
]  # fmt: skip
REFUSED = ["smollm3", "gemma3-pattern", "gpt2-odd"]  # llama.cpp fixes these
TEXT = "Once upon a time, don't 123 THERE was\n a little naïve fox. " * 20


def byte_level(folder: Path, name: str = "llama-bpe") -> Tokenizer:
    rules = SPLITTINGS[name]
    inner = Inner(models.BPE(ignore_merges=rules.whole_words))
    inner.pre_tokenizer, inner.decoder = rules.pre_tokenizer(), decoders.ByteLevel()
    if rules.nfc:
        inner.normalizer = rules.normalizer()
    special = ["<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False))  # fmt: skip
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return saved(inner, folder)


def saved(inner: Inner, folder: Path) -> Tokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ messages[0].content }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return build_tokenizer(TokenizerData(json_path=folder / "tokenizer.json", config=config))


def model_of(tiny, tokenizer) -> Model:
    return Model("tiny/model", tiny.blueprint.graph, tiny.weights, tokenizer, tiny.checkpoint)


def write(tiny, path: Path, kind: str = "f32") -> Model:
    model = model_of(tiny, None)
    tensors = StoredTensors(model)
    tied = not any(name.startswith("lm_head") for name in tensors)
    encoder = GGUFEncoder(kind, len(model.graph.attentions), tied)
    content = GGUFContent(model.checkpoint.config, tensors, {})
    write_gguf(path, content, encoder, check=lambda file: _check(model, file))
    return model


@pytest.mark.parametrize("name", WRITTEN)
def test_graph_and_weights_come_back_to_the_bit(tiny_of, tmp_path, name):
    tiny = tiny_of(name)
    model = write(tiny, tmp_path / "m.gguf")
    read = GGUFCheckpoint(tmp_path / "m.gguf")
    blueprint = blueprint_of(read.config)
    assert blueprint.graph.context <= model.graph.context
    names = sorted(set(read.names()))
    assert names == sorted(StoredTensors(model))
    for stored in names:
        expected = model.checkpoint.tensor(stored).dequantize()
        found = read.tensor(stored).dequantize()
        turned = name == "gpt2" and ".h." in stored and expected.ndim == 2
        assert np.array_equal(found, expected.T if turned else expected), stored


def test_windows_that_llama_cpp_lacks_shorten_the_context(tiny_of, tmp_path):
    for name in ("mistral", "qwen2-windows"):
        write(tiny_of(name), tmp_path / "m.gguf")
        assert GGUFCheckpoint(tmp_path / "m.gguf").config["max_position_embeddings"] == 16


@pytest.mark.parametrize("name", REFUSED)
def test_what_llama_cpp_would_compute_otherwise_is_refused_and_not_kept(tiny_of, tmp_path, name):
    with pytest.raises(UnsupportedError):
        write(tiny_of(name), tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_rows_that_fit_no_block_stay_float16(tiny_of, tmp_path):
    write(tiny_of("llama"), tmp_path / "m.gguf", "q4_0")
    kinds = {name: info.type for name, info in GGUFCheckpoint(tmp_path / "m.gguf").file.tensors.items()}  # fmt: skip
    assert kinds["blk.0.attn_q.weight"] == 2 and kinds["blk.0.ffn_down.weight"] == 1  # 48 inputs
    assert kinds["output.weight"] == 8 and kinds["output_norm.weight"] == 0


def test_a_tokenizer_of_bytes_says_the_same_through_gguf(tmp_path):
    for name in ("llama-bpe", "qwen2", "smollm", "gpt-2", "tekken", "deepseek-llm"):
        tokenizer = byte_level(tmp_path / name, name)
        data = TokenizerData(json_path=tmp_path / name / "tokenizer.json")
        found = tokenizer_metadata(tokenizer, data, 340)
        assert SPLITTINGS[found["tokenizer.ggml.pre"]] == SPLITTINGS[name]
        assert len(found["tokenizer.ggml.tokens"]) == 340
        again = build_tokenizer(TokenizerData(gguf=section(found)))
        text = "Don't take 1234 naïve\n\n FOXES  there"
        assert again.encode(text) == tokenizer.encode(text)
        assert again.bos_id == tokenizer.bos_id and again.eos_ids == tokenizer.eos_ids


def section(metadata):
    prefix = "tokenizer.ggml."
    return {key[len(prefix) :]: value for key, value in metadata.items() if key.startswith(prefix)}


def test_sentencepiece_by_merges_says_the_same_through_gguf(tmp_path):
    inner = Inner(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    inner.normalizer = normalizers.Sequence(steps)
    spaces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]  # fmt: skip
    inner.decoder = decoders.Sequence(spaces)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = [f"▁{word}" for word in TEXT.split()]
    inner.train_from_iterator(words, trainers.BpeTrainer(vocab_size=400, special_tokens=special[:3], show_progress=False))  # fmt: skip
    tokenizer = saved(inner, tmp_path)
    data = TokenizerData(json_path=tmp_path / "tokenizer.json")
    found = tokenizer_metadata(tokenizer, data, tokenizer.vocabulary_size)
    assert found["tokenizer.ggml.model"] == "llama" and found["tokenizer.ggml.add_space_prefix"]
    again = build_tokenizer(TokenizerData(gguf=section(found)))
    assert again.encode("a little time") == tokenizer.encode("a little time")


def test_a_tokenizer_that_llama_cpp_has_no_name_for_is_refused(tmp_path):
    tokenizer = byte_level(tmp_path)
    tokenizer.inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("e", "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    with pytest.raises(UnsupportedError, match="cuts text"):
        tokenizer_metadata(tokenizer, TokenizerData(json_path=tmp_path / "tokenizer.json"), 400)
    with pytest.raises(UnsupportedError, match="rows"):
        tokenizer_metadata(byte_level(tmp_path), TokenizerData(json_path=tmp_path), 10)


def test_an_export_is_a_whole_model_with_its_modelfile(tiny_of, tmp_path):
    tokenizer = byte_level(tmp_path)
    tiny = tiny_of("llama")
    small = model_of(tiny, tokenizer)
    with pytest.raises(UnsupportedError, match="rows"):  # 97 rows, 330 tokens
        export_gguf(small, tmp_path / "m.gguf", "q8_0")
    text = modelfile(small, "model.gguf")
    assert text.splitlines() == [
        "FROM ./model.gguf", "PARAMETER num_ctx 256", 'PARAMETER stop "</s>"'
    ]  # fmt: skip
