"""Every error that Slipstream raises at a user, as one tree.

Each says in its message what is wrong and what to do next. `assert` is for ourselves; these are
for the person at the keyboard or behind the HTTP client. The command line prints the message
without a traceback and exits with `exit_code`; the server answers with `http_status`.

    SlipstreamError
    ├── FileFormatError          a file is not what it claims to be
    │   ├── GGUFError
    │   ├── SafetensorsError
    │   ├── ArtifactError
    │   ├── AdapterError
    │   └── BatchFileError
    ├── SourceError              a model could not be found or fetched
    ├── UnsupportedError         understood, but not served here
    ├── TemplateError            a chat template cannot be rendered
    ├── RequestError             a request that cannot be answered as it stands
    │   ├── PromptTooLongError
    │   ├── DeadEndError         its constraints leave no token to go on with
    │   ├── OverloadedError      the queue is full: try again later
    │   └── UnavailableError     the server is stopping
    ├── EngineError              a step failed; the requests in it are lost, the engine goes on
    ├── NumericError             numbers ceased to be finite, or a matrix cannot be factored
    ├── LimitsNotMetError        `optimize` found nothing within the limits
    └── MachineError             this machine lacks what was asked of it
"""

from collections.abc import Sequence
from typing import Any


class SlipstreamError(Exception):
    """The root: catch this to catch everything Slipstream raises on purpose."""

    exit_code = 1
    http_status = 500


class FileFormatError(SlipstreamError, ValueError):
    """A file is damaged, hostile, or not of the format that it claims."""


class GGUFError(FileFormatError):
    """A GGUF file that cannot be read."""


class SafetensorsError(FileFormatError):
    """A safetensors file, or a set of shards, that cannot be read."""


class ArtifactError(FileFormatError):
    """An artifact whose manifest or hashes do not agree with its files."""


class AdapterError(FileFormatError):
    """A LoRA adapter whose files do not make sense, or do not fit the model."""


class BatchFileError(FileFormatError):
    """A batch file that cannot be run; `faults` says what is wrong with which line."""

    http_status = 400

    def __init__(self, message: str, faults: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class SourceError(SlipstreamError):
    """A model that could not be found, fetched or verified."""


class UnsupportedError(SlipstreamError, ValueError):
    """An architecture, format or option that is known but not supported here."""

    http_status = 400


class TemplateError(SlipstreamError, ValueError):
    """A chat template that fails, or messages that it refuses."""

    http_status = 400


class RequestError(SlipstreamError, ValueError):
    """A request that cannot be answered as it stands."""

    http_status = 400


class PromptTooLongError(RequestError):
    """A prompt that leaves no room for an answer within the context."""


class DeadEndError(RequestError):
    """An answer whose constraints leave no token that it could go on with."""


class OverloadedError(RequestError):
    """The queue is full: the client should try again later, after about `retry_after_s`."""

    http_status = 429
    retry_after_s: float = 1.0


class NumericError(SlipstreamError, ArithmeticError):
    """Logits that are not finite, or a matrix that cannot be factored; the layer is named."""


class UnavailableError(RequestError):
    """The server is stopping and takes no new requests."""

    http_status = 503


class EngineError(SlipstreamError):
    """A step of the engine failed: those waiting for it are told, the engine goes on."""


class LimitsNotMetError(SlipstreamError):
    """No candidate meets the limits; nothing was written."""

    exit_code = 3


class MachineError(SlipstreamError):
    """This machine lacks an instruction set, a device or memory that was asked for."""
