"""From a path to a model that runs: folders, GGUF files, and refusals."""

import json

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

from slipstream.backends.batch import Batch, single
from slipstream.backends.reference import compile_reference
from slipstream.errors import FileFormatError, UnsupportedError
from slipstream.models.load import load


@pytest.fixture
def folder(tiny_of, tmp_path):
    """A tiny Llama's folder with a tokenizer of words."""
    tiny = tiny_of("llama")
    for file in tiny.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    words = {f"w{i}": i for i in range(97)}
    model = tokenizers.models.WordLevel(words, unk_token="w0")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_a_folder_becomes_a_model(folder, tiny_of):
    model = load(folder)
    ids = np.array(model.tokenizer.encode("w5 w17 w80"), np.int32)
    assert ids.tolist() == [5, 17, 80]
    assert model.graph.architecture == "llama"
    assert model.name == str(folder)
    program = compile_reference(model.graph, model.weights)
    logits = program.step(single(ids, all_logits=True), program.new_kv(1))
    np.testing.assert_allclose(logits, tiny_of("llama").true_logits(ids), atol=1e-4)


def test_a_missing_tensor_is_named(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(FileFormatError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load(folder)


def test_an_unknown_architecture_is_named(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    with pytest.raises(UnsupportedError, match="mamba"):
        load(folder)


def test_gguf_and_folder_of_one_model_agree(shared_data):
    stories = shared_data / "models" / "stories260K"
    golden = np.load(stories / "stories260K-golden-logits-f64.npy")
    ids = json.loads((stories / "stories260K-golden-greedy.json").read_text())["token_ids"]
    model = load(stories / "stories260K.gguf")
    program = compile_reference(model.graph, model.weights)
    logits = program.step(single(np.array(ids, np.int32), all_logits=True), program.new_kv(4))
    assert np.abs(logits - golden).max() < 5e-5


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france(smollm2_path):
    model = load(smollm2_path)
    assert model.tokenizer.chat is not None
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = model.tokenizer.encode(model.tokenizer.chat.render(question), special=False)
    program = compile_reference(model.graph, model.weights)
    kv = program.new_kv(1)
    logits, answer = program.step(single(np.array(ids, np.int32)), kv), []
    while (token := int(logits[0].argmax())) not in model.tokenizer.eos_ids and len(answer) < 20:
        batch = Batch(
            ids=np.array([token], np.int32),
            row_starts=np.array([0, 1], np.int32),
            lengths=np.array([len(ids) + len(answer)], np.int32),
            pages=np.array([[0]], np.int32),
            logit_rows=np.array([0], np.int32),
        )
        answer.append(token)
        logits = program.step(batch, kv)
    assert model.tokenizer.decode(answer) == "The capital of France is Paris."
