"""`slipstream serve` as a process: ready, answering, drained."""

import json
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

FAKE = str(Path(__file__).parent / "fake_cli.py")
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0}


@pytest.fixture
def serve(spawn):
    def start(*words):
        process = spawn(
            FAKE,
            "serve",
            "m",
            "--port",
            "0",
            "--response-cache",
            "off",
            *words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return process, process.stdout.readline()

    return start


def test_it_says_where_it_serves_and_answers_there(serve):
    process, line = serve()
    assert line.startswith("m is served at http://127.0.0.1:") and line.endswith(
        "/v1 (Ctrl-C stops)\n"
    )
    url = line.split()[4]
    reply = httpx.post(f"{url}/chat/completions", json=CHAT, timeout=20).json()
    assert reply["choices"][0]["message"]["content"] == "one two three four five six seven eight."
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0 and process.stderr.read() == ""


def test_sigterm_drains(serve):
    process, line = serve("--json", "--name", "m")
    ready = json.loads(line)
    assert ready["event"] == "ready" and ready["model"] == "m"
    body = {**CHAT, "stream": True}
    with httpx.stream(
        "POST", f"{ready['url']}/v1/chat/completions", json=body, timeout=20
    ) as reply:
        lines = reply.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        rest = list(lines)
    text = "".join(
        json.loads(event[6:])["choices"][0]["delta"].get("content", "")
        for event in rest
        if event.startswith("data: {")
    )
    assert text.endswith("eight.") and rest[-2] == "data: [DONE]"
    assert process.wait(20) == 0
    logged = [json.loads(entry) for entry in process.stderr.read().splitlines()]
    assert any(entry.get("path") == "/v1/chat/completions" for entry in logged)


def test_a_port_in_use_is_one_line(serve, spawn):
    _, line = serve()
    port = line.split(":")[2].split("/")[0]
    other = spawn(FAKE, "serve", "m", "--port", port, stderr=subprocess.PIPE, text=True)
    _, errors = other.communicate(timeout=20)
    assert other.returncode == 1 and errors.startswith(f"error: cannot listen on 127.0.0.1:{port}")
    assert errors.count("\n") == 1


def test_a_model_is_named_as_it_was_asked_for(tmp_path):
    from slipstream.cli.serve_models import served_name

    (tmp_path / "model.gguf").touch()
    assert served_name("smollm2:135m") == "smollm2:135m"
    assert served_name(str(tmp_path / "model.gguf")) == "model"
    assert served_name(str(tmp_path)) == tmp_path.name


def test_the_format_of_tool_calls_can_be_said(serve):
    process, line = serve("--tool-format", "mistral")
    assert line.startswith("m is served")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    process, line = serve("--tool-format", "m=morse")
    assert process.wait(20) == 1 and line == ""
    assert "tool format 'morse' is not known; choose of hermes" in process.stderr.read()
