"""Ollama's API with the unmodified `ollama` client."""

from contextlib import contextmanager

import httpx
import ollama
import pytest
from live_server import live
from speakers import HERMES, MISTRAL, PLAIN, QWEN3, speaker

from slipstream.serve.app import make_app

TURNS = [{"role": "user", "content": "Rain?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


@contextmanager
def client_of(script, template=HERMES, **more):
    with live(make_app(speaker(script, template, **more), name="fake")) as url:
        yield ollama.Client(host=url)


def test_a_chat_is_answered_and_streamed():
    with client_of("Hello, wörld!") as client:
        whole = client.chat("fake", TURNS)
        parts = list(client.chat("fake", TURNS, stream=True))
    assert whole.message.content == "Hello, wörld!" and whole.done and whole.done_reason == "stop"
    assert whole.eval_count == 15 and whole.prompt_eval_count == len("<user>Rain?\x01")
    assert whole.total_duration >= whole.eval_duration > 0
    assert "".join(part.message.content for part in parts) == "Hello, wörld!"
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == 15


def test_a_prompt_is_answered_through_the_template_or_raw():
    with client_of("Hello", PLAIN) as client:
        turn = client.generate("fake", "Hi", system="Be brief.")
        raw = client.generate("fake", "Hi\x01", raw=True)
        parts = list(client.generate("fake:latest", "Hi", stream=True))
    assert turn.response == raw.response == "".join(p.response for p in parts) == "Hello"
    assert turn.prompt_eval_count == len("<system>Be brief.\n<user>Hi\n\x01")
    assert raw.prompt_eval_count == 3


def test_options_are_used():
    with client_of("Hello, world") as client:
        short = client.chat("fake", TURNS, options={"num_predict": 4, "temperature": 0})
        stopped = client.chat("fake", TURNS, options={"stop": [", "], "seed": 1, "top_k": 5})
        assert (short.message.content, short.done_reason) == ("Hell", "length")
        assert (stopped.message.content, stopped.done_reason) == ("Hello", "stop")
        for options in ({"num_ctx": 10**6}, {"mirostat": 2}, {"num_gpu": 1}):
            with pytest.raises(ollama.ResponseError) as caught:
                client.chat("fake", TURNS, options=options)
            assert caught.value.status_code == 400 and next(iter(options)) in caught.value.error


@pytest.mark.parametrize(
    ("template", "script"),
    [
        (HERMES, CALL),
        (MISTRAL, '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}}]'),
    ],
)
def test_tools_are_called_and_their_results_taken(template, script):
    with client_of(f"See: {script}", template) as client:
        whole = client.chat("fake", TURNS, tools=[WEATHER])
        parts = list(client.chat("fake", TURNS, tools=[WEATHER], stream=True))
        (call,) = whole.message.tool_calls
        streamed = [call for part in parts for call in part.message.tool_calls or ()]
        assert call.function.name == "weather" and call.function.arguments == {"city": "Oslo"}
        assert streamed == [call] and whole.message.content == "See:"
        turns = [
            *TURNS,
            whole.message,
            {"role": "tool", "content": "pours", "tool_name": "weather"},
        ]
        assert client.chat("fake", turns, tools=[WEATHER]).done


def test_thinking_is_apart():
    with client_of("<think>\nhm\n</think>\n\nYes.", QWEN3) as client:
        whole = client.chat("fake", TURNS, think=True)
        parts = list(client.chat("fake", TURNS, stream=True))
        said = client.generate("fake", "Rain?")
    assert (whole.message.content, whole.message.thinking) == ("Yes.", "hm")
    assert "".join(part.message.thinking or "" for part in parts) == "hm"
    assert (said.response, said.thinking) == ("Yes.", "hm")
    with (
        client_of("Yes.", PLAIN) as client,
        pytest.raises(ollama.ResponseError, match="not reason"),
    ):
        client.chat("fake", TURNS, think=True)


def test_a_format_is_enforced():
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    with client_of("Perhaps.", PLAIN) as client:
        reply = client.chat("fake", TURNS, format=schema, options={"temperature": 0})
        assert '"a"' in reply.message.content
        loose = client.generate("fake", "x", format="json", options={"num_predict": 5})
        assert loose.response.startswith("{")


def test_models_are_listed_and_shown():
    with client_of("x", QWEN3) as client:
        (model,) = client.list().models
        shown = client.show("fake")
        assert model.model == "fake:1" and client.chat(model.model, TURNS).message.content == "x"
        assert "thinking" in shown.capabilities and shown.modelinfo["fake.context_length"] == 4096
        url = str(client._client.base_url)
        assert httpx.get(f"{url}/api/version").json()["version"]
        assert client.generate("fake").done_reason == "load"


def test_refusals_have_ollama_s_shape():
    with client_of("x") as client:
        with pytest.raises(ollama.ResponseError, match="'gpt-9' does not exist") as caught:
            client.chat("gpt-9", TURNS)
        assert caught.value.status_code == 404
        with pytest.raises(ollama.ResponseError, match="tokens"):
            list(client.chat("fake", [{"role": "user", "content": "x" * 5000}], stream=True))
        url = str(client._client.base_url)
        body = {"model": "fake", "messages": TURNS, "nonsense": 1}
        refused = httpx.post(f"{url}/api/chat", json=body)
        assert refused.status_code == 400 and "nonsense" in refused.json()["error"]
