"""`optimize`, `quantize` and `evaluate` from the command line, on a tiny model and the real kernels."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import save_file

from slipstream.backends.native import native_module
from slipstream.checkpoint.artifact import read_manifest, verify
from slipstream.cli import evaluate as evaluate_verb
from slipstream.cli import optimize as optimize_verb
from slipstream.cli import quantize as quantize_verb
from slipstream.errors import (
    ArtifactError,
    LimitsNotMetError,
    MachineError,
    RequestError,
    SourceError,
    UnsupportedError,
)
from slipstream.evaluate.divergence import LiveBaseline
from slipstream.evaluate.evaluation import evaluate_program
from slipstream.models.load import load
from slipstream.models.registry import blueprint_of
from slipstream.optimize import budget, space
from slipstream.optimize import search as search_module

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "hidden_act": "silu",
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _small_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        native_module()
    except MachineError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("SLIPSTREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SLIPSTREAM_THREADS", "1")
    monkeypatch.setattr(budget, "PROMPT_TOKENS", 16)
    monkeypatch.setattr(budget, "DECODE_TOKENS", 2)
    monkeypatch.setattr(budget, "REPEATS", (1, 1))
    monkeypatch.setattr(search_module, "candidates", lambda *model: space.candidates(*model)[:3])


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """A Hugging Face folder: random llama, one word a token."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    random = np.random.default_rng(3)
    shapes = blueprint_of(CONFIG).shapes
    tensors = {
        n: (random.normal(size=s) * 0.25 + (len(s) == 1)).astype(np.float32)
        for n, s in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, 96)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "</s>"})
    )
    return folder


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    ids = np.random.default_rng(4).integers(3, 96, 3000)
    path.write_text("\n".join(" ".join(f"w{i}" for i in line) for line in ids.reshape(-1, 20)))
    return path


def test_the_chosen_artifact_is_what_its_manifest_says(
    tiny_model: Path, words: Path, capsys
) -> None:
    out = tiny_model.parent / "out"
    optimize_verb.command(
        str(tiny_model), limit=["kl<3"], text=words, out=out, tokens=512, as_json=True
    )
    study = json.loads(capsys.readouterr().out)
    manifest = verify(out)
    assert manifest["within_limits"] and manifest["name"] == study["choice"]
    assert load(out).graph.vocabulary == 96
    assert "<svg" in (out / "report.html").read_text()
    evaluate_verb.command(str(out), baseline=str(tiny_model), text=words, tokens=512, as_json=True)
    again = json.loads(capsys.readouterr().out)
    assert again["distance"]["kl"]["value"] == pytest.approx(
        manifest["evaluation"]["distance"]["kl"]["value"], rel=0.5
    )


def test_the_artifact_runs_as_it_was_measured(tiny_model: Path, words: Path, capsys) -> None:
    """The very same chunks, the artifact read back from disk: the same KL to the last digit."""
    out = tiny_model.parent / "out"
    optimize_verb.command(
        str(tiny_model), limit=["kl<3"], text=words, out=out, tokens=512, as_json=True
    )
    manifest = read_manifest(out)
    with np.load(next((tiny_model.parent / "cache" / "optimize").glob("*/texts.npz"))) as arrays:
        chunks = arrays["evaluation"]
    original = evaluate_verb.compiled(load(tiny_model), "f32", exact=True)
    served = evaluate_verb.compiled(load(out), "auto", exact=False)
    found = evaluate_program(served, chunks, LiveBaseline(original, chunks))
    assert found.to_json() == manifest["evaluation"]


def test_limits_that_nothing_meets_write_nothing(tiny_model: Path, words: Path, capsys) -> None:
    out = tiny_model.parent / "out"
    with pytest.raises(LimitsNotMetError, match="nothing was written") as raised:
        optimize_verb.command(str(tiny_model), limit=["kl<1e-9"], text=words, out=out, tokens=256)
    assert raised.value.exit_code == 3 and not out.exists()
    shown = capsys.readouterr().out
    assert "Nearest" in shown and "≥" in shown
    optimize_verb.command(
        str(tiny_model), limit=["kl<1e-9"], text=words, out=out, tokens=256, force=True
    )
    assert "outside the limits" in capsys.readouterr().out
    assert not read_manifest(out)["within_limits"]
    assert "Written by force" in (out / "report.html").read_text()


def test_without_text_the_model_writes_its_own(tiny_model: Path, capsys) -> None:
    out = tiny_model.parent / "out"
    quantize_verb.command(str(tiny_model), out=out, bits=4, group="128", tokens=256, as_json=True)
    manifest = verify(out)
    assert manifest["text"]["source"] == "sampled from the model itself"
    assert manifest["recipe"]["pass"][-1]["group"] == 128  # as asked; 64 inputs: the row


def test_an_existing_folder_is_refused_before_any_work(tiny_model: Path) -> None:
    out = tiny_model.parent / "out"
    out.mkdir()
    (out / "precious").write_text("mine")
    with pytest.raises(ArtifactError, match="exists already"):
        optimize_verb.command("no such model", out=out)
    with pytest.raises(ArtifactError, match="not overwritten"):
        optimize_verb.command("no such model", out=out, overwrite=True)
    assert (out / "precious").read_text() == "mine"


def test_what_cannot_be_is_refused_in_words(tiny_model: Path, words: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        optimize_verb.command(str(tiny_model), text=words.parent / "absent")
    for wrong, message in (
        ({"bits": 7}, "--bits is one of"), ({"group": "33"}, "multiple of 16"), ({"method": "awk"}, "--method"),
        ({"zero": "odd"}, "--zero"), ({"activations": "fp8"}, "--activations"),
    ):  # fmt: skip
        with pytest.raises(UnsupportedError, match=message):
            quantize_verb.command(str(tiny_model), out=words.parent / "out", **wrong)  # type: ignore[arg-type]
    short = words.parent / "short.txt"
    short.write_text("w5")
    with pytest.raises(RequestError, match="at least two"):
        evaluate_verb.command(str(tiny_model), text=short)


def test_evaluate_prints_a_table(tiny_model: Path, words: Path, capsys) -> None:
    evaluate_verb.command(
        str(tiny_model), baseline=str(tiny_model), text=words, tokens=512, activations="f32"
    )
    shown = capsys.readouterr().out
    assert "perplexity" in shown and "KL from the baseline" in shown and "same top token" in shown
