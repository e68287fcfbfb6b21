"""The server's batches: taken in, run a few at a time behind live requests, and taken up again
after a restart, whatever ended the process.

    STATE/batches/batch_….json      the record
    STATE/batches/batch_….journal   its results so far, until the output files are written

Routes call it; `Server.lifespan` starts and stops it.
"""

import asyncio
import fcntl
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TextIO

from starlette.exceptions import HTTPException

from slipstream.errors import BatchFileError, MachineError, SlipstreamError, UnavailableError
from slipstream.serve.batch_jobs import Answerer, BatchRun, Progress, begun
from slipstream.serve.batch_journal import Journal
from slipstream.serve.batch_lines import BatchLines, Fault, read_lines, succeeded, unanswered
from slipstream.serve.batch_record import BatchRecord, new_record, read_record
from slipstream.serve.file_store import FileStore, StoredFile

log = logging.getLogger("slipstream.serve")

LINES_MAX = 50_000  # OpenAI's
RUNNING_MAX = 4
WINDOW = 32  # lines of all batches at once: beside them live requests find room in the queue
PAUSE_S = 15.0  # before a batch is tried again while its model takes no requests

Purpose = Literal["output", "error"]


class BatchNotFound(HTTPException):
    """A batch that does not exist, or is another account's."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(404, f"No such batch: {batch_id[:60]!r}")


class BatchDesk:
    """All batches of one state folder; `answerer(account)` answers lines for an account."""

    def __init__(self, state: Path, answerer: Callable[[str], Answerer]) -> None:
        self.files = FileStore(state)
        self._folder = state / "batches"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(state / "lock")
        self._answerer = answerer
        found = (read_record(path) for path in self._folder.glob("batch_*.json"))
        self._records = {record.id: record for record in found if record is not None}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Takes up what is not finished."""
        self._running = asyncio.Semaphore(RUNNING_MAX)
        self._gate = asyncio.Semaphore(WINDOW)
        for record in sorted(self._records.values(), key=lambda one: one.created_at):
            if not record.ended:
                self._launch(record)

    async def stop(self) -> None:
        """Lets go of what is under way; a later process goes on."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._lock.close()

    def create(
        self, file: StoredFile, endpoint: str, metadata: dict[str, str] | None
    ) -> BatchRecord:
        """Takes in a batch; it is validated and run in the background."""
        record = new_record(file.account, endpoint, file.id, metadata)
        self._records[record.id] = record
        record.save(self._folder)
        self._launch(record)
        return record

    def get(self, batch_id: str, account: str) -> BatchRecord:
        """BatchNotFound unless the account has it."""
        record = self._records.get(batch_id)
        if record is None or record.account != account:
            raise BatchNotFound(batch_id)
        return record

    def listed(self, account: str) -> list[BatchRecord]:
        """The batches of an account, newest first."""
        mine = [record for record in self._records.values() if record.account == account]
        return sorted(mine, key=lambda record: (record.created_at, record.id), reverse=True)

    def cancel(self, record: BatchRecord) -> None:
        """No further line is begun; what is answered is kept."""
        if not record.ended and record.status != "finalizing":
            record.enter("cancelling")
            record.save(self._folder)

    def uses(self, file: StoredFile) -> bool:
        """Whether a batch that has not ended reads the file."""
        return any(
            record.input_file_id == file.id and not record.ended
            for record in self._records.values()
        )

    # The life of one batch.

    def _launch(self, record: BatchRecord) -> None:
        task = asyncio.create_task(self._live(record), name=record.id)
        self._tasks[record.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(record.id, None))

    async def _live(self, record: BatchRecord) -> None:
        try:
            async with self._running:
                lines = await self._validated(record)
                while not await self._tried(record, lines):
                    await asyncio.sleep(PAUSE_S)
        except SlipstreamError as error:
            faults = error.faults if isinstance(error, BatchFileError) else ()
            self._failed(record, faults or [Fault(0, "batch_failed", str(error))])
        except Exception:  # our own mistake: told, and in the log
            log.exception("batch %s failed", record.id)
            self._failed(record, [Fault(0, "internal_error", "the server failed; its log has it")])

    async def _validated(self, record: BatchRecord) -> BatchLines:
        content = self.files.content(self.files.get(record.input_file_id, record.account))
        lines = await asyncio.to_thread(read_lines, content, most=LINES_MAX, url=record.endpoint)
        record.counts["total"] = len(lines)
        return lines

    async def _tried(self, record: BatchRecord, lines: BatchLines) -> bool:
        """Runs until all is answered, or the batch is cancelled or overdue. False: not now."""
        if record.status == "validating":
            record.enter("in_progress")
        record.save(self._folder)
        path = self._folder / f"{record.id}.journal"
        journal = await asyncio.to_thread(Journal, path, {"input": lines.digest})
        try:
            progress = await asyncio.to_thread(begun, lines, journal)
            self._count(record, progress)
            answer = self._answerer(record.account)
            run = BatchRun(lines, journal, answer, progress, WINDOW, gate=self._gate)
            run.watch = lambda now: self._count(record, now)
            run.wanted = lambda: record.status == "in_progress" and not record.overdue
            await run.run()
            await self._finish(record, lines, journal)
        except UnavailableError:
            return False
        finally:
            journal.close()
        path.unlink(missing_ok=True)
        return True

    async def _finish(self, record: BatchRecord, lines: BatchLines, journal: Journal) -> None:
        """Writes the output files, then the last state."""
        cancelled = record.status == "cancelling"
        missing = [index for index in range(len(lines)) if index not in journal]
        if not cancelled:
            record.enter("finalizing")
            record.save(self._folder)
            for index in missing:
                words = "the batch was not finished within 24 hours"
                journal.add(index, unanswered(lines.ids[index], index, "batch_expired", words))
        record.output_file_id = await asyncio.to_thread(self._written, record, journal, "output")
        record.error_file_id = await asyncio.to_thread(self._written, record, journal, "error")
        record.enter("cancelled" if cancelled else "expired" if missing else "completed")
        record.save(self._folder)

    def _written(self, record: BatchRecord, journal: Journal, purpose: Purpose) -> str | None:
        """The id of the file with the answers, or with what has none; None if it would be empty.

        The id follows from the batch, so that writing it again after a crash leaves one file.
        """
        digest = hashlib.sha256(f"{record.id} {purpose}".encode()).hexdigest()
        with self.files.draft(f"file-{digest[:32]}") as (file_id, path):
            good = purpose == "output"
            if not journal.write(path, lambda result: succeeded(result) == good):
                return None
            name = f"{record.id}_{purpose}.jsonl"
            self.files.keep(file_id, name, "batch_output", record.account)
            return file_id

    def _count(self, record: BatchRecord, progress: Progress) -> None:
        record.counts["completed"] = progress.done - progress.failed
        record.counts["failed"] = progress.failed

    def _failed(self, record: BatchRecord, faults: list[Fault] | tuple[Fault, ...]) -> None:
        record.blame(faults)
        record.enter("failed")
        record.save(self._folder)


def _locked(path: Path) -> TextIO:
    """The state folder is one process's at a time. MachineError: another has it."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise MachineError(f"another server uses the state folder {path.parent}") from error
    return file
