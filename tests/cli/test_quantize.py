"""`quantize` with recipes, previews and texts of several kinds, on a tiny model and real kernels."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import save_file

from slipstream.backends.native import native_module
from slipstream.checkpoint.artifact import verify
from slipstream.cli import generate as generate_verb
from slipstream.cli import prune as prune_verb
from slipstream.cli import quantize as verb
from slipstream.cli.compress_order import parse_memory, read_recipe
from slipstream.compress.calibration_text import read_documents
from slipstream.errors import LimitsNotMetError, MachineError, SourceError, UnsupportedError
from slipstream.formats.tensor import AffineTensor
from slipstream.models.chat import ChatTemplate
from slipstream.models.load import load
from slipstream.models.registry import blueprint_of
from slipstream.optimize import budget

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


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "tiny"
    folder.mkdir()
    random = np.random.default_rng(3)
    tensors = {
        n: (random.normal(size=s) * 0.25 + (len(s) == 1)).astype(np.float32)
        for n, s in blueprint_of(CONFIG).shapes.items()
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
    return str(folder)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    ids = np.random.default_rng(4).integers(3, 96, 3000)
    path.write_text("\n".join(" ".join(f"w{i}" for i in line) for line in ids.reshape(-1, 20)))
    return path


RECIPE = """
activations = "f32"
[calibration]
tokens = 512
length = 64
[[pass]]
method = "smoothquant"
[[pass]]
method = "rtn"
select = "*.down_proj.weight"
bits = 8
group = "row"
[[pass]]
method = "gptq"
bits = 3
group = 32
"""


def test_a_recipe_of_passes_becomes_an_artifact_with_its_proof(
    model: str, words: Path, tmp_path: Path, capsys
) -> None:
    recipe, out = tmp_path / "recipe.toml", tmp_path / "out"
    recipe.write_text(RECIPE)
    verb.command(model, out=out, recipe=recipe, text=words, tokens=256, as_json=True)
    told = json.loads(capsys.readouterr().out)
    manifest = verify(out)
    assert [entry["method"] for entry in manifest["recipe"]["pass"]] == [
        "smoothquant",
        "rtn",
        "gptq",
    ]
    assert manifest["evaluation"]["distance"]["kl"]["value"] > 0
    assert told["artifact"] == str(out) and told["rows"][-1]["decode"]["value"] > 0
    loaded = load(out)
    down = loaded.weights["model.layers.0.mlp.down_proj.weight"]
    up = loaded.weights["model.layers.0.mlp.up_proj.weight"]
    assert isinstance(down, AffineTensor) and down.format.bits == 8
    assert isinstance(up, AffineTensor) and up.format.bits == 3
    assert not list((tmp_path / "cache" / "compress").glob("*"))  # nothing is left behind


def test_a_preview_prints_every_layer_and_writes_nothing(
    model: str, tmp_path: Path, capsys
) -> None:
    verb.command(model, out=tmp_path / "out", bits=4, group="32", dry_run=True, as_json=True)
    found = json.loads(capsys.readouterr().out)
    rows = {row["weight"]: row for row in found["rows"]}
    assert len(rows) == 15
    assert rows["model.layers.0.mlp.up_proj.weight"]["after"] == "128×64 int4 g32"
    assert rows["model.embed_tokens.weight"]["after"] == "96×64 int8 row"
    assert found["bytes_after"] < 0.2 * found["bytes_before"]
    assert found["speed_after"] > found["speed_before"] and found["memory_bytes"] > 0
    assert not (tmp_path / "out").exists()
    verb.command(model, bits=4, dry_run=True)
    shown = capsys.readouterr().out
    assert "Predicted decode" in shown and "not measured" in shown


def test_a_broken_limit_writes_nothing_unless_forced(
    model: str, words: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(LimitsNotMetError, match="--force"):
        verb.command(model, out=out, method="rtn", limit=["kl<1e-9"], text=words, tokens=256)
    assert not out.exists()
    verb.command(
        model, out=out, method="rtn", limit=["kl<1e-9"], text=words, tokens=256, force=True
    )
    assert verify(out)["within_limits"] is False


def test_a_pruned_model_is_smaller_and_answers(
    model: str, words: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    prune_verb.command(
        model, out=out, blocks=1, heads=0.5, neurons=0.25, width=0.5, scope="model", bits=8,
        text=words, tokens=256, as_json=True,
    )  # fmt: skip
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[-1]["size_bytes"] < 0.8 * rows[0]["size_bytes"]
    assert [entry["method"] for entry in verify(out)["recipe"]["pass"]] == [
        "drop_blocks", "drop_heads", "drop_neurons", "drop_width", "rtn", "gptq",
    ]  # fmt: skip
    pruned = load(out)
    assert len(pruned.graph.attentions) == 1 and pruned.graph.width == 32
    generate_verb.command(str(out), prompt="w5 w6", max_tokens=4)
    assert capsys.readouterr().out.strip()


def test_nothing_to_prune_is_refused(model: str) -> None:
    with pytest.raises(UnsupportedError, match="nothing is to be pruned"):
        prune_verb.command(model)
    with pytest.raises(UnsupportedError, match="--method"):
        prune_verb.command(model, sparsity=0.5, method="guess")
    with pytest.raises(UnsupportedError, match="pattern is one of"):
        prune_verb.command(model, sparsity=0.5, pattern="3:4")


def test_too_little_memory_is_refused(model: str, words: Path, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="--memory"):
        verb.command(model, out=tmp_path / "out", text=words, tokens=256, memory="1KB")


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 * 10**9), ("1.5 MiB", 3 << 19), ("77", 77), (None, None)]
)
def test_sizes_are_read(text: str | None, size: int | None) -> None:
    assert parse_memory(text) == size


def test_what_is_no_size_or_recipe_is_refused(tmp_path: Path, model: str) -> None:
    with pytest.raises(UnsupportedError, match="--memory"):
        parse_memory("much")
    with pytest.raises(SourceError, match="cannot be read"):
        verb.command(model, recipe=tmp_path / "absent.toml")


def test_a_recipes_text_lies_beside_it(model: str, words: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[calibration]\ntext="words.txt"\n[[pass]]\nmethod="gptq"\n')
    assert read_recipe(recipe).calibration.text == str(words)
    recipe.write_bytes(b"\xff")
    with pytest.raises(UnsupportedError, match="UTF-8"):
        read_recipe(recipe)


def test_documents_of_every_kind_are_read(tmp_path: Path) -> None:
    template = ChatTemplate("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    path = tmp_path / "docs.jsonl"
    lines = [
        {"text": "one"},
        {"messages": [{"role": "user", "content": "two"}, {"role": "assistant", "content": "3"}]},
        {"conversations": [{"from": "human", "value": "four"}, {"from": "gpt", "value": "5"}]},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    wanted = "one\n\n<user>two<assistant>3\n\n<user>four<assistant>5"
    assert read_documents(path, template) == wanted
    for content, message in (
        ("{", "line 1 is not JSON"), ("[]", "no object"), ('{"body": "x"}', "known keys"),
        ('{"messages": []}', "no list of objects"),
    ):  # fmt: skip
        path.write_text(content)
        with pytest.raises(UnsupportedError, match=message):
            read_documents(path, template)
    path.write_text(json.dumps(lines[1]))
    with pytest.raises(UnsupportedError, match="no chat template"):
        read_documents(path, None)
