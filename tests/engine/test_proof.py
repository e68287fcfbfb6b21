"""An artifact is served only while it answers its stored prompts as it did when it was written."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slipstream.backends.native import native_module
from slipstream.checkpoint.artifact import MANIFEST, read_manifest, write_artifact
from slipstream.checkpoint.prompts import PROMPTS, parse_prompts, read_prompts
from slipstream.checkpoint.safetensors import SafetensorsFile
from slipstream.cli import verify as verb
from slipstream.engine.engine import Engine
from slipstream.engine.options import EngineOptions
from slipstream.engine.proof import compare, numerics_of, record_prompts
from slipstream.errors import ArtifactError, MachineError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.tensor import Affine, DenseTensor
from slipstream.graph.ops import Activations
from slipstream.models.registry import blueprint_of

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "hidden_act": "silu",
}  # fmt: skip


class Words:
    """A tokenizer of words that a prompt's first letters never meet."""

    bos_id, eos_ids = 1, frozenset({2})

    def save_json(self, path: Path) -> None:
        words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, 96)}
        model = {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"}
        split = {"type": "Whitespace"}
        path.write_text(json.dumps({"version": "1.0", "model": model, "pre_tokenizer": split}))

    def config(self) -> dict[str, str]:
        return {"eos_token": "</s>"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        native_module()
    except MachineError as error:
        pytest.skip(str(error))
    random, tensors = np.random.default_rng(5), {}
    for name, shape in blueprint_of(CONFIG).shapes.items():
        values = (random.normal(size=shape) * 0.25 + (len(shape) == 1)).astype(np.float32)
        small = len(shape) == 2
        tensors[name] = quantize_affine(values, Affine(4, 32)) if small else DenseTensor(values)
    return write_artifact(
        tmp_path_factory.mktemp("proof") / "out",
        config=CONFIG,
        tensors=tensors,
        tokenizer=Words(),
        chat_template=None,
        manifest={"recipe": {}},
        activations=dict.fromkeys(tensors, Activations(8, 32)),
        proofs={PROMPTS: record_prompts},
    )


@pytest.fixture
def artifact(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIPSTREAM_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(written, tmp_path / "out"))


def open_plainly(folder: Path, **more: object) -> Engine:
    return Engine.open(folder, EngineOptions(max_batch=1, keep_packed=False, **more))  # type: ignore[arg-type]


def spoil_weight(folder: Path) -> None:
    """Flips one bit of a code of a matrix that every token meets."""
    path = folder / "model.safetensors"
    packed = SafetensorsFile(path).array("model.layers.0.mlp.down_proj.weight_packed")
    whole = bytearray(path.read_bytes())
    at = whole.index(np.ascontiguousarray(packed).tobytes()) + 40
    whole[at] ^= 0x08
    path.write_bytes(whole)


def test_an_artifact_as_written_is_served_with_every_bit_the_same(artifact: Path) -> None:
    engine = open_plainly(artifact)
    stored = read_prompts(artifact)
    assert stored is not None and len(stored.prompts) == 3
    assert all(
        one.same_bits for one in compare(engine.program, stored, numerics_of(engine.settings))
    )


@pytest.mark.parametrize("isa", ["portable", None])
def test_another_instruction_set_gives_the_same_bits(
    isa: str | None, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isa is not None:
        monkeypatch.setenv("SLIPSTREAM_ISA", isa)
    engine = open_plainly(artifact)
    stored = read_prompts(artifact)
    assert stored is not None
    findings = compare(engine.program, stored, numerics_of(engine.settings))
    assert all(one.same_bits and one.allowed == 0 for one in findings)


def test_a_changed_weight_is_refused_unless_that_is_wanted(artifact: Path) -> None:
    spoil_weight(artifact)
    with pytest.raises(ArtifactError, match="stored prompts"):
        open_plainly(artifact)
    open_plainly(artifact, verify=False)


def test_other_options_must_stay_within_the_stated_tolerance(artifact: Path) -> None:
    engine = open_plainly(artifact, activations="f32", kv_dtype="float32")
    stored = read_prompts(artifact)
    assert stored is not None
    findings = compare(engine.program, stored, numerics_of(engine.settings))
    assert all(one.passed and not one.same_bits and one.allowed > 0 for one in findings)
    strict = replace(stored, tolerance=0.0)
    assert not any(f.passed for f in compare(engine.program, strict, numerics_of(engine.settings)))


def test_changed_prompts_are_refused_before_they_are_run(artifact: Path) -> None:
    path = artifact / PROMPTS
    path.write_text(path.read_text().replace('"tolerance": ', '"tolerance": 9'))
    with pytest.raises(ArtifactError, match="not what was written"):
        open_plainly(artifact)


def test_a_changed_manifest_is_refused(artifact: Path) -> None:
    path = artifact / MANIFEST
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data))  # laid out otherwise, the same content
    read_manifest(artifact)
    path.write_text(json.dumps({**data, "recipe": {"bits": 8}}))
    with pytest.raises(ArtifactError, match="changed after it was written"):
        open_plainly(artifact)


def test_an_artifact_from_before_stored_prompts_is_served(artifact: Path) -> None:
    data = json.loads((artifact / MANIFEST).read_text())
    del data["files"][PROMPTS], data["seal"]
    (artifact / MANIFEST).write_text(json.dumps(data))
    open_plainly(artifact)


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": []},
        {"prompts": [{"ids": [1], "top_ids": [1], "top_logits": [], "sha256": ""}]},
        {"prompts": [{"ids": [-1], "top_ids": [1], "top_logits": [0.5], "sha256": ""}]},
        {"tolerance": float("nan")},
        {"tolerance": "wide"},
        {"numerics": {"kernels": 3}},
    ],
)
def test_prompts_that_make_no_sense_are_refused(change: dict, artifact: Path) -> None:
    data = json.loads((artifact / PROMPTS).read_text())
    with pytest.raises(ArtifactError, match="damaged"):
        parse_prompts(json.dumps({**data, **change}).encode())


def test_prompts_of_another_model_are_refused(artifact: Path) -> None:
    engine = open_plainly(artifact)
    stored = read_prompts(artifact)
    assert stored is not None
    foreign = replace(stored.prompts[0], ids=(1, 96))
    with pytest.raises(ArtifactError, match="not of this model"):
        compare(engine.program, replace(stored, prompts=(foreign,)), numerics_of(engine.settings))


def test_verify_says_what_is_right_and_what_is_wrong(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb.command(str(artifact), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["right"] and {row["checked"] for row in found["checks"]} >= {
        MANIFEST, "model.safetensors", PROMPTS, "prompt 1", "prompt 3",
    }  # fmt: skip
    path = artifact / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ArtifactError, match="not what was written"):
        verb.command(str(artifact))
    assert "WRONG" in capsys.readouterr().out


def test_verify_tells_prompts_that_differ_where_all_hashes_agree(
    artifact: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = read_prompts(artifact)
    assert stored is not None
    wrong = replace(stored.prompts[0], sha256="0" * 64, top_logits=(99.0,) * 8)
    monkeypatch.setattr(verb, "read_prompts", lambda _: replace(stored, prompts=(wrong,)))
    with pytest.raises(ArtifactError):
        verb.command(str(artifact))
    assert "every bit has to agree" in " ".join(capsys.readouterr().out.split())
