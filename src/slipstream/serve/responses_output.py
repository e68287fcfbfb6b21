"""A response's output items as they grow, and the named events that tell a client about it.

    added ─▶ part added ─▶ delta … delta ─▶ done ─▶ part done ─▶ item done

`OutputItems` takes the splitter's events; one item is open at a time. A response that is not
streamed is made the same way, without anybody reading the events.
"""

from collections.abc import Callable, Iterable
from typing import Any

from slipstream.serve.replies import Json, fresh_id
from slipstream.serve.tools.events import CallArguments, CallBegun, Event, Said, Thought


class OutputItems:
    """The items of one response. `items` are those that are complete."""

    def __init__(self, new_call_id: Callable[[], str]) -> None:
        self.items: list[Json] = []
        self.reasoning = ""
        self._new_call_id = new_call_id
        self._open: Json | None = None
        self._text = ""

    def push(self, events: Iterable[Event]) -> list[Json]:
        """What to tell the client about `events`."""
        told: list[Json] = []
        for event in events:
            match event:
                case Said(text):
                    told += self._write("message", text)
                case Thought(text):
                    self.reasoning += text
                    told += self._write("reasoning", text)
                case CallBegun(_, name):
                    told += self.close() + self._begin_call(name)
                case CallArguments(_, text):
                    self._text += text
                    told.append(self._tell("response.function_call_arguments.delta", delta=text))
        return told

    def close(self, status: str = "completed") -> list[Json]:
        """Ends the open item, if there is one."""
        item, self._open = self._open, None
        if item is None:
            return []
        text, self._text = self._text, ""
        item["status"] = status
        told = self._end_call(item, text) if "call_id" in item else self._end_text(item, text)
        told.append(self._placed({"type": "response.output_item.done", "item": item}))
        self.items.append(item)
        return told

    def _write(self, kind: str, text: str) -> list[Json]:
        told = []
        if self._open is None or self._open["type"] != kind:
            told = self.close() + self._begin_text(kind)
        self._text += text
        name = "output_text" if kind == "message" else "reasoning_text"
        more: Json = {"logprobs": []} if kind == "message" else {}
        told.append(self._tell(f"response.{name}.delta", content_index=0, delta=text, **more))
        return told

    def _begin_text(self, kind: str) -> list[Json]:
        if kind == "message":
            item: Json = {"id": fresh_id("msg_"), "type": kind, "role": "assistant", "content": []}
        else:
            item = {"id": fresh_id("rs_"), "type": kind, "summary": [], "content": []}
        added = self._begin(item)
        part = _part(kind, "")
        return [added, self._tell("response.content_part.added", content_index=0, part=part)]

    def _begin_call(self, name: str) -> list[Json]:
        item = {"id": fresh_id("fc_"), "type": "function_call", "call_id": self._new_call_id()}
        return [self._begin({**item, "name": name, "arguments": ""})]

    def _begin(self, item: Json) -> Json:
        item["status"] = "in_progress"
        self._open = item
        copy = {**item, "content": list(item["content"])} if "content" in item else dict(item)
        return self._placed({"type": "response.output_item.added", "item": copy})

    def _end_text(self, item: Json, text: str) -> list[Json]:
        kind = item["type"]
        part = _part(kind, text)
        item["content"] = [part]
        name = "output_text" if kind == "message" else "reasoning_text"
        more: Json = {"logprobs": []} if kind == "message" else {}
        done = self._about(item, f"response.{name}.done", content_index=0, text=text, **more)
        return [done, self._about(item, "response.content_part.done", content_index=0, part=part)]

    def _end_call(self, item: Json, text: str) -> list[Json]:
        item["arguments"] = text
        name = "response.function_call_arguments.done"
        return [self._about(item, name, arguments=text, name=item["name"])]

    def _tell(self, event: str, **content: Any) -> Json:
        assert self._open is not None
        return self._about(self._open, event, **content)

    def _about(self, item: Json, event: str, **content: Any) -> Json:
        """An event within `item`."""
        return self._placed({"type": event, "item_id": item["id"], **content})

    def _placed(self, event: Json) -> Json:
        """With the open item's place: the one after all items that are complete."""
        return {**event, "output_index": len(self.items)}


def _part(kind: str, text: str) -> Json:
    if kind == "message":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "reasoning_text", "text": text}
