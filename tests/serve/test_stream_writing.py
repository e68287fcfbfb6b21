"""What a stream is written with: the same bytes as by the long way, and in few writes."""

import asyncio
import json

import h11
from fakes import fake_engine
from hypothesis import given
from hypothesis import strategies as st

from slipstream.engine.answer import Delta
from slipstream.engine.sampler import TokenLogprob
from slipstream.serve.openai_chat_reply import ChatReply
from slipstream.serve.openai_completion_reply import CompletionReply
from slipstream.serve.protocol import ChunkWriter
from slipstream.serve.splitter import Splitter
from slipstream.serve.stream import HOLE, SERVER_SENT, Burst, EventStream, Template

HEADS = {
    "chunked": [("content-type", "text/plain")],
    "counted": [("content-length", "7")],
    "said": [("transfer-encoding", "chunked")],
}


def written(kind, headers, version=b"1.1"):
    """All bytes of two responses on one connection, if it lives on."""
    connection, out = kind(h11.SERVER), b""
    for _ in range(2):
        connection.receive_data(b"GET / HTTP/" + version + b"\r\nhost: x\r\n\r\n")
        while type(connection.next_event()) is not h11.EndOfMessage:
            pass
        out += connection.send(h11.Response(status_code=200, headers=headers))
        for data in (b"abc", b"", b"defg"):
            out += connection.send(h11.Data(data=data))
        out += connection.send(h11.EndOfMessage())
        if connection.our_state is not h11.DONE:
            return out
        connection.start_next_cycle()
    return out


def test_chunks_are_written_as_h11_writes_them():
    for headers in HEADS.values():
        assert written(ChunkWriter, headers) == written(h11.Connection, headers)
    old = HEADS["chunked"], b"1.0"
    assert written(ChunkWriter, *old) == written(h11.Connection, *old)


@given(st.text())
def test_a_template_says_what_the_whole_event_says(text):
    content = {"id": 'x"y', "choices": [{"index": 0, "text": HOLE, "logprobs": None}]}
    filled = Template(SERVER_SENT, content).filled(text)
    whole = {"id": 'x"y', "choices": [{"index": 0, "text": text, "logprobs": None}]}
    assert filled == SERVER_SENT.event(whole)


def spelled(reply, deltas):
    frames = [
        event if isinstance(event, bytes) else SERVER_SENT.event(event)
        for delta in deltas
        for event in reply.events(0, delta)
    ]
    return [json.loads(frame.removeprefix(b"data: ")) for frame in frames]


def test_plain_chunks_have_the_fields_of_the_first_one():
    codec = fake_engine().tokenizer
    deltas = [Delta(1, (1,), text) for text in ("a", "", 'b"\n', "ü")]
    deltas += [Delta(1, (1,), "z", logprobs=(TokenLogprob(1, -1.0, ()),))]
    deltas += [Delta(1, (2,), "!", finish="stop")]
    plain = spelled(CompletionReply("m", codec, [(1,)]), deltas)
    assert [c["choices"][0]["text"] for c in plain] == ["a", 'b"\n', "ü", "z", "!"]
    chat = spelled(ChatReply("m", codec, Splitter, lambda: "c"), deltas)
    assert [c["choices"][0]["delta"]["content"] for c in chat] == ["a", 'b"\n', "ü", "z", "!"]
    for chunks in (plain, chat):
        assert len({tuple(c) for c in chunks}) == 1 and len({c["id"] for c in chunks}) == 1
        assert len({tuple(c["choices"][0]) for c in chunks}) == 1
        assert [bool(c["choices"][0]["logprobs"]) for c in chunks] == [0, 0, 0, 1, 0]
        assert [c["choices"][0]["finish_reason"] for c in chunks] == [*[None] * 4, "stop"]
    offset = plain[3]["choices"][0]["logprobs"]["text_offset"]
    assert offset == [len('ab"\nü')], "characters of plain chunks are counted"


async def sent(bursts):
    """The messages of a stream whose client stays."""
    messages = []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        messages.append(message)

    await EventStream(bursts)({"type": "http"}, receive, send)
    return messages


def test_a_burst_is_one_write_and_the_last_one_ends_the_stream():
    async def bursts():
        yield Burst([{"a": 1}])
        yield Burst([{"b": 2}, b"data: 3\n\n"], last=True)

    messages = asyncio.run(sent(bursts()))
    assert [m.get("body") for m in messages] == [
        None,
        b'data: {"a":1}\n\n',
        b'data: {"b":2}\n\ndata: 3\n\ndata: [DONE]\n\n',
    ]
    assert [m.get("more_body") for m in messages] == [None, True, False]


def test_a_failure_after_the_first_event_is_told_and_ends_the_stream():
    async def bursts():
        yield Burst([{"a": 1}])
        raise ValueError("broken")

    *_, last = asyncio.run(sent(bursts()))
    assert not last["more_body"]
    assert b'"error"' in last["body"] and last["body"].endswith(b"data: [DONE]\n\n")
