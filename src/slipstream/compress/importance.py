"""The mean square of every linear's input over a text: what errors are weighted by in GGUF's types.

The diagonal alone is kept, so that a large model needs little memory; `cli.export_gguf` calls this.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import PAGE_SIZE, Program, single
from slipstream.compress.inputs import InputGroup
from slipstream.errors import NumericError

F32 = NDArray[np.float32]


def measure_importance(
    program: Program, chunks: NDArray[np.int32], groups: Sequence[InputGroup]
) -> dict[str, F32]:
    """Runs int32 [C, T] chunks; mean x² [I] of each weight's input, by the graph's names.

    NumericError names a weight whose inputs are not finite.
    """
    sums = {group.key: np.zeros(group.width, np.float64) for group in groups}
    kv = program.new_kv(-(-chunks.shape[1] // PAGE_SIZE))
    for chunk in chunks:
        found = program.capture(single(chunk, all_logits=True), kv, tuple(sums))
        for key, x in found.items():
            sums[key] += np.square(np.asarray(x, np.float64)).mean(axis=0) / len(chunks)
    for key, total in sums.items():
        if not np.isfinite(total).all():
            raise NumericError(f"{key}: its calibration inputs are not finite")
    return {
        weight: sums[group.key].astype(np.float32) for group in groups for weight in group.weights
    }
