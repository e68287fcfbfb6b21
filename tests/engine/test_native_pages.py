"""What the native backend promises about pages: exact copies, and no read of a freed one."""

import dataclasses

import numpy as np
import pytest
from test_promise_one import CONFIG, KV_TYPES, WEIGHTS, WINDOWED, compiled

from slipstream.backends.batch import single


def decode(program, kv, token, position, pages):
    batch = dataclasses.replace(
        single(np.array([token])),
        lengths=np.array([position], np.int32),
        pages=np.array([pages], np.int32),
    )
    return program.step(batch, kv)


@pytest.mark.parametrize("kv_dtype", KV_TYPES)
def test_a_copied_page_gives_the_same_bits(kv_dtype):
    program = compiled(CONFIG, WEIGHTS["int4-32"], kv_dtype, threads=1)
    kv = program.new_kv(4)
    ids = np.arange(70) % 97
    program.step(single(ids), kv)  # on pages 0 and 1
    kv.copy_page(0, 3)
    kv.copy_page(1, 2)
    expected = decode(program, kv, 5, 70, [0, 1])
    assert (decode(program, kv, 5, 70, [3, 2]) == expected).all()
    decode(program, kv, 9, 69, [3, 2])  # writes to the copy only
    assert (decode(program, kv, 5, 70, [0, 1]) == expected).all()


def test_pages_out_of_range_are_refused():
    kv = compiled(CONFIG, WEIGHTS["float32"], "float32", threads=1).new_kv(2)
    for source, target in ((-1, 0), (0, 2), (2, 0)):
        with pytest.raises(ValueError, match="0…1"):
            kv.copy_page(source, target)


def test_a_freed_page_is_refused_while_it_is_seen():
    program = compiled(WINDOWED, WEIGHTS["float32"], "float32", threads=1)
    kv = program.new_kv(3)
    program.step(single(np.arange(110) % 97), kv)
    # A window of 40: position 103 is the first that sees nothing of page 0.
    expected = decode(program, kv, 5, 103, [0, 1])
    assert (decode(program, kv, 5, 103, [-1, 1]) == expected).all()
    with pytest.raises(ValueError, match="page numbers"):
        decode(program, kv, 5, 102, [-1, 1])


def test_a_model_that_sees_everything_needs_every_page():
    program = compiled(CONFIG, WEIGHTS["float32"], "float32", threads=1)
    kv = program.new_kv(3)
    program.step(single(np.arange(110) % 97), kv)
    with pytest.raises(ValueError, match="page numbers"):
        decode(program, kv, 5, 109, [-1, 1])
