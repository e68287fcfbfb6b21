"""The real model behind the real server, asked by the unmodified `openai` client."""

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
