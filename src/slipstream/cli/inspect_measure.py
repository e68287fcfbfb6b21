"""The measured column of `slipstream inspect --measure`: seconds of every native node.

Apart from `inspect.py`, which says what a model costs without compiling it.
"""

from statistics import median

import numpy as np

from slipstream.backends.batch import PAGE_SIZE, Batch
from slipstream.backends.native import compile_native
from slipstream.models.model import Model


def measure_nodes(model: Model, rows: int, context: int, repeats: int = 9) -> dict[str, float]:
    """Median seconds of each node for one sequence of `rows` new rows behind `context`.

    What the cache holds does not change the time, so it is left as it was made.
    """
    wishes = model.activations
    program = compile_native(model.graph, model.weights, settings=wishes)
    pages = -(-(context + rows) // PAGE_SIZE)
    kv = program.new_kv(pages)
    batch = step_batch(rows, context, model.graph.vocabulary)
    program.step(batch, kv)
    times = [program.step_timed(batch, kv)[1] for _ in range(repeats)]
    return {name: median(sample[name] for sample in times) for name in times[0]}


def step_batch(rows: int, context: int, vocabulary: int) -> Batch:
    """One sequence: `rows` tokens behind `context` positions, logits of the last."""
    ids = np.random.default_rng(0).integers(vocabulary, size=rows, dtype=np.int32)
    pages = -(-(context + rows) // PAGE_SIZE)
    return Batch(
        ids=ids,
        row_starts=np.array([0, rows], np.int32),
        lengths=np.array([context], np.int32),
        pages=np.arange(pages, dtype=np.int32)[None, :],
        logit_rows=np.array([rows - 1], np.int32),
    )
