"""`/v1/responses` with the unmodified `openai` client."""

import openai as library
import pytest
from live_server import live
from openai import OpenAI
from speakers import HERMES, QWEN3, speaker

from slipstream.serve.app import make_app
from slipstream.serve.responses_store import ResponseNotFound, ResponseStore, Stored

WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


@pytest.fixture
def asked_of():
    """A client of a server whose model always says the same."""
    clients = []

    def client_of(script, template=HERMES, **doors):
        context = live(make_app(speaker(script, template), name="fake", **doors))
        client = OpenAI(base_url=f"{context.__enter__()}/v1", api_key="none", max_retries=0)
        clients.append((context, client))
        return client

    yield client_of
    for context, client in clients:
        client.close()
        context.__exit__(None, None, None)


def test_a_response_is_answered(asked_of):
    reply = asked_of("Hello, wörld!").responses.create(
        model="fake", input="Hi", instructions="Be brief.", metadata={"a": "b"}
    )
    assert reply.output_text == "Hello, wörld!" and reply.status == "completed"
    (item,) = reply.output
    assert item.type == "message" and item.status == "completed"
    assert reply.usage.input_tokens == len("<system>Be brief.<user>Hi\x01")
    assert reply.usage.output_tokens == 15 and reply.metadata == {"a": "b"}


def test_a_response_tells_its_growth_in_named_events(asked_of):
    events = list(asked_of("Hello").responses.create(model="fake", input="Hi", stream=True))
    assert [e.type for e in events if not e.type.endswith(".delta")] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [e.sequence_number for e in events] == list(range(len(events)))
    said = [e for e in events if e.type == "response.output_text.delta"]
    assert "".join(e.delta for e in said) == "Hello" and len(said) == 5
    assert events[-1].response.output_text == "Hello"
    assert {e.item_id for e in said} == {events[-1].response.output[0].id}


def test_the_client_s_own_stream_helper_gathers_the_response(asked_of):
    with asked_of(f"Let me see. {CALL}").responses.stream(
        model="fake", input="Weather?", tools=[WEATHER]
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert "response.function_call_arguments.delta" in kinds
    text, call = final.output
    assert text.content[0].text == "Let me see."
    assert (call.name, call.arguments) == ("weather", '{"city": "Oslo"}')


def test_a_call_and_its_output_go_on_in_the_next_response(asked_of):
    client = asked_of(CALL)
    first = client.responses.create(model="fake", input="Weather?", tools=[WEATHER])
    (call,) = first.output
    assert call.type == "function_call" and call.call_id.startswith("call_")
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    second = client.responses.create(
        model="fake", input=[output], previous_response_id=first.id, tools=[WEATHER]
    )
    assert second.previous_response_id == first.id
    by_hand = client.responses.create(
        model="fake",
        input=[{"role": "user", "content": "Weather?"}, call, output],
        tools=[WEATHER],
    )
    assert by_hand.usage.input_tokens == second.usage.input_tokens


def test_reasoning_is_an_item_of_its_own(asked_of):
    client = asked_of("<think>\nhm, hm\n</think>\n\nYes.", QWEN3)
    reply = client.responses.create(model="fake", input="Is it?")
    thought, said = reply.output
    assert thought.type == "reasoning" and thought.content[0].text == "hm, hm"
    assert said.content[0].text == "Yes." == reply.output_text
    assert reply.usage.output_tokens_details.reasoning_tokens == len("hm, hm")
    events = list(client.responses.create(model="fake", input="Is it?", stream=True))
    assert "".join(e.delta for e in events if e.type == "response.reasoning_text.delta") == "hm, hm"


def test_an_answer_cut_short_is_incomplete(asked_of):
    client = asked_of("Hello")
    reply = client.responses.create(model="fake", input="Hi", max_output_tokens=2)
    assert reply.status == "incomplete" and reply.output_text == "He"
    assert reply.incomplete_details.reason == "max_output_tokens"
    *_, last = client.responses.create(model="fake", input="Hi", max_output_tokens=2, stream=True)
    assert last.type == "response.incomplete"


def test_stored_responses_are_read_and_forgotten(asked_of):
    client = asked_of("Hello")
    reply = client.responses.create(model="fake", input="Hi")
    assert client.responses.retrieve(reply.id).output_text == "Hello"
    assert [i.content for i in client.responses.input_items.list(reply.id)] == ["Hi"]
    client.responses.delete(reply.id)
    with pytest.raises(library.NotFoundError, match="there is no response"):
        client.responses.retrieve(reply.id)
    unstored = client.responses.create(model="fake", input="Hi", store=False)
    with pytest.raises(library.NotFoundError):
        client.responses.create(model="fake", input="More", previous_response_id=unstored.id)


def test_responses_outlive_the_server_in_a_folder(tmp_path):
    def client_of(url):
        return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    with live(make_app(speaker("Hello"), name="fake", state_folder=tmp_path)) as url:
        reply = client_of(url).responses.create(model="fake", input="Hi")
    with live(make_app(speaker("Hello"), name="fake", state_folder=tmp_path)) as url:
        assert client_of(url).responses.retrieve(reply.id).output_text == "Hello"


def test_what_is_not_served_is_refused(asked_of):
    client = asked_of("Hello")
    for more in (
        {"background": True},
        {"truncation": "auto"},
        {"reasoning": {"effort": "high"}},
        {"tools": [{"type": "web_search"}]},
        {"include": ["reasoning.encrypted_content"]},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": []},
    ):
        with pytest.raises(library.BadRequestError):
            client.responses.create(**{"model": "fake", "input": "Hi", **more})


def response(number):
    return {"id": f"resp_{number:032x}", "output": []}


def test_the_store_forgets_what_was_used_least_recently():
    store = ResponseStore(count=3)
    for number in range(3):
        store.put(Stored("", response(number), []))
    store.get(response(0)["id"], "")
    store.put(Stored("", response(3), []))
    store.check()
    with pytest.raises(ResponseNotFound):
        store.get(response(1)["id"], "")
    assert store.get(response(0)["id"], "").response == response(0)


def test_the_store_is_bounded_in_bytes_and_keeps_accounts_apart():
    store = ResponseStore(size_bytes=1000)
    for number in range(9):
        store.put(Stored("anna", response(number), [{"text": "x" * 200}]))
        store.check()
    with pytest.raises(ResponseNotFound):
        store.get(response(8)["id"], "otto")
    assert store.get(response(8)["id"], "anna").account == "anna"


def test_the_store_passes_over_damaged_files(tmp_path):
    store = ResponseStore(tmp_path)
    for number in range(2):
        store.put(Stored("", response(number), [{"text": "é" * 10}]))
    (tmp_path / f"{response(0)['id']}.json").write_bytes(b'{"half')
    (tmp_path / "resp_x.json").write_text("{}")
    again = ResponseStore(tmp_path)
    again.check()
    assert again.get(response(1)["id"], "").items == [{"text": "é" * 10}]
    with pytest.raises(ResponseNotFound):
        again.get(response(0)["id"], "")
