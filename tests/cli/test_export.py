"""Exports are what others read: llama.cpp computes from our file what we compute from it."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from slipstream.backends.batch import single
from slipstream.backends.reference import compile_reference
from slipstream.checkpoint.artifact import write_artifact
from slipstream.checkpoint.safetensors import SafetensorsFile
from slipstream.cli.export import command
from slipstream.cli.export_gguf import export_gguf
from slipstream.compress.gguf_round import KINDS
from slipstream.errors import ArtifactError, UnsupportedError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.tensor import Affine
from slipstream.models.load import load

ROOT = Path(__file__).resolve().parents[2]
BUILT = "build/peers/llama.cpp/build/bin/llama-perplexity"
CONTEXT, CHUNKS = 128, 2


@pytest.fixture(scope="module")
def llama_perplexity() -> str:
    places = [os.environ.get("LLAMA_PERPLEXITY"), ROOT / BUILT, ROOT.parent / "main" / BUILT]
    found = shutil.which("llama-perplexity") or next((str(p) for p in places if p and Path(p).is_file()), None)  # fmt: skip
    if found is None:
        pytest.skip("llama.cpp's llama-perplexity is absent")
    return found


@pytest.fixture(scope="module")
def stories(shared_data, tmp_path_factory) -> Path:
    """stories260K as a Hugging Face folder with a tokenizer.json."""
    folder = tmp_path_factory.mktemp("stories") / "hf"
    source = shared_data / "models" / "stories260K"
    shutil.copytree(source / "hf", folder)
    tokenizer = load(source / "stories260K.gguf").tokenizer
    tokenizer.save_json(folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer.config()))
    return folder


def our_perplexities(path: Path, text: str) -> list[float]:
    """After each chunk, over the second halves of the chunks so far: as llama-perplexity counts."""
    model = load(path)
    program = compile_reference(model.graph, model.weights)
    ids = np.asarray(model.tokenizer.encode(text), np.int32)
    kv, losses, found = program.new_kv(CONTEXT), [], []
    for start in range(0, CHUNKS * CONTEXT, CONTEXT):
        chunk = ids[start : start + CONTEXT].copy()
        chunk[0] = model.tokenizer.bos_id
        logits = np.asarray(program.step(single(chunk, all_logits=True), kv), np.float64)
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        rows = range(CONTEXT // 2, CONTEXT - 1)
        losses += [-np.log(shares[row, chunk[row + 1]]) for row in rows]
        found.append(float(np.exp(np.mean(losses))))
    return found


def their_perplexities(program: str, path: Path, text: Path) -> list[float]:
    size = str(CONTEXT)
    done = subprocess.run(
        [program, "-m", str(path), "-f", str(text), "-c", size, "-b", size, "--chunks", str(CHUNKS), "-t", "1", "--no-warmup"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
    )  # fmt: skip
    found = [float(value) for _, value in re.findall(r"\[(\d+)\](\d+\.\d+)", done.stdout)]
    assert found, done.stdout[-2000:]  # its logger sometimes loses the last
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [("f32", 3e-4), ("q8_0", 2e-2), ("q4_0", 2e-2), ("q4_k_m", 2e-2)],  # it rounds inputs, too
)
def test_llama_cpp_gives_our_perplexity(
    stories, shared_data, llama_perplexity, tmp_path, kind, tolerance
):
    text = tmp_path / "text.txt"
    source = shared_data / "text" / "tinystories.cased.200KB.txt"
    text.write_text(source.read_text(encoding="utf-8")[:3000], encoding="utf-8")
    command(str(stories), tmp_path / "m.gguf", to="gguf", type=kind, text=text, tokens=256)
    theirs = their_perplexities(llama_perplexity, tmp_path / "m.gguf", text)
    ours = our_perplexities(tmp_path / "m.gguf", text.read_text(encoding="utf-8"))
    np.testing.assert_allclose(ours[: len(theirs)], theirs, rtol=tolerance)


@pytest.mark.parametrize(
    "kind",
    [
        kind
        if kind in ("f32", "q8_0", "q4_k_m", "keep")
        else pytest.param(kind, marks=pytest.mark.slow)
        for kind in KINDS
    ],
)
def test_every_type_is_read_back_near_the_original(stories, tmp_path, kind):
    model = load(stories)
    types = export_gguf(model, tmp_path / "m.gguf", kind)
    read = load(tmp_path / "m.gguf")
    assert read.tokenizer.encode("Once upon a time") == model.tokenizer.encode("Once upon a time")
    ids = np.asarray(model.tokenizer.encode("Once upon a time"), np.int32)

    def logits(one):
        program = compile_reference(one.graph, one.weights)
        return program.step(single(ids), program.new_kv(4))[0]

    before, after = logits(model), logits(read)
    if kind in ("f32", "keep"):
        assert np.array_equal(before, after) and set(types.values()) == {"F32"}
    else:
        assert np.corrcoef(before, after)[0, 1] > 0.97


def test_a_modelfile_lies_beside_its_weights(stories, tmp_path):
    command(str(stories), tmp_path / "out", to="modelfile", type="q8_0")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Modelfile", "model.gguf"]
    assert (tmp_path / "out" / "Modelfile").read_text().startswith("FROM ./model.gguf\n")
    with pytest.raises(ArtifactError, match="exists already"):
        command(str(stories), tmp_path / "out", to="modelfile")


@pytest.mark.slow
def test_what_is_already_a_gguf_is_kept_to_the_bit(smollm2_path, tmp_path):
    model = load(smollm2_path)
    export_gguf(model, tmp_path / "m.gguf", "keep")
    read = load(tmp_path / "m.gguf")
    name = "model.layers.7.self_attn.q_proj.weight"
    before, after = model.weights[name], read.weights[name]
    assert np.array_equal(before.codes, after.codes)
    assert np.array_equal(before.dequantize(), after.dequantize())
    assert read.tokenizer.encode("Hello  world") == model.tokenizer.encode("Hello  world")
    assert read.tokenizer.chat.source == model.tokenizer.chat.source


def test_wrong_orders_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UnsupportedError, match="--to"):
        command("nothing", tmp_path / "x", to="tflite")
    with pytest.raises(UnsupportedError, match="--type"):
        command("nothing", tmp_path / "x", type="q9")
    (tmp_path / "x").write_text("")
    with pytest.raises(ArtifactError):
        command("nothing", tmp_path / "x")


def test_an_onnx_folder_has_what_a_program_needs(stories, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    command(str(stories), tmp_path / "out", to="onnx")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.onnx", "model.onnx.data", "tokenizer.json"} <= names
    model = load(stories)
    ids = np.asarray(model.tokenizer.encode("Once upon a time"), np.int64)
    feeds = {"input_ids": ids[None], "position_ids": np.arange(len(ids))[None]}
    feeds["attention_mask"] = np.ones((1, len(ids)), np.int64)
    for op in model.graph.attentions:
        for name in ("key", "value"):
            past = np.zeros((1, op.kv_heads, 0, op.head_dim), np.float32)
            feeds[f"past_key_values.{op.layer}.{name}"] = past
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    logits = session.run(["logits"], feeds)[0][0]
    program = compile_reference(model.graph, model.weights)
    expected = program.step(single(ids.astype(np.int32), all_logits=True), program.new_kv(4))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)


def rounded(stories: Path, folder: Path, form: Affine) -> Path:
    """stories260K with all matrices in one format, as an artifact, but those with rows of 172."""
    model = load(stories)
    stored = {name: model.checkpoint.tensor(name) for name in model.checkpoint.names()}
    tensors = {
        name: quantize_affine(tensor.dequantize(), form) if _fits(tensor.shape) else tensor
        for name, tensor in stored.items()
        if name in model.weights
    }
    return write_artifact(
        folder, config=model.checkpoint.config, tensors=tensors, tokenizer=model.tokenizer,
        chat_template=None, manifest={}, activations={},
    )  # fmt: skip


def _fits(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[1] % 16 == 0


def their_logits(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """What transformers computes from a folder, and what our reference does."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = load(folder)
    ids = np.asarray(model.tokenizer.encode("Once upon a time there was"), np.int32)
    with torch.no_grad():
        theirs = loaded(torch.tensor(ids[None], dtype=torch.long)).logits[0].numpy()
    program = compile_reference(model.graph, model.weights)
    return theirs, program.step(single(ids, all_logits=True), program.new_kv(1))


