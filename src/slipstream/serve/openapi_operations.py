"""Which route takes and answers what: the table behind the API document.

A route that is not listed is described by its path and its errors alone.
"""

from dataclasses import dataclass

from pydantic import BaseModel

from slipstream.serve import openapi_shapes as shapes
from slipstream.serve import openapi_shapes_more as more
from slipstream.serve.ollama_request import OllamaChatRequest, OllamaGenerateRequest, ShowRequest
from slipstream.serve.openai_chat import ChatRequest
from slipstream.serve.openai_completion import CompletionRequest
from slipstream.serve.openai_embeddings import EmbeddingsRequest
from slipstream.serve.openai_tokenize import DetokenizeRequest, TokenizeRequest
from slipstream.serve.responses_request import ResponsesRequest
from slipstream.serve.routes import admin, batches

EVENTS, LINES = "text/event-stream", "application/x-ndjson"

Model = type[BaseModel]


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    stream  the media type of an answer that is streamed
    error   the shape of refusals
    """

    summary: str
    asked: Model | None = None
    answer: Model | None = None
    stream: str | None = None
    error: Model = shapes.Error


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/chat/completions"): Operation(
        "The next message of a chat", ChatRequest, shapes.ChatCompletion, EVENTS
    ),
    ("POST", "/v1/completions"): Operation(
        "The text that follows a prompt", CompletionRequest, shapes.TextCompletion, EVENTS
    ),
    ("POST", "/v1/responses"): Operation(
        "A response, which may continue an earlier one",
        ResponsesRequest,
        more.ResponseObject,
        EVENTS,
    ),
    ("GET", "/v1/responses/{response}"): Operation("A response", None, more.ResponseObject),
    ("DELETE", "/v1/responses/{response}"): Operation(
        "Forget a response", None, more.ResponseDeleted
    ),
    ("GET", "/v1/responses/{response}/input_items"): Operation(
        "What a response was asked", None, more.InputItems
    ),
    ("POST", "/v1/embeddings"): Operation(
        "A vector for each text", EmbeddingsRequest, shapes.Embeddings
    ),
    ("GET", "/v1/models"): Operation("All models", None, shapes.ModelList),
    ("GET", "/v1/models/{model}"): Operation("One model", None, shapes.ModelCard),
    ("POST", "/tokenize"): Operation("A text's token ids", TokenizeRequest, shapes.Tokens),
    ("POST", "/detokenize"): Operation(
        "The text of token ids", DetokenizeRequest, shapes.Detokenized
    ),
    ("POST", "/api/chat"): Operation(
        "Ollama's chat", OllamaChatRequest, more.OllamaChatAnswer, LINES, more.OllamaError
    ),
    ("POST", "/api/generate"): Operation(
        "Ollama's completion",
        OllamaGenerateRequest,
        more.OllamaTextAnswer,
        LINES,
        more.OllamaError,
    ),
    ("GET", "/api/tags"): Operation(
        "Ollama's list of models", None, more.OllamaModels, None, more.OllamaError
    ),
    ("POST", "/api/show"): Operation(
        "One model, as Ollama tells it", ShowRequest, more.OllamaModel, None, more.OllamaError
    ),
    ("GET", "/api/version"): Operation(
        "The server's version", None, more.Version, None, more.OllamaError
    ),
    ("POST", "/v1/files"): Operation("Upload a file of requests (multipart: file, purpose)"),
    ("GET", "/v1/files"): Operation("All files"),
    ("GET", "/v1/files/{file}"): Operation("A file's card"),
    ("DELETE", "/v1/files/{file}"): Operation("Delete a file"),
    ("GET", "/v1/files/{file}/content"): Operation("What is in a file"),
    ("POST", "/v1/batches"): Operation("Answer all requests of a file", batches.NewBatch),
    ("GET", "/v1/batches"): Operation("All batches"),
    ("GET", "/v1/batches/{batch}"): Operation("How far a batch is"),
    ("POST", "/v1/batches/{batch}/cancel"): Operation("Stop a batch"),
    ("GET", "/health"): Operation("Whether the process works"),
    ("GET", "/ready"): Operation("Whether to send requests here"),
    ("GET", "/metrics"): Operation("Prometheus' metrics"),
    ("GET", "/state"): Operation("Queue, pages and tokens of each model"),
    ("GET", "/openapi.json"): Operation("This document"),
    ("GET", "/admin/models"): Operation("Every version, whatever its state"),
    ("POST", "/admin/models/load"): Operation("Load a model or a version", admin.Load),
    ("POST", "/admin/models/unload"): Operation("Take a version down", admin.Unload),
    ("POST", "/admin/models/default"): Operation("Choose a model's default", admin.Default),
    ("POST", "/admin/models/canary"): Operation("Try a version on a share", admin.CanaryOf),
    ("POST", "/admin/adapters/load"): Operation("Load a LoRA adapter", admin.LoadAdapter),
    ("POST", "/admin/adapters/unload"): Operation("Take an adapter down", admin.UnloadAdapter),
}
UNLISTED = Operation("")
