"""The engine on a thread of its own, with an asynchronous front for servers.

    event loop                          │ engine thread
    submit ── inbox ───────────────────▶│ take everything from the inbox, plan the next step
    more() of each stream ◀── one call ─│ hand over all deltas of the step before
    (events are written meanwhile)      │ run the step: C++, without the GIL

So the loop and the thread want the GIL at different times, and no step waits for a client's text.
Deltas that only patient clients wait for stay with the thread until one of their answers ends: the
loop does not wake for them. Each client gets its own deltas, an exception in words if a step fails,
and never silence. A client that goes away is cancelled before the next step.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from slipstream.engine.answer import Delta
from slipstream.engine.answer_stream import AnswerStream
from slipstream.engine.engine import Engine
from slipstream.engine.request import Request
from slipstream.engine.stats import Snapshot
from slipstream.errors import EngineError, UnavailableError

log = logging.getLogger("slipstream.engine")

Result = TypeVar("Result")

HELD_MAX = 1024  # deltas kept for patient clients: handing over more takes the loop above 3 ms


class Service:
    """Owns the engine's thread. `start` it inside the event loop that its clients run in.

    `submit`, `drain` and `stop` belong to that loop; only the inbox crosses over to the thread.
    `on_gaps` gets the seconds between tokens of the answers that a step has added to.
    """

    def __init__(
        self, engine: Engine, on_gaps: Callable[[Sequence[float]], None] = lambda gaps: None
    ) -> None:
        self.engine = engine
        self.on_gaps = on_gaps
        engine.running.before_compute = self._hand_over_awaited
        # an id: cancel; a function: call it; None: stop
        self._inbox: SimpleQueue[Request | int | Callable[[], None] | None] = SimpleQueue()
        self._streams: dict[int, AnswerStream] = {}
        self._calls: set[Future[Any]] = set()  # not yet done
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._steps_checked = 0
        self._computed: list[tuple[float, list[Delta]]] = []  # when, by a step; not yet handed over
        self._held = 0  # deltas in there
        self._awaited = False  # somebody waits for one of them
        self._wait_s: float | None = None  # a dynamic batch is being filled
        self._draining = False
        self._drained = asyncio.Event()

    # The asynchronous front.

    def start(self) -> None:
        """Starts the thread; deltas will be delivered in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests are taken and answered."""
        return self._thread.is_alive() and not self._draining

    @property
    def requests_open(self) -> int:
        """Requests submitted and not yet ended."""
        return len(self._streams)

    def snapshot(self) -> Snapshot:
        """What the engine holds and has done; read while it runs, so each number is of its own."""
        return self.engine.snapshot()

    def submit(self, request: Request, *, patient: bool = False) -> AnswerStream:
        """Queues a request made by `engine.request`; a patient one is answered whole.

        UnavailableError once draining has begun.
        """
        if not self.alive:
            raise UnavailableError("the server is stopping; send the request to another one")
        stream = AnswerStream(request, self._cancel, patient=patient)
        self._streams[request.id] = stream
        self._inbox.put(request)
        return stream

    async def call(self, work: Callable[[Engine], Result]) -> Result:
        """What `work(engine)` returns or raises, run on the engine's thread between two steps.

        For whatever needs the program to itself: embeddings, loading an adapter. Keep it short:
        every answer waits meanwhile. Cancelled before it began, it does not run.
        """
        if not self._thread.is_alive():
            raise UnavailableError("the server is stopping; send the request to another one")
        done: Future[Result] = Future()

        def run() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(work(self.engine))
            except Exception as error:  # of the caller's own work: told to the caller
                done.set_exception(error)

        self._calls.add(done)
        done.add_done_callback(self._calls.discard)
        self._inbox.put(run)
        return await asyncio.wrap_future(done)

    async def drain(self) -> None:
        """Takes no further requests and waits until those under way have been answered."""
        self._draining = True
        if self._streams:
            self._drained.clear()
            await self._drained.wait()

    async def stop(self) -> None:
        """Ends the thread. Requests still under way are refused in words."""
        self._draining = True
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)
        self._give_up(UnavailableError("the server has stopped"))

    def _cancel(self, request_id: int) -> None:
        self._close(request_id)
        self._inbox.put(request_id)

    def _close(self, request_id: int) -> AnswerStream | None:
        stream = self._streams.pop(request_id, None)
        if not self._streams:
            self._drained.set()
        return stream

    def _deliver(self, computed: list[tuple[float, list[Delta]]]) -> None:
        gaps: list[float] = []
        for now, deltas in computed:
            for delta in deltas:
                if delta.error is not None:
                    self._deliver_error(delta.request_id, delta.error)
                else:
                    self._deliver_one(delta, now, gaps)
        if gaps:
            self.on_gaps(gaps)

    def _deliver_one(self, delta: Delta, now: float, gaps: list[float]) -> None:
        request_id = delta.request_id
        ended = delta.finish is not None
        stream = self._close(request_id) if ended else self._streams.get(request_id)
        if stream is None:
            return
        if delta.ids:
            if stream.arrived_s is not None:
                gaps.append(now - stream.arrived_s)
            stream.arrived_s = now
        stream.hear(delta)

    def _deliver_error(self, request_id: int, error: Exception) -> None:
        stream = self._close(request_id)
        if stream is not None:
            stream.hear(error)

    def _give_up(self, error: Exception) -> None:
        self._draining = True
        for request_id in list(self._streams):
            self._deliver_error(request_id, error)
        for call in list(self._calls):
            if not call.done():
                call.set_exception(error)

    # The engine's thread.

    def _serve(self) -> None:
        try:
            self._run()
        except BaseException:  # our own mistake: the thread ends, but nobody is left waiting
            log.exception("the engine's thread has failed")
            told = EngineError("the engine has failed and serves no more; restart the server")
            self._loop.call_soon_threadsafe(self._give_up, told)

    def _run(self) -> None:
        while self._take_inbox():
            try:
                deltas = self.engine.step()
                self._wait_s = self.engine.wait_s
            except Exception as error:  # told to every client; the engine starts afresh
                self._hand_over()
                self._fail(error)
            else:
                if self._awaited:
                    self._hand_over()  # what a step that computed nothing has left
                self._keep(deltas)
        self._hand_over()
        self.engine.cancel_all()

    def _keep(self, deltas: list[Delta]) -> None:
        """Keeps what a step has added, and notes whether anybody waits for it."""
        if not deltas:
            return
        self._computed.append((time.perf_counter(), deltas))
        self._held += len(deltas)
        self._awaited = self._held > HELD_MAX or any(map(self._is_awaited, deltas))

    def _is_awaited(self, delta: Delta) -> bool:
        if delta.finish is not None:
            return True
        stream = self._streams.get(delta.request_id)  # the loop's, but one look is whole
        return stream is not None and not stream.patient

    def _hand_over_awaited(self) -> None:
        """The engine calls it when it is about to compute."""
        if self._awaited:
            self._hand_over()

    def _hand_over(self) -> None:
        """All deltas that are kept, in one call."""
        self._held, self._awaited = 0, False
        if self._computed:
            computed, self._computed = self._computed, []
            self._loop.call_soon_threadsafe(self._deliver, computed)

    def _take_inbox(self) -> bool:
        """Applies what has arrived; with nothing to do, waits for something. False: stop."""
        try:
            while True:
                letter = self._inbox.get(*self._patience())
                if not isinstance(letter, Request):
                    self._hand_over()
                if letter is None:
                    return False
                if isinstance(letter, Request):
                    self._accept(letter)
                elif isinstance(letter, int):
                    self.engine.cancel(letter)
                else:
                    letter()
        except Empty:
            return True

    def _patience(self) -> tuple[bool, float | None]:
        """Whether to wait for something to arrive, and for how long: as `SimpleQueue.get` asks."""
        if self.engine.idle:
            self._hand_over()
            self._check_books()
            return True, None
        wait_s, self._wait_s = self._wait_s, None
        if not wait_s:
            return False, None
        self._hand_over()
        return True, wait_s

    def _check_books(self) -> None:
        """Whenever there is nothing to do. Wrong pages would be wrong answers: the thread ends."""
        steps = self.engine.stats.steps
        if steps != self._steps_checked:
            self._steps_checked = steps
            self.engine.check()

    def _accept(self, request: Request) -> None:
        try:
            self.engine.submit(request)
        except Exception as error:
            self._loop.call_soon_threadsafe(self._deliver_error, request.id, error)

    def _fail(self, error: Exception) -> None:
        log.exception("a step failed")
        lost = self.engine.start_afresh()
        told = EngineError(f"the step that computed this request failed: {error}")
        for request_id in lost:
            self._loop.call_soon_threadsafe(self._deliver_error, request_id, told)
