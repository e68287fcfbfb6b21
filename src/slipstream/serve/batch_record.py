"""One batch of the server as OpenAI describes it, kept as JSON: its request, its state, its files.

`batch_desk` changes it, routes show it. States:

    validating ─▶ in_progress ─▶ finalizing ─▶ completed
        │             │  ├──▶ cancelling ─▶ cancelled
        ▼             │  └──▶ (time is over) ─▶ expired
      failed ◀────────┘
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from slipstream.serve.batch_lines import Fault
from slipstream.serve.file_store import write_json
from slipstream.serve.replies import Json

State = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling",
    "cancelled",
]  # fmt: skip
ENDED = ("completed", "failed", "expired", "cancelled")
WINDOW_S = 24 * 3600
TIMES = (
    "in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at",
    "cancelled_at",
)  # fmt: skip


@dataclass
class BatchRecord:
    """What is known of a batch, whoever asks and whenever."""

    id: str
    account: str
    endpoint: str
    input_file_id: str
    created_at: int
    metadata: dict[str, str] | None = None
    status: State = "validating"
    times: dict[str, int] = field(default_factory=dict)
    errors: list[Json] = field(default_factory=list)
    output_file_id: str | None = None
    error_file_id: str | None = None
    counts: dict[str, int] = field(
        default_factory=lambda: {"total": 0, "completed": 0, "failed": 0}
    )

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ENDED

    @property
    def overdue(self) -> bool:
        """Whether the time that a batch may take is over."""
        return time.time() > self.created_at + WINDOW_S

    def enter(self, status: State) -> None:
        """A new state, and when it began (the first time counts)."""
        self.status = status
        self.times.setdefault(f"{status}_at", int(time.time()))

    def blame(self, faults: Sequence[Fault]) -> None:
        """What is wrong with the input, line by line."""
        self.errors = [
            {"code": one.code, "message": one.message, "param": None, "line": one.line}
            for one in faults
        ]

    def card(self) -> Json:
        """As OpenAI says it."""
        times: dict[str, Any] = dict.fromkeys(TIMES) | self.times
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            "expires_at": self.created_at + WINDOW_S,
            **{name: value for name, value in times.items() if name in TIMES},
            "request_counts": self.counts,
            "metadata": self.metadata,
        }

    def save(self, folder: Path) -> None:
        """Writes it whole."""
        write_json(folder / f"{self.id}.json", vars(self))


def new_record(
    account: str, endpoint: str, input_file_id: str, metadata: dict[str, str] | None
) -> BatchRecord:
    """A batch that has just been asked for."""
    now = int(time.time())
    return BatchRecord(
        f"batch_{uuid4().hex}", account, endpoint, input_file_id, now, metadata=metadata
    )


def read_record(path: Path) -> BatchRecord | None:
    """A record that `save` wrote; None if it is none."""
    try:
        return BatchRecord(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
