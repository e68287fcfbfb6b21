"""Runs a batch: every line that has no result yet is answered and noted in the journal.

`slipstream batch` and the server's /v1/batches call `run_batch`. Killed at any moment and called
again with the same files it goes on where it was; each line gets one result.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from slipstream.errors import UnavailableError
from slipstream.serve.batch_journal import Journal
from slipstream.serve.batch_lines import BatchLines, Line, result, succeeded

SYNC_S = 1.0  # how much work a power failure may cost
RETRY_MAX_S = 10.0
PATIENCE_S = 120.0  # with a server that takes no requests at all
BUSY, STOPPING, BROKEN = 429, 503, 500


@dataclass(frozen=True)
class LineReply:
    """What a request was answered: an HTTP status, its id, the JSON body, when to try again."""

    status: int
    request_id: str
    body: Any
    retry_after_s: float = 1.0


Answerer = Callable[[Line], Awaitable[LineReply]]


@dataclass
class Progress:
    """How far a batch is. Tokens are those of this run, not of earlier ones."""

    total: int
    done: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0

    def count(self, output: dict[str, Any], *, earlier: bool = False) -> None:
        """One more result."""
        self.done += 1
        self.failed += not succeeded(output)
        if earlier or not succeeded(output):
            return
        usage = output["response"]["body"].get("usage") or {}
        self.prompt_tokens += usage.get("prompt_tokens", 0)
        self.answer_tokens += usage.get("completion_tokens", 0)


@dataclass
class BatchRun:
    """A batch under way: `window` of its lines at once.

    gate     also holds back lines, where several batches share one server
    watch    is told after each line
    wanted   False ends the run early: no further line is begun
    """

    lines: BatchLines
    journal: Journal
    answer: Answerer
    progress: Progress
    window: int = 32
    gate: asyncio.Semaphore | None = None
    watch: Callable[[Progress], None] = lambda progress: None
    wanted: Callable[[], bool] = lambda: True

    async def run(self) -> Progress:
        """Answers what is open. What one line raises ends the run; the journal keeps the others."""
        todo = (index for index in range(len(self.lines)) if index not in self.journal)
        try:
            async with asyncio.TaskGroup() as group:
                syncing = group.create_task(self._sync())
                workers = [group.create_task(self._work(todo)) for _ in range(self.window)]
                for worker in workers:
                    await worker
                syncing.cancel()
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        await asyncio.to_thread(self.journal.sync)
        return self.progress

    async def _work(self, todo: Iterator[int]) -> None:
        for index in todo:
            if not self.wanted():
                return
            line = self.lines.line(index)
            if self.gate is None:
                reply = await self._answered(line)
            else:
                async with self.gate:
                    reply = await self._answered(line)
            output = result(line, index, reply.status, reply.request_id, reply.body)
            self.journal.add(index, output)
            self.progress.count(output)
            self.watch(self.progress)

    async def _answered(self, line: Line) -> LineReply:
        """The reply, after as many tries as it takes when the server is busy."""
        refused_s, broken = time.monotonic(), False
        while True:
            reply = await self.answer(line)
            if reply.status == BROKEN and not broken:
                broken = True  # a step of others may have failed: once more
                continue
            if reply.status not in (BUSY, STOPPING):
                return reply
            if reply.status == STOPPING and time.monotonic() - refused_s > PATIENCE_S:
                raise UnavailableError(
                    f"no requests are taken any more: {_message(reply.body)}; what is done is "
                    "kept, run the batch again to go on"
                )
            await asyncio.sleep(min(reply.retry_after_s, RETRY_MAX_S))

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(SYNC_S)
            await asyncio.to_thread(self.journal.sync)


def begun(lines: BatchLines, journal: Journal) -> Progress:
    """The progress of a batch as its journal says."""
    progress = Progress(len(lines))
    for index in range(len(lines)):
        if index in journal:
            progress.count(journal.get(index), earlier=True)
    return progress


def _message(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message")) if isinstance(error, dict) else str(body)[:200]
