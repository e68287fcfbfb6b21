"""Rounding that is trained: gradients by LSQ's formulas, and what is stored is what was trained."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from slipstream.compress.corpus import pack  # noqa: E402
from slipstream.compress.passes.grid import fit_grid  # noqa: E402
from slipstream.compress.passes.qat import Qat  # noqa: E402
from slipstream.compress.passes.quantizers import Rtn  # noqa: E402
from slipstream.compress.training.fake_quant import Rounded, fake_quantize, grid_of  # noqa: E402
from slipstream.compress.training.parameters import Full  # noqa: E402
from slipstream.compress.work import Drive, Edition  # noqa: E402
from slipstream.errors import UnsupportedError  # noqa: E402
from slipstream.formats.tensor import Affine, AffineTensor  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
import tiny_llama  # noqa: E402
from test_training import Heard, corpus  # noqa: E402

NAME = "model.layers.1.mlp.down_proj.weight"
QUICK = Qat(bits=2, group=32, tokens=512, batch=128, rate=2e-3)


def drive(folder: Path, **more) -> Drive:
    return tiny_llama.drive(
        folder, **{"corpus": corpus(40, 128), "original": tiny_llama.edition(), **more}
    )


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("zero", ["symmetric", "zero_point"])
def test_gradients_are_those_of_lsq(bits, zero) -> None:
    format = Affine(bits, 16, zero)
    values = np.random.default_rng(bits).normal(size=(3, 32)).astype(np.float32) * 3
    grid = fit_grid(values / 2, format)  # so that some values are clipped
    w = torch.from_numpy(values).requires_grad_()
    s = torch.from_numpy(grid.scale.astype(np.float32)).requires_grad_()
    z = torch.from_numpy(np.array(grid.zero))
    turn = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 32)).astype(np.float32))
    (fake_quantize(w, s, z, format) * turn).sum().backward()
    u = values.reshape(3, 2, 16) / grid.scale.astype(np.float32)[..., None] + grid.zero[..., None]
    low, high = format.code_range
    inside = (u >= low) & (u <= high)
    assert inside.any() and not inside.all()
    wanted_w = np.where(inside, turn.numpy().reshape(u.shape), 0)
    assert np.allclose(w.grad.numpy().reshape(u.shape), wanted_w, atol=1e-5)
    per_code = np.where(inside, np.rint(u) - u, np.clip(u, low, high) - grid.zero[..., None])
    wanted_s = (per_code * turn.numpy().reshape(u.shape)).sum(axis=-1)
    assert np.allclose(s.grad.numpy(), wanted_s, atol=1e-3)


@pytest.mark.parametrize(
    "format",
    [Affine(4, 32), Affine(3, None, "zero_point"), Affine(8, 32), Affine(2, 16, "zero_point")],
)
def test_what_the_loss_saw_is_what_is_stored_to_the_last_bit(format) -> None:
    edition = tiny_llama.edition()
    grid = fit_grid(edition.weights[NAME].dequantize(), format)
    rounded = Rounded(Full(edition.weights, [NAME], None), {NAME: grid}, learned=True, device=None)
    first = rounded.tensors()[NAME]
    assert np.array_equal(first.dequantize(), Rtn(bits=format.bits, group=format.group, zero=format.zero)
                          .round(edition.weights[NAME].dequantize(), None, format).dequantize())  # fmt: skip
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in rounded.trained().values():
            value.add_(torch.randn(value.shape, generator=random) * 0.05)
        seen = rounded.values([NAME])[NAME].numpy()
    stored = rounded.tensors()[NAME]
    assert isinstance(stored, AffineTensor) and stored.format == format
    assert np.array_equal(stored.dequantize(), seen)
    assert not np.array_equal(stored.codes, first.codes)
    again = grid_of(stored)
    assert (
        np.array_equal(again.scale, stored.scales)
        and np.array_equal(again.tensor(np.zeros(stored.shape)).offsets, stored.offsets)
        if stored.offsets is not None
        else True
    )


@pytest.mark.parametrize("changes", [{}, {"train": "lora", "rank": 4}, {"train": "steps"}, {"steps": "fixed"}],
                         ids=["full", "lora", "steps", "fixed"])  # fmt: skip
def test_rounded_models_come_nearer_to_their_original(tmp_path: Path, changes) -> None:
    heard = Heard()
    options = replace(
        QUICK,
        tokens=1280,
        held_out=2,
        rate=1e-2 if changes.get("train") == "steps" else 2e-3,
        **changes,
    )
    after = options.run(tiny_llama.edition(), drive(tmp_path, watcher=heard))
    words = heard.lines[0].split()
    assert float(words[4]) < float(words[2])
    stored = after.weights[NAME]
    assert (
        isinstance(stored, AffineTensor)
        and stored.format == Affine(2, 32)
        and NAME in after.rounded
    )
    outline = options.outline(tiny_llama.edition())
    assert all(
        outline.weights[n].size_bytes == after.weights[n].size_bytes
        for n in after.graph.weight_names()
    )
    same = np.array_equal(
        after.weights["model.norm.weight"].dequantize(),
        tiny_llama.edition().weights["model.norm.weight"].dequantize(),
    )
    assert same == (changes.get("train") in ("lora", "steps"))


def test_grids_of_an_earlier_pass_are_kept_and_what_it_rounded_elsewhere_stays(
    tmp_path: Path,
) -> None:
    start = Rtn(select=("embedding", NAME), bits=4, group=16).run(
        tiny_llama.edition(), drive(tmp_path / "rtn")
    )
    after = replace(QUICK, bits=3).run(start, drive(tmp_path / "qat"))
    assert after.weights[NAME].format == Affine(4, 16)
    assert after.weights["model.layers.0.mlp.up_proj.weight"].format == Affine(3, 32)
    embedding = "model.embed_tokens.weight"
    assert after.weights[embedding].format == Affine(4, 16)
    assert np.array_equal(after.weights[embedding].codes, start.weights[embedding].codes)


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    edition = tiny_llama.edition()
    for changes in ({"train": "steps", "steps": "fixed"}, {"zero": "minimum"}, {"soft": 0.0}):
        with pytest.raises(UnsupportedError):
            replace(QUICK, **changes).outline(edition)
    with pytest.raises(UnsupportedError, match="no matrix is selected"):
        replace(QUICK, select=("nothing",)).run(edition, drive(tmp_path))


def test_a_matrix_that_no_group_fits_is_named(tmp_path: Path) -> None:
    edition = tiny_llama.edition(intermediate_size=88)
    options = replace(QUICK, tokens=128)
    after = options.run(edition, drive(tmp_path, original=edition))
    named = [note.weight for note in after.notes]
    assert named == [f"model.layers.{i}.mlp.down_proj.weight" for i in range(3)]
    assert not isinstance(after.weights[named[0]], AffineTensor)


@pytest.mark.slow
def test_on_a_real_model_training_beats_rounding_to_nearest(
    tmp_path: Path, shared_data: Path
) -> None:
    from slipstream.evaluate.divergence import kl_divergence
    from slipstream.evaluate.perplexity import log_softmax
    from slipstream.models.load import load

    model = load(shared_data / "models" / "stories260K" / "stories260K.gguf")
    text = (shared_data / "text" / "tinystories.lower.first-half.txt").read_text()
    ids = np.array(model.tokenizer.encode(text[:90_000], special=False), np.int32)
    train, test = pack([ids[:10240]], 128), pack([ids[-2048:]], 128)
    original = Edition(model.checkpoint.config, model.graph, model.weights)
    ways = {
        "rtn": Rtn(bits=3, group=32),
        "qat": Qat(bits=3, group=32, tokens=8192, batch=512, rate=1e-3),
    }

    def distance(edition: Edition) -> float:
        logs = [[], []]
        for kept, one in zip(logs, (original, edition), strict=True):
            program = tiny_llama.compile_plain(one.graph, one.weights)
            for portion in test.portions:
                batch = tiny_llama.single(portion.ids, all_logits=True)
                kept.append(log_softmax(np.array(program.step(batch, program.new_kv(2)))))
        return float(kl_divergence(*(np.concatenate(kept) for kept in logs)).mean())

    found = {
        name: distance(one.run(original, Drive(tiny_llama.compile_plain, None, tmp_path / name, corpus=train, original=original)))
        for name, one in ways.items()
    }  # fmt: skip
    assert found["qat"] < 0.8 * found["rtn"], found
