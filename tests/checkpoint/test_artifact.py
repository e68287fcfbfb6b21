"""An artifact is written whole or not at all, reads back the same, and notices every change."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipstream.checkpoint.artifact import is_artifact, read_manifest, verify, write_artifact
from slipstream.checkpoint.compressed_tensors import CompressedTensors
from slipstream.checkpoint.folder import FolderCheckpoint
from slipstream.checkpoint.safetensors import Shards
from slipstream.errors import ArtifactError, UnsupportedError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor, Tensor
from slipstream.graph.ops import Activations

UP = "model.layers.0.mlp.up_proj.weight"
CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}


class Words:
    """A tokenizer as far as an artifact cares."""

    bos_id = 1
    eos_ids = frozenset({2, 0})

    def save_json(self, path: Path) -> None:
        path.write_text("{}", encoding="utf-8")

    def config(self) -> dict[str, Any]:
        return {"eos_token": "</s>"}


def tensors() -> dict[str, Tensor]:
    random = np.random.default_rng(3)
    return {
        "model.embed_tokens.weight": quantize_affine(
            random.normal(size=(48, 32)).astype(np.float32), Affine(8, 32)
        ),
        UP: quantize_affine(random.normal(size=(64, 32)).astype(np.float32), Affine(4, 32)),
        "model.norm.weight": DenseTensor(np.ones(32, np.float32)),
    }


def write(folder: Path, weights: Mapping[str, Tensor] | None = None, **changes: Any) -> Path:
    arguments: dict[str, Any] = {
        "config": CONFIG,
        "tensors": tensors() if weights is None else weights,
        "tokenizer": Words(),
        "chat_template": "{{ messages }}",
        "manifest": {"recipe": {"bits": 4}, "measured": {"kl": np.float32(0.5)}, "schema": 99},
        "activations": {UP: Activations(8, 32)},
    }
    return write_artifact(folder, **{**arguments, **changes})


def test_an_artifact_holds_what_a_folder_needs_and_reads_back(tmp_path: Path) -> None:
    folder = write(tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "slipstream.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    checkpoint = FolderCheckpoint(folder)
    assert set(checkpoint.names()) == {*tensors()}
    for name, tensor in tensors().items():
        assert np.array_equal(checkpoint.tensor(name).dequantize(), tensor.dequantize())
    assert checkpoint.activations[UP] == Activations(8, 32)
    assert checkpoint.config["tie_word_embeddings"] is True
    assert checkpoint.config["eos_token_id"] == [0, 2]
    assert checkpoint.tokenizer.chat_template == "{{ messages }}"


def test_the_manifest_tells_what_was_done_and_the_hash_of_every_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "out")
    manifest = verify(folder)
    assert manifest == read_manifest(folder)
    assert manifest["schema"] == 1 and manifest["recipe"] == {"bits": 4}
    assert manifest["measured"] == {"kl": 0.5}
    names = {path.name for path in folder.iterdir()} - {"slipstream.json"}
    assert manifest["files"].keys() == names


def test_further_files_are_hashed_too_and_cannot_replace_others(tmp_path: Path) -> None:
    folder = write(tmp_path / "out", files={"report.html": "<p>proof</p>"})
    assert "report.html" in verify(folder)["files"]
    (folder / "report.html").write_text("<p>better</p>")
    with pytest.raises(ArtifactError, match=r"report\.html"):
        verify(folder)
    for name in ("config.json", "slipstream.json", "../x", "a/b"):
        with pytest.raises(ValueError, match="further file"):
            write(tmp_path / "other", files={name: ""})
    assert not (tmp_path / "other").exists()


def test_equal_models_make_equal_files(tmp_path: Path) -> None:
    first, second = verify(write(tmp_path / "a")), verify(write(tmp_path / "b"))
    assert first == second


def test_large_models_are_cut_into_shards(tmp_path: Path) -> None:
    folder = write(tmp_path / "out", shard_bytes=1200)
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert shards == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    verify(folder)
    config = json.loads((folder / "config.json").read_text())
    reader = CompressedTensors(config, Shards(folder))
    found = reader.tensor(UP)
    assert isinstance(found, AffineTensor) and np.array_equal(found.codes, tensors()[UP].codes)


def test_a_dense_model_has_no_quantization_config(tmp_path: Path) -> None:
    config = CONFIG | {"quantization_config": {"left": "over"}, "dtype": "bfloat16"}
    dense = {"model.norm.weight": DenseTensor(np.ones(4, np.float16))}
    folder = write(
        tmp_path / "out", dense, config=config, tokenizer=None, chat_template=None, activations={}
    )
    written = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in written and written["dtype"] == "bfloat16"
    assert FolderCheckpoint(folder).tensor("model.norm.weight").data.dtype == np.float16


class Breaking(Mapping[str, Tensor]):
    """Tensors that fail halfway."""

    def __getitem__(self, name: str) -> Tensor:
        if self.failing and name == "model.norm.weight":
            raise KeyboardInterrupt
        return tensors()[name]

    failing = False

    def __iter__(self) -> Iterator[str]:
        return iter(tensors())

    def __len__(self) -> int:
        return len(tensors())


def test_an_interrupted_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Breaking()
    broken.failing = True
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", broken)
    assert not list(tmp_path.iterdir())
    write(tmp_path / "out")
    before = verify(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", broken, overwrite=True)
    assert verify(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_rename_puts_the_old_artifact_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "out")
    before = verify(tmp_path / "out")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise OSError("disk gone")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(OSError, match="disk gone"):
            write(tmp_path / "out", overwrite=True, manifest={})
    assert verify(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_is_overwritten_unless_asked_and_only_artifacts(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    write(folder)  # an empty folder is no loss
    with pytest.raises(ArtifactError, match="exists already"):
        write(folder)
    write(folder, overwrite=True, manifest={"second": True})
    assert read_manifest(folder)["second"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="no artifact"):
        write(mine, overwrite=True)
    assert (mine / "thesis.txt").exists() and not is_artifact(mine)


def test_a_format_that_cannot_be_held_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    minimum = quantize_affine(np.ones((16, 32), np.float32), Affine(4, 32, "minimum"))
    with pytest.raises(UnsupportedError, match="round it again"):
        write(tmp_path / "out", {UP: minimum})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"]
)
@pytest.mark.parametrize("change", ["flip", "cut", "remove"])
def test_verify_names_the_file_that_differs(name: str, change: str, tmp_path: Path) -> None:
    path = write(tmp_path / "out") / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if change == "remove":
        path.unlink()
    else:
        path.write_bytes(data if change == "flip" else data[:-1])
    with pytest.raises(ArtifactError, match=name):
        verify(tmp_path / "out")


def test_verify_notices_weights_that_nobody_wrote(tmp_path: Path) -> None:
    folder = write(tmp_path / "out")
    (folder / "more.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"more\.safetensors"):
        verify(folder)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", '{"schema": "1"}', '{"schema": 0}', '{"schema": true}', '{"schema": 2}',
        '{"schema": 1}', '{"schema": 1, "files": []}', '{"schema": 1, "files": {"x": 3}}',
        '{"schema": 1, "files": {"../../etc/passwd": {"size": 1, "sha256": "0"}}}',
        '{"schema": 1, "files": {"/etc/passwd": {"size": 1, "sha256": "0"}}}',
        '{"schema": 1, "files": {"..": {"size": 1, "sha256": "0"}}}',
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "slipstream.json").write_text(text)
    with pytest.raises(ArtifactError):
        verify(tmp_path)


def test_a_folder_without_a_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not an artifact"):
        read_manifest(tmp_path)
