"""A verb's command line, read without what only unusual values need.

Typer checks every option with a pydantic adapter, given or not: 65 ms of processor time before a
verb begins, and 30 for pydantic itself. `main` makes commands of this class: a value that plainly
fits is taken as it stands, and anything else goes to typer, whose errors users see.
"""

import re
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

from typer.core import TyperCommand

INTEGER = re.compile(r"-?[0-9]{1,15}")
Process = Callable[[Any, Any], Any]
DOUBT = object()


class LeanCommand(TyperCommand):
    """A command whose parameters take what plainly fits."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        for parameter in self.params:
            if hasattr(parameter, "type_descriptor"):  # --help and its like have none
                vars(parameter)["process_value"] = _lean(parameter, parameter.process_value)


def _lean(parameter: Any, process: Process) -> Process:
    described = parameter.type_descriptor
    info = described.parameter_info
    many = getattr(parameter, "multiple", False) or parameter.nargs != 1
    unusual = info.parser or info.clamp or parameter.callback

    def read(context: Any, value: Any) -> Any:
        if many and value is None and not parameter.required:
            return ()
        if not (many or unusual):
            fitting = fitted(value, described.annotation, info.min, info.max)
            if fitting is not DOUBT and not (parameter.required and fitting is None):
                return fitting
        return process(context, value)

    return read


def fitted(value: Any, annotation: Any, least: float | None, most: float | None) -> Any:
    """`value` as `annotation` wants it, or DOUBT.

    >>> fitted("12", int, 0, None)
    12
    """
    if value is None:
        return None
    if get_origin(annotation) is Literal:
        return value if value in get_args(annotation) else DOUBT
    if annotation is int and isinstance(value, str) and INTEGER.fullmatch(value):
        value = int(value)
    if annotation in (int, float) and type(value) in (int, annotation):
        inside = (least is None or value >= least) and (most is None or value <= most)
        return annotation(value) if inside else DOUBT
    return value if annotation in (str, bool) and type(value) is annotation else DOUBT
