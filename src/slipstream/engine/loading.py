"""From a model to a program: picks the backend that the settings name. `Engine.open` calls it.

Backends are imported when chosen: the native one needs its extension module, and each costs time
at start-up that the other should not pay.
"""

from slipstream.backends.batch import Program
from slipstream.engine.options import Settings
from slipstream.models.model import Model


def compile_program(model: Model, settings: Settings) -> Program:
    """The model's graph made runnable. MachineError when the native module was not built."""
    if settings.backend == "reference":
        from slipstream.backends.reference import compile_reference  # noqa: PLC0415

        reference = compile_reference(model.graph, model.weights, kv_dtype=settings.kv_dtype)
        return reference
    from slipstream.backends.native import NativeOptions, compile_native  # noqa: PLC0415

    options = NativeOptions(
        threads=settings.threads,
        activations=settings.activations,
        kv_dtype=settings.kv_dtype,
        keep_packed=settings.keep_packed,
    )
    identity = model.quick_identity() if settings.keep_packed else None
    program = compile_native(
        model.graph, model.weights, options, settings=model.activations, identity=identity
    )
    model.checkpoint.release()  # the packed weights stand in for what was read
    return program
