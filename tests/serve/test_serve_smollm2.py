"""The real model behind the real server, asked by the unmodified `openai` client."""

import json

import numpy as np
import pytest
from live_server import live
from openai import OpenAI

from slipstream.engine.engine import Engine
from slipstream.engine.options import EngineOptions
from slipstream.engine.request import SamplingParams
from slipstream.serve.app import make_app

pytestmark = pytest.mark.slow

TURNS = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


@pytest.fixture(scope="module")
def engine(smollm2_path):
    return Engine.open(smollm2_path, EngineOptions(max_batch=8, context=1024))


def test_chats_streamed_and_whole_are_the_engine_s_own(engine):
    expected = engine.chat(TURNS, SamplingParams(max_tokens=32))
    asked = {"model": "smollm2", "messages": TURNS, "max_tokens": 32, "temperature": 0}
    with live(make_app(engine, name="smollm2")) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        whole = client.chat.completions.create(**asked)
        chunks = list(client.chat.completions.create(**asked, stream=True))
    assert whole.choices[0].message.content == expected.text
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == expected.text
    assert whole.usage.prompt_tokens == len(expected.prompt_ids)
    assert engine.idle
    engine.check()


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


def test_a_call_is_made_embeddings_are_near_and_a_conversation_goes_on(engine):
    turns = [{"role": "user", "content": "What is the weather in Oslo?"}]
    asked = {"model": "smollm2", "messages": turns, "max_tokens": 80, "temperature": 0}
    texts = ["a cat on a mat", "a kitten on a rug", "the stock market crashed"]
    with live(make_app(engine, name="smollm2")) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        reply = client.chat.completions.create(
            **asked, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False
        )
        vectors = [
            np.array(one.embedding)
            for one in client.embeddings.create(model="smollm2", input=texts).data
        ]
        first = client.responses.create(model="smollm2", input="Hi!", max_output_tokens=8)
        second = client.responses.create(
            model="smollm2", input="Go on.", previous_response_id=first.id, max_output_tokens=8
        )
    (call,) = reply.choices[0].message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "get_weather" and "Oslo" in arguments["city"]
    assert arguments["unit"] in ("C", "F") and set(arguments) == {"city", "unit"}
    assert vectors[0] @ vectors[1] > max(vectors[0] @ vectors[2], vectors[1] @ vectors[2])
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
    engine.check()
