"""Slipstream: large language models as fast as this machine allows, with the proof.

>>> from slipstream import Engine, SamplingParams
>>> engine = Engine.open("smollm2:135m")
>>> engine.generate(["Once upon a time"], SamplingParams(max_tokens=32))[0].text

The public names below are loaded when first used: importing the package costs almost nothing.
"""

from importlib import import_module

TYPE_CHECKING = False  # true for type checkers; importing `typing` for it would cost more
if TYPE_CHECKING:
    from slipstream.engine.answer import Completion, Delta
    from slipstream.engine.engine import Engine
    from slipstream.engine.options import EngineOptions
    from slipstream.engine.request import SamplingParams
    from slipstream.errors import SlipstreamError
    from slipstream.models.load import load
    from slipstream.models.model import Model

__version__ = "0.1.0"

__all__ = [
    "Completion",
    "Delta",
    "Engine",
    "EngineOptions",
    "Model",
    "SamplingParams",
    "SlipstreamError",
    "__version__",
    "load",
]

_HOMES = {
    "Completion": "slipstream.engine.answer",
    "Delta": "slipstream.engine.answer",
    "Engine": "slipstream.engine.engine",
    "EngineOptions": "slipstream.engine.options",
    "Model": "slipstream.models.model",
    "SamplingParams": "slipstream.engine.request",
    "SlipstreamError": "slipstream.errors",
    "load": "slipstream.models.load",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'slipstream' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
