"""Recipes as people write them: read strictly, refused in words."""

import pytest

from slipstream.compress.chain import parse_chain, read_chain
from slipstream.compress.passes.quantizers import Gptq, Rtn
from slipstream.errors import UnsupportedError
from slipstream.graph.ops import Activations

TEXT = """
activations = "int8 row"
[calibration]
tokens = 4096
[[pass]]
method = "rtn"
select = ["head", "embedding"]
bits = 8
group = "row"
[[pass]]
method = "gptq"
bits = 3
group = 128
zero = "zero_point"
damping = 1
"""


def test_a_recipe_is_read_in_order_with_every_option() -> None:
    chain = read_chain(TEXT)
    head, rest = chain.passes
    assert head == Rtn(select=("head", "embedding"), bits=8, group=None)
    assert rest == Gptq(bits=3, group=128, zero="zero_point", damping=1.0)
    assert chain.activations == Activations(8, None) and chain.calibration.tokens == 4096
    assert chain.calibrated and chain.label() == "rtn int8 row, gptq int3 g128"


def test_a_recipe_goes_through_plain_data() -> None:
    chain = read_chain(TEXT)
    assert parse_chain(chain.to_json()) == chain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no .*pass"),
        ("pass = 3", "no .*pass"),
        ("[[pas]]\nmethod='rtn'", "did you mean pass"),
        ("[[pass]]\nbits=4", "no method"),
        ("[[pass]]\nmethod='gtpq'", "did you mean gptq"),
        ("[[pass]]\nmethod='gptq'\nbit=4", "did you mean bits"),
        ("activations='int8 static'\n[[pass]]\nmethod='rtn'", "static activations"),
        ("[[pass]]\nmethod='gptq'\nbits=7", "one of 2, 3, 4, 5, 6, 8"),
        ("[[pass]]\nmethod='gptq'\nbits=true", "one of 2, 3, 4, 5, 6, 8"),
        ("[[pass]]\nmethod='gptq'\ngroup=1.5", "is a int"),
        ("[[pass]]\nmethod='gptq'\nact_order=1", "is a bool"),
        ("activations='fp8'\n[[pass]]\nmethod='rtn'", "activations is one of"),
        ("[calibration]\ntoken=3\n[[pass]]\nmethod='rtn'", "did you mean tokens"),
        ("[[pass]\n", "not TOML"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        read_chain(text)
