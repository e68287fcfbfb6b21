"""Every architecture on the native backend: the reference's logits, up to float32 rounding."""

import numpy as np
import pytest

from slipstream.backends.batch import single
from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.errors import MachineError

try:
    native_module()
except MachineError:
    pytest.skip("the native kernels were not built", allow_module_level=True)

OPTIONS = NativeOptions(threads=2, activations="f32", kv_dtype="float32")


def test_native_logits_equal_the_references(tiny):
    native = compile_native(tiny.blueprint.graph, tiny.weights, OPTIONS)
    for ids in tiny.prompts:
        batch = single(ids, all_logits=True)
        expected = tiny.program().step(batch, tiny.program().new_kv(2))
        logits = native.step(batch, native.new_kv(2))
        assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
