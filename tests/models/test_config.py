"""Configs are strangers' files: each page refuses nonsense with a typed error, and quickly."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.errors import FileFormatError, SlipstreamError, UnsupportedError
from slipstream.models.config import Config
from slipstream.models.registry import PAGES, blueprint_of, graph_of

PLAIN = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 97,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "sliding_window": 16,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 32,
        "beta_slow": 1,
        "short_factor": [1.0, 1.0, 1.0, 1.0],
        "long_factor": [1.0, 2.0, 3.0, 4.0],
    },
    "layer_types": ["sliding_attention", "full_attention"],
    "no_rope_layers": [1, 0],
    "query_pre_attn_scalar": 20,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "hidden_act": "silu",
    "slipstream_norm_offset": 0.0,
    "slipstream_rope_factors": [1.0, 1.0, 1.0, 1.0],
    "partial_rotary_factor": 1.0,
    "text_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    "n_embd": 32,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 64,
    "n_inner": 40,
    "activation_function": "gelu_new",
}
NONSENSE = [0, -1, 3, 2**31, 10**400, 1e300, float("nan"), float("inf"), 1e-300, 0.5, True, False]
NONSENSE += ["", "8", "dynamic", None, [], [0], [1] * 5, [None, "x"], {}, {"rope_type": []}, b"x"]


def config_of(kind, **changes):
    return {**copy.deepcopy(PLAIN), "model_type": kind, **changes}


@pytest.mark.parametrize("kind", sorted(PAGES))
def test_every_page_accepts_a_plain_config(kind):
    graph = graph_of(config_of(kind))
    graph.check()
    assert len(graph.attentions) == 2


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_nonsense_is_refused_with_a_typed_error_or_described(data):
    config = config_of(data.draw(st.sampled_from(sorted(PAGES))))
    for _ in range(data.draw(st.integers(1, 3))):
        section = config
        if data.draw(st.booleans()):
            section = config.get("rope_scaling")
        if not isinstance(section, dict):
            continue
        name = data.draw(st.sampled_from(sorted(section) or ["rope_type"]))
        if data.draw(st.booleans()):
            section.pop(name, None)
        else:
            schemes = ["default", "linear", "llama3", "yarn", "longrope"]
            section[name] = data.draw(st.sampled_from([*NONSENSE, *schemes]))
    try:
        graph_of(config).check()
    except SlipstreamError as error:
        assert len(str(error)) < 400


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads must be an integer of 1"),
        ({"hidden_size": -4}, "hidden_size must be"),
        ({"hidden_size": 2**40}, "hidden_size must be"),
        ({"hidden_size": "32"}, "hidden_size must be .* not '32'"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3 key heads"),
        ({"head_dim": None, "hidden_size": 30}, "not divisible by 4 heads"),
        ({"head_dim": 7}, "rotary dimensions must be even"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a number"),
        ({"attention_bias": "no"}, "attention_bias must be true or false"),
        ({"rope_scaling": [1]}, "rope_scaling must be an object"),
        ({"slipstream_rope_factors": [1.0]}, "a list of 4 entries"),
    ],
    ids=str,
)
def test_damaged_fields_are_named(changes, message):
    with pytest.raises(FileFormatError, match=message):
        graph_of(config_of("llama", **changes))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("mamba", {}, "'mamba' is not supported; supported are gemma2, gemma3"),
        (None, {}, "None is not supported"),
        (["llama"], {}, "not supported"),
        (
            "llama",
            {"hidden_act": "mish"},
            "hidden_act = 'mish' is not supported; supported are silu",
        ),
        (
            "llama",
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "'dynamic' is not supported",
        ),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("qwen2", {"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
    ],
    ids=str,
)
def test_what_is_not_served_is_named(kind, changes, message):
    with pytest.raises(UnsupportedError, match=message):
        graph_of(config_of(kind, **changes))


def test_a_config_that_is_no_object_is_refused():
    with pytest.raises(FileFormatError):
        blueprint_of([1, 2])  # type: ignore[arg-type]


def test_whole_floats_pass_for_integers():
    assert Config({"hidden_size": 32.0}).integer("hidden_size") == 32


def test_norm_offset_hint_replaces_the_ones_that_gemma_adds():
    def offsets(**changes):
        nodes = graph_of(config_of("gemma2", **changes)).nodes
        return {node.op.weight_offset for node in nodes if node.name.endswith("norm")}

    assert offsets(slipstream_norm_offset=None) == {1.0}
    assert offsets(slipstream_norm_offset=0.0) == {0.0}


def test_gemma_rounds_its_embedding_scale_as_it_was_trained():
    def scale(**changes):
        return graph_of(config_of("gemma2", hidden_size=3072, **changes)).nodes[0].op.scale

    assert scale() == pytest.approx(55.4256, abs=1e-4)
    assert scale(dtype="bfloat16") == scale(torch_dtype="bfloat16") == 55.5


def test_multimodal_gemma_reads_its_text_config_with_the_family_defaults():
    graph = graph_of(config_of("gemma3"))
    assert graph.vocabulary == 262_208
    assert graph.attentions[0].heads == 8
    assert graph.attentions[0].head_dim == 256


def test_nodes_have_readable_names():
    graph = graph_of(config_of("llama"))
    for name in ("embed", "layers.0.attention.query", "layers.1.mlp.down", "norm", "head"):
        assert graph.node(name)
    assert graph.nodes[-1].name == "head"
    assert graph.nodes[-2].name == "select"
