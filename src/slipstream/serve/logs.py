"""Logs to stderr: warnings as lines, or every request as a JSON object. `run.run_server` sets up.

The text of prompts is not logged, unless the operator asks for it with ``--log-prompts``.
"""

import json
import logging
import sys
import time
from typing import Any

from slipstream.serve.caller import Caller

prompt_log = logging.getLogger("slipstream.prompts")


def set_up_logging(as_json: bool) -> None:
    """Warnings as lines, or (`as_json`) every request as well, one JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if as_json else logging.Formatter("%(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=logging.INFO if as_json else logging.WARNING, handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # we log requests ourselves
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # hostile bytes are no event
    prompt_log.setLevel(logging.INFO)


def log_prompt(caller: Caller, prompt: str) -> None:
    """The text of a prompt as the model reads it, for an operator who has asked for it."""
    fields = {"request_id": caller.request_id, "account": caller.account, "prompt": prompt}
    prompt_log.info("prompt", extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
