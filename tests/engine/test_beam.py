"""Beam search: transformers' beams, over pages that beams share; and what it refuses."""

import asyncio

import numpy as np
import pytest
from fakes import ByteTokenizer, FakeProgram, fake_engine

from slipstream.backends.reference import compile_reference
from slipstream.engine.beam import BeamSearch, search_on
from slipstream.engine.engine import Engine
from slipstream.engine.options import Settings
from slipstream.engine.prefix import WORTH_COPYING
from slipstream.engine.request import SamplingParams
from slipstream.engine.scheduler import Limits
from slipstream.engine.service import Service
from slipstream.errors import RequestError
from slipstream.formats.tensor import DenseTensor
from slipstream.models.registry import blueprint_of

END = 2


@pytest.fixture(scope="module")
def truth():
    """A tiny Llama of transformers whose likeliest tokens are close to each other."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        pad_token_id=0, bos_token_id=1, eos_token_id=END,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.25)
    return model


@pytest.fixture
def engine(truth):
    config = {**truth.config.to_dict(), "architectures": ["LlamaForCausalLM"]}
    blueprint = blueprint_of(config)
    state = truth.state_dict()
    weights = {name: DenseTensor(state[name].numpy()) for name in blueprint.shapes}
    settings = Settings("reference", Limits(8, 64), 256, (64,), "float32", "auto", None)
    tokenizer = ByteTokenizer(eos_ids=frozenset({END}), vocabulary_size=61)
    return Engine(compile_reference(blueprint.graph, weights), tokenizer, settings)


@pytest.mark.parametrize(("width", "length"), [(2, 12), (4, 20), (5, 7)])
def test_beams_are_those_of_transformers(truth, engine, width, length):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(width)
    for _ in range(4):
        prompt = rng.integers(3, 61, rng.integers(1, 70)).tolist()
        with torch.no_grad():
            expected = truth.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)),
                num_beams=width, num_return_sequences=2, max_new_tokens=length, do_sample=False,
                length_penalty=1.0, early_stopping=False, output_scores=True,
                return_dict_in_generate=True,
            )  # fmt: skip
        params = SamplingParams(beam_width=width, n=2, max_tokens=length, logprobs=True)
        got = engine.generate([prompt], params)
        for completion, ids, score in zip(
            got, expected.sequences, expected.sequences_scores, strict=True
        ):
            own = ids[len(prompt) :].tolist()
            own = own[: own.index(END) + 1] if END in own else own
            assert list(completion.ids) == own
            mean = sum(entry.logprob for entry in completion.logprobs) / len(own)
            assert mean == pytest.approx(float(score), abs=1e-4)
    engine.check()
    assert engine.idle and engine.snapshot().pages_used == 0


def test_beams_compute_only_what_is_new():
    """The rest is found: pages of its parent, the last one copied where it is worth it."""
    program = FakeProgram()
    engine = fake_engine(program)
    engine.generate([list(range(16)) * 7], SamplingParams(beam_width=3, max_tokens=30))
    assert program.rows[0] + program.rows[1] + program.rows[2] + program.rows[3] == 112
    assert max(program.rows[4:]) <= 3 * WORTH_COPYING and program.rows[4:].count(3) > 20


def test_beams_that_end_make_room_for_others():
    state = BeamSearch(2, max_tokens=9, stop_ids=frozenset({END}))
    state.grow([[(END, -0.1), (5, -1.0), (6, -2.0), (7, -9.0)]])
    assert [beam.ids for beam in state.finished] == [(END,)]
    assert [beam.ids for beam in state.running] == [(5,), (6,)] and not state.done
    state.grow([[(END, -0.1), (8, -3.0)], [(END, -0.1), (8, -3.0)]])
    assert [beam.ids for beam in state.finished] == [(END,), (5, END)]
    assert state.done  # -4 over two tokens is behind the worst finished


def test_what_shapes_draws_is_refused():
    engine = fake_engine()
    with pytest.raises(RequestError, match="does not take temperature, top_k"):
        engine.generate([[1]], SamplingParams(beam_width=2, temperature=1, top_k=3))
    with pytest.raises(RequestError, match="at most beam_width"):
        engine.generate([[1]], SamplingParams(beam_width=2, n=3))
    with pytest.raises(RequestError, match="streamed"):
        engine.stream([1], SamplingParams(beam_width=2))


def test_a_server_searches_beside_other_requests():
    params = SamplingParams(beam_width=3, n=3, max_tokens=12)
    expected = [c.ids for c in fake_engine().generate([[1, 2, 3]], params)]

    async def run():
        service = Service(fake_engine())
        service.start()
        engine = service.engine
        other = service.submit(engine.request([5], SamplingParams(max_tokens=50)))
        got = await search_on(service, engine.request([1, 2, 3], params))
        other.cancel()
        await service.stop()
        return [completion.ids for completion in got]

    assert asyncio.run(run()) == expected
