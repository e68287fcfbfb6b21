"""Everything that is not served is refused in words, in OpenAI's error shape."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipstream.errors import EngineError, SlipstreamError
from slipstream.serve.openai_chat import ChatRequest
from slipstream.serve.openai_completion import CompletionRequest
from slipstream.serve.refusal import refusal_of

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}
PLAIN = {"model": "fake", "prompt": "x>"}


def error_of(response, status=400):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"nonsense": 1}, "nonsense", "Unrecognized request argument supplied: nonsense"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 129}, "n", "less than or equal to 128"),
        ({"frequency_penalty": 3}, "frequency_penalty", "less than or equal to 2"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "less than or equal to 100"),
        ({"logit_bias": {"five": 1}}, None, "token ids"),
        ({"allowed_token_ids": []}, "allowed_token_ids", "at least 1"),
        ({"min_tokens": 9, "max_tokens": 3}, None, "min_tokens"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "Missing required parameter"),
        ({"tools": [{"type": "retrieval"}]}, "tools.0.type", "'function'"),
        ({"tool_choice": "required"}, None, "needs tools"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "nobody"}}},
            None,
            "no tool named 'nobody'",
        ),
        ({"functions": [{"name": "old"}]}, "functions", "not supported"),
        ({"response_format": {"type": "xml"}}, "response_format", "'json_schema'"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema.json_schema",
            "Missing required parameter",
        ),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "text"}},
            None,
            "not both",
        ),
        ({"reasoning_effort": "high"}, "reasoning_effort", "not supported"),
        ({"chat_template_kwargs": {"messages": []}}, None, "must not hold messages"),
        ({"chat_template_kwargs": {"self": 1}}, None, "must not hold self"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, None, "differ"),
        ({"top_logprobs": 3}, None, "needs logprobs"),
        ({"top_logprobs": 99, "logprobs": True}, "top_logprobs", "less than or equal to 20"),
        ({"stop": [""]}, "stop.0", "at least 1 character"),
        ({"stream": "yes"}, "stream", "valid boolean"),
        ({"stream_options": {"include_usage": True}}, None, "stream=true"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "'system'"),
        ({"messages": [{"role": "user"}]}, "messages.0", "content: Missing required parameter"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0", "tool_call_id"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "valid string"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "text": ""}]}]},
            "messages.0.content.0.type",
            "'text'",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "name": "y"}]},
            "messages.0",
            "name is not supported",
        ),
    ],
)
def test_a_chat_field_that_is_not_served_is_refused_by_name(http, change, param, words):
    error = error_of(http.post("/v1/chat/completions", json={**CHAT, **change}))
    assert words in error["message"] and error["param"] == param, error
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [""] * 65}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"echo": "yes"}, "echo"),
        ({"n": 0, "best_of": 2}, "n"),
        ({"suffix": "end"}, "suffix"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_a_completion_field_that_is_not_served_is_refused_by_name(http, change, param):
    error = error_of(http.post("/v1/completions", json={**PLAIN, **change}))
    assert error["param"].split(".")[0] == param


def test_best_of_is_n_or_nothing(http):
    assert (
        "best_of" in error_of(http.post("/v1/completions", json={**PLAIN, "best_of": 2}))["message"]
    )
    body = {**PLAIN, "best_of": 2, "n": 2, "max_tokens": 2}
    assert len(http.post("/v1/completions", json=body).json()["choices"]) == 2


def test_prompts_without_tokens_or_with_unknown_ones(http):
    assert (
        "no tokens"
        in error_of(http.post("/v1/completions", json={**PLAIN, "prompt": ""}))["message"]
    )
    assert (
        "0…256"
        in error_of(http.post("/v1/completions", json={**PLAIN, "prompt": [300]}))["message"]
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"model": NaN}', "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", "nested deeper"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"model": "\xff"}', "not valid JSON"),
        (b'{"model": "\\ud800"}', "not valid JSON"),
    ],
)
def test_a_body_that_is_no_request_is_refused(http, body, words):
    headers = {"Content-Type": "application/json"}
    response = http.post("/v1/chat/completions", content=body, headers=headers)
    assert words in error_of(response)["message"]


def test_a_body_too_large_is_refused_declared_or_not(http):
    headers = {"Content-Type": "application/json"}
    large = b" " * (4 * 2**20 + 1)
    error_of(http.post("/v1/completions", content=large, headers=headers), 413)
    in_parts = (large[i : i + 2**20] for i in range(0, len(large), 2**20))
    error_of(http.post("/v1/completions", content=in_parts, headers=headers), 413)


def test_another_content_type_is_refused(http):
    response = http.post(
        "/v1/completions", content=json.dumps(PLAIN), headers={"Content-Type": "text/plain"}
    )
    assert error_of(response, 415)["code"] == "unsupported_media_type"


def test_unknown_paths_and_methods_have_the_same_shape(http):
    error_of(http.get("/v1/nothing"), 404)
    error_of(http.get("/v1/completions"), 405)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = [*CompletionRequest.model_fields, *ChatRequest.model_fields]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    path=st.sampled_from(["/v1/completions", "/v1/chat/completions"]),
    change=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=6), json_values, max_size=3),
)
def test_any_json_is_answered_or_refused_never_a_failure(http, path, change):
    body = {**(CHAT if "chat" in path else PLAIN), "max_tokens": 2, **change}
    response = http.post(
        path,
        content=json.dumps(body).encode("utf-8", "replace"),
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code in (200, 400, 404), response.text


def test_only_errors_made_for_users_are_quoted():
    assert "secret" not in refusal_of(RuntimeError("secret")).message
    assert refusal_of(SlipstreamError("words")).message == "words"
    assert refusal_of(EngineError("x")).body()["error"]["type"] == "server_error"