@pytest.mark.slow
def test_transformers_loads_what_a_packed_file_would_keep_from_it(stories, tmp_path):
    packed = rounded(stories, tmp_path / "in", Affine(4, None, "zero_point"))
    command(str(packed), tmp_path / "out", to="compressed-tensors")
    before, after = load(packed), load(tmp_path / "out")
    for name in before.weights:
        assert np.array_equal(after.weights[name].dequantize(), before.weights[name].dequantize())
    theirs, ours = their_logits(tmp_path / "out")
    assert np.allclose(theirs, ours, rtol=1e-3, atol=1e-3)


def test_float8_codes_times_their_scales_are_what_is_read_back(stories, tmp_path):
    command(str(stories), tmp_path / "out", to="fp8")
    original, after = load(stories), load(tmp_path / "out")
    file = SafetensorsFile(tmp_path / "out" / "model.safetensors")
    codes = [name for name in file.names() if f"{name}_scale" in set(file.names())]
    assert len(codes) == 7 * len(original.graph.attentions)
    for name in codes:
        stored, scale = file.array(name), file.array(f"{name}_scale").astype(np.float32)
        assert stored.dtype == ml_dtypes.float8_e4m3fn and scale.shape == (len(stored), 1)
        values, wanted = stored.astype(np.float32) * scale, original.weights[name].dequantize()
        assert np.array_equal(after.weights[name].dequantize(), values)
        # Half of the last place of three bits of mantissa, or of the smallest numbers there are.
        assert (np.abs(values - wanted) <= np.maximum(np.abs(wanted) / 16, scale * 2**-10)).all()
    assert "lm_head.weight_scale" not in file.names()


