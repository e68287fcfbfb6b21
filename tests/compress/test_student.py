"""Students before they learn: evenly spread blocks, new models, and recipes of several rounds."""

import sys
from pathlib import Path

import numpy as np
import pytest

from slipstream.compress.chain import parse_chain, read_chain
from slipstream.compress.passes.distill import Distill
from slipstream.compress.passes.drop_blocks import DropBlocks
from slipstream.compress.passes.student import Student
from slipstream.errors import UnsupportedError

sys.path.insert(0, str(Path(__file__).parent))
import tiny_llama


@pytest.mark.parametrize(
    ("count", "every", "kept"), [(6, 2, [0, 2, 5]), (6, 3, [0, 5]), (7, 2, [0, 2, 4, 6])]
)
def test_blocks_are_spread_evenly_from_the_first_to_the_last(
    tmp_path: Path, count, every, kept
) -> None:
    edition = tiny_llama.edition(num_hidden_layers=count)
    student = Student(every=every).run(edition, tiny_llama.drive(tmp_path))
    name = "model.layers.{}.mlp.up_proj.weight"
    assert len(student.graph.attentions) == len(kept)
    for new, old in enumerate(kept):
        mine, theirs = (
            e.weights[name.format(i)].dequantize() for e, i in ((student, new), (edition, old))
        )
        assert np.array_equal(mine, theirs)


def test_a_new_student_has_another_shape_and_the_same_tokens(tmp_path: Path) -> None:
    edition = tiny_llama.edition()
    options = Student(
        config={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}, seed=7
    )
    student = options.run(edition, tiny_llama.drive(tmp_path))
    assert (student.graph.width, student.graph.vocabulary, len(student.graph.attentions)) == (
        32,
        80,
        2,
    )
    assert (student.weights["model.norm.weight"].dequantize() == 1).all()
    spread = student.weights["model.embed_tokens.weight"].dequantize().std()
    assert spread == pytest.approx(0.02, rel=0.1)
    assert np.isfinite(tiny_llama.logits(student)).all()
    again = options.run(edition, tiny_llama.drive(tmp_path / "again"))
    assert np.array_equal(tiny_llama.logits(again), tiny_llama.logits(student))
    assert options.outline(edition).weights["model.norm.weight"].shape == (32,)


def test_students_that_cannot_be_are_refused() -> None:
    edition = tiny_llama.edition()
    for options in (
        Student(),
        Student(every=2, config={"hidden_size": 32}),
        Student(config={"vocab_size": 9}),
    ):
        with pytest.raises(UnsupportedError):
            options.outline(edition)


ROUNDS = """
[training]
tokens = 4096
[[pass]]
repeat = 2
[[pass.pass]]
method = "drop_blocks"
[[pass.pass]]
method = "distill"
tokens = 1000
[[pass]]
method = "student"
config = {hidden_size = 32}
"""


def test_rounds_are_written_once_and_carried_out_in_turn() -> None:
    chain = read_chain(ROUNDS)
    round = (DropBlocks(), Distill(tokens=1000))
    assert chain.passes == (*round, *round, Student(config={"hidden_size": 32}))
    assert chain.trained and chain.training.tokens == 4096
    assert parse_chain(chain.to_json()) == chain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[pass]]\nrepeat = 0\n[[pass.pass]]\nmethod='rtn'", "from 1 to 100"),
        ("[[pass]]\nrepeat = true\n[[pass.pass]]\nmethod='rtn'", "from 1 to 100"),
        ("[[pass]]\nrepeat = 2", r"repeats no \[\[pass.pass"),
        ("[[pass]]\nrepeat = 2\nbits = 3", "no option 'bits'"),
        ("[[pass]]\nrepeat = 2\n[[pass.pass]]\nmethod='rnt'", r"pass 1\.1, round 1"),
        ("training = 3\n[[pass]]\nmethod='rtn'", "is a table"),
        ("[[pass]]\nmethod='student'\nconfig = 3", "config is a table"),
    ],
)
def test_rounds_that_are_wrong_are_refused(text: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        read_chain(text)
