"""`/v1/embeddings`, `/tokenize` and `/detokenize`."""

import numpy as np
import openai as library
import pytest
from live_server import live
from openai import OpenAI
from speakers import PLAIN, speaker

from slipstream.serve.app import make_app


@pytest.fixture(scope="module")
def served():
    """(an OpenAI client, the portions that the engine was asked for)."""
    engine = speaker("Hi", PLAIN, context=64, token_budget=32)
    portions = []

    def embed(prompts, pooling="mean"):
        portions.append([len(ids) for ids in prompts])
        scale = 2 if pooling == "mean" else -2
        return [np.array([len(ids), 0, 4], np.float32) * scale for ids in prompts]

    engine.embed = embed
    with (
        live(make_app(engine, name="fake")) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client, portions


def vectors(client, **asked):
    reply = client.embeddings.create(model="fake", **asked)
    return [item.embedding for item in reply.data], reply


def test_vectors_have_length_one_and_keep_their_order(served):
    found, reply = vectors(served[0], input=["abc", "a" * 8])
    np.testing.assert_allclose(found, [[0.6, 0, 0.8], [8 / 80**0.5, 0, 4 / 80**0.5]], rtol=1e-6)
    assert [item.index for item in reply.data] == [0, 1] and reply.usage.prompt_tokens == 11


def test_floats_and_base64_say_the_same(served):
    floats, _ = vectors(served[0], input="abc", encoding_format="float")
    raw = served[0].post(
        "/embeddings",
        body={"model": "fake", "input": "abc", "encoding_format": "base64"},
        cast_to=object,
    )
    import base64

    decoded = np.frombuffer(base64.b64decode(raw["data"][0]["embedding"]), "<f4")
    np.testing.assert_array_equal(decoded, np.array(floats[0], np.float32))


def test_token_ids_pooling_and_dimensions(served):
    found, _ = vectors(served[0], input=[[1, 2, 3]], extra_body={"pooling": "last"})
    np.testing.assert_allclose(found[0], [-0.6, 0, -0.8], rtol=1e-6)
    found, _ = vectors(served[0], input=[5, 6, 7], dimensions=2)
    np.testing.assert_allclose(found, [[1, 0]])


def test_long_lists_are_computed_in_portions(served):
    client, portions = served
    portions.clear()
    vectors(client, input=["a" * 20, "b" * 12, "c" * 40, "d"])
    assert portions == [[20, 12], [40], [1]]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"input": ""}, "no tokens"),
        ({"input": []}, "input"),
        ({"input": "x" * 65}, "input 0 has 65 tokens, of at most 64"),
        ({"input": "x", "dimensions": 4}, "have 3, not 4"),
        ({"input": [300]}, "0…257"),
    ],
)
def test_inputs_that_cannot_be_embedded_are_refused(served, asked, words):
    with pytest.raises(library.BadRequestError, match=words):
        vectors(served[0], encoding_format="float", **asked)


def test_text_to_tokens_and_back(served):
    client, _ = served
    post = lambda path, body: client._client.post(  # noqa: E731
        f"{str(client.base_url).removesuffix('/v1/')}{path}", json=body
    )
    found = post("/tokenize", {"prompt": "Hé", "return_token_strs": True}).json()
    assert found["tokens"] == list("Hé".encode()) and found["count"] == 3
    assert found["max_model_len"] == 64 and len(found["token_strs"]) == 3
    assert post("/detokenize", {"tokens": found["tokens"]}).json() == {"prompt": "Hé"}
    turns = [{"role": "user", "content": "Hi"}]
    chat = post("/tokenize", {"model": "fake", "messages": turns}).json()
    assert bytes(chat["tokens"]) == b"<user>Hi\n\x01"
    for path, body in (
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "x", "messages": turns}),
        ("/detokenize", {"tokens": [999]}),
    ):
        assert post(path, body).status_code == 400