@pytest.mark.slow
def test_transformers_reads_float8_as_we_do(stories, tmp_path):
    command(str(stories), tmp_path / "out", to="fp8")
    theirs, ours = their_logits(tmp_path / "out")
    assert np.abs(theirs - ours).mean() < 0.05 * np.abs(ours).mean()  # it rounds inputs too


def test_what_only_we_read_is_not_written_for_others(stories, tmp_path):
    config = json.loads((stories / "config.json").read_text())
    shutil.copytree(stories, tmp_path / "in")
    shares = {"shares": [0] * config["num_hidden_layers"]}
    (tmp_path / "in" / "config.json").write_text(json.dumps({**config, "slipstream": shares}))
    for target in ("fp8", "compressed-tensors"):
        with pytest.raises(UnsupportedError, match="shares"):
            command(str(tmp_path / "in"), tmp_path / target, to=target)
        assert not (tmp_path / target).exists()


@pytest.mark.parametrize("library", ["gptq", "awq"])
def test_a_quantized_artifact_becomes_a_folder_of_others(stories, tmp_path, library):
    model = load(stories)
    tensors = {
        name: quantize_affine(tensor.dequantize(), Affine(4, None, "zero_point"))
        if ".self_attn." in name
        else tensor
        for name in model.checkpoint.names()
        for tensor in (model.checkpoint.tensor(name),)
    }
    write_artifact(
        tmp_path / "in", config=model.checkpoint.config, tensors=tensors, tokenizer=model.tokenizer,
        chat_template=None, manifest={}, activations={},
    )  # fmt: skip
    command(str(tmp_path / "in"), tmp_path / "out", to=library)
    before, after = load(tmp_path / "in"), load(tmp_path / "out")
    for name in before.weights:
        values = before.weights[name].dequantize()
        if ".self_attn." not in name:
            values = values.astype(np.float16)
        assert np.array_equal(after.weights[name].dequantize(), values), name
    assert after.tokenizer.encode("Once") == before.tokenizer.encode("Once")
    settings = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    named = {"gptq": "GPTQConfig", "awq": "AwqConfig"}[library]
    theirs = getattr(pytest.importorskip("transformers"), named)
    method = settings.pop("quant_method")
    assert theirs(**settings).bits == 4 and method == library
    with pytest.raises(UnsupportedError, match="this one has none"):
        command(str(stories), tmp_path / "dense", to=library)
