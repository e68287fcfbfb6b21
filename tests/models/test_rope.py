"""Rotary frequencies against transformers' own, in both spellings of a config."""

import numpy as np
import pytest

from slipstream.models.config import Config, Sizes
from slipstream.models.rope import apply_factors, read_rope

SIZES = Sizes(2, 256, 64, 4, 4, 64, 97, 8192)
SCHEMES = {
    "default": {},
    "linear": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 2048},
    "yarn-fine": {
        "factor": 16.0,
        "original_max_position_embeddings": 512,
        "beta_fast": 16,
        "beta_slow": 2,
        "truncate": False,
        "mscale": 0.7,
        "mscale_all_dim": 1.3,
    },
    "longrope": {
        "short_factor": [1.0 + i / 32 for i in range(32)],
        "long_factor": [1.0 + i for i in range(32)],
        "original_max_position_embeddings": 2048,
        "factor": 4.0,
    },
}


def truth_of(parameters, length=None):
    transformers = pytest.importorskip("transformers")
    schemes = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS
    config = transformers.LlamaConfig(
        hidden_size=256,
        num_attention_heads=4,
        max_position_embeddings=8192,
        rope_parameters=dict(parameters),
    )
    frequencies, factor = schemes[parameters["rope_type"]](config, "cpu", length)
    return frequencies.numpy(), factor


@pytest.mark.parametrize("name", [name for name in SCHEMES if name != "default"])
def test_frequencies_are_those_of_transformers(name):
    parameters = {"rope_type": name.partition("-")[0], "rope_theta": 5000.0, **SCHEMES[name]}
    frequencies, factor = truth_of(parameters)
    rope = read_rope(Config({"rope_parameters": parameters}), SIZES)
    np.testing.assert_allclose(rope.frequencies, frequencies, rtol=2e-6)
    assert rope.attention_factor == pytest.approx(factor)


def test_the_long_factors_are_a_choice():
    parameters = {"rope_type": "longrope", "rope_theta": 5000.0, **SCHEMES["longrope"]}
    short = read_rope(Config({"rope_parameters": parameters}), SIZES)
    long = read_rope(Config({"rope_parameters": parameters, "slipstream_rope_long": True}), SIZES)
    np.testing.assert_allclose(long.frequencies, truth_of(parameters, 8000)[0], rtol=2e-6)
    assert (short.context, long.context) == (2048, 8192)


@pytest.mark.parametrize("name", SCHEMES)
def test_the_older_spelling_means_the_same(name):
    kind = name.partition("-")[0]
    new = Config({"rope_parameters": {"rope_type": kind, "rope_theta": 777.0, **SCHEMES[name]}})
    for spelling in ("rope_type", "type"):
        old = Config({"rope_theta": 777.0, "rope_scaling": {spelling: kind, **SCHEMES[name]}})
        assert read_rope(old, SIZES) == read_rope(new, SIZES)


def test_first_phi3_files_call_longrope_su_or_yarn():
    su, yarn, plain = (
        read_rope(Config({"rope_scaling": {"type": kind, **SCHEMES["longrope"]}}), SIZES)
        for kind in ("su", "yarn", "longrope")
    )
    assert su == yarn == plain


def test_defaults_turn_the_whole_head():
    rope = read_rope(Config({}), SIZES)
    np.testing.assert_allclose(rope.frequencies, 10_000.0 ** -(np.arange(32) / 32), rtol=1e-7)
    assert (rope.attention_factor, rope.context) == (1.0, 8192)
    assert len(read_rope(Config({"partial_rotary_factor": 0.5}), SIZES).frequencies) == 16


def test_kinds_of_layers_may_have_their_own_parameters():
    config = Config(
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        }
    )
    full = read_rope(config, SIZES, kind="full_attention")
    local = read_rope(config, SIZES, kind="sliding_attention")
    assert full.frequencies[0] == 0.5
    assert local.frequencies == read_rope(Config({}), SIZES).frequencies


def test_factors_of_a_gguf_file_divide_the_frequencies():
    factors = [1.0] * 16 + [8.0] * 16
    config = Config({"slipstream_rope_factors": factors})
    plain = read_rope(config, SIZES)
    scaled = apply_factors(plain, config)
    np.testing.assert_allclose(np.array(plain.frequencies) / factors, scaled.frequencies, rtol=1e-7)
