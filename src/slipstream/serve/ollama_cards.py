"""What Ollama's API tells about models: ``/api/tags`` and ``/api/show``."""

from collections.abc import Iterable
from datetime import UTC, datetime

from slipstream.serve.replies import Json
from slipstream.serve.served import Served


def tags(models: Iterable[Served]) -> Json:
    """Every model that takes requests."""
    return {
        "models": [
            {
                "name": served.label,
                "model": served.label,
                "modified_at": _time(served),
                "digest": served.content,
                "details": _details(served),
            }
            for served in models
        ]
    }


def shown(served: Served) -> Json:
    """One model."""
    graph = served.engine.program.graph
    return {
        "modified_at": _time(served),
        "template": served.dialect.template,
        "details": _details(served),
        "model_info": {
            "general.architecture": graph.architecture,
            f"{graph.architecture}.context_length": served.engine.settings.context,
            f"{graph.architecture}.vocab_size": graph.vocabulary,
        },
        "capabilities": _capabilities(served),
    }


def _capabilities(served: Served) -> list[str]:
    """In Ollama's words."""
    dialect = served.dialect
    tools = ["tools"] if dialect.tools is not None and dialect.template else []
    return ["completion", "embedding", *tools, *(["thinking"] if dialect.reasons else [])]


def _details(served: Served) -> Json:
    family = served.engine.program.graph.architecture
    return {"format": "slipstream", "family": family, "families": [family]}


def _time(served: Served) -> str:
    return datetime.fromtimestamp(served.created, UTC).isoformat().replace("+00:00", "Z")
