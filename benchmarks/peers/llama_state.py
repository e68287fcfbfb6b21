"""A context of llama.cpp made longer without computing it: what was saved of a short one, repeated.

`worker_llama_cpp.py` saves a sequence of some hundred positions with `llama_state_seq_get_data` and
gives back what this makes of it: attention over 8,000 positions costs the same whatever they hold,
and a prompt of that length would take minutes. The layout is that of the pinned version
(llama-kv-cache.cpp, `state_write`); anything else is refused with ValueError.

    u32 magic, i32 sequence, u32 streams = 1, u32 cells
    cells × (i32 position, u32 sequences = 1, i32 sequence)
    u32 transposed, u32 layers
    layers × (i32 type, u64 bytes of a row, rows [cells][bytes])              keys
    layers × the same                                                         values; transposed:
    layers × (i32 type, u32 bytes of an element, u32 width, [width][cells] elements)
"""

import struct

import numpy as np
from numpy.typing import NDArray


class _Reader:
    def __init__(self, state: bytes) -> None:
        self.state, self.at = state, 0

    def take(self, layout: str) -> tuple[int, ...]:
        values = struct.unpack_from("<" + layout, self.state, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def array(self, rows: int, width: int) -> NDArray[np.uint8]:
        flat = np.frombuffer(self.state, np.uint8, rows * width, self.at)
        self.at += rows * width
        return flat.reshape(rows, width)


def stretched(state: bytes, count: int) -> bytes:
    """The state of `count` positions, whose keys and values are those of `state` over and over."""
    reader = _Reader(state)
    magic, sequence, streams, cells = reader.take("IiII")
    if streams != 1 or not 0 < cells <= count:
        raise ValueError(f"{streams} streams of {cells} cells cannot become {count} cells")
    for position in range(cells):
        if reader.take("iIi") != (position, 1, sequence):
            raise ValueError("the cells of this state are laid out in another way")
    transposed, layers = reader.take("II")
    source = np.arange(count) % cells
    parts = [struct.pack("<IiII", magic, sequence, 1, count)]
    parts += [struct.pack("<iIi", position, 1, sequence) for position in range(count)]
    parts.append(struct.pack("<II", transposed, layers))
    parts += [_rows(reader, cells, source) for _ in range(layers)]
    last = _columns if transposed else _rows
    parts += [last(reader, cells, source) for _ in range(layers)]
    if reader.at != len(state):
        raise ValueError(f"{len(state) - reader.at} bytes of this state were not understood")
    return b"".join(parts)


def _rows(reader: _Reader, cells: int, source: NDArray[np.int64]) -> bytes:
    kind, size = reader.take("iQ")
    return struct.pack("<iQ", kind, size) + reader.array(cells, size)[source].tobytes()


def _columns(reader: _Reader, cells: int, source: NDArray[np.int64]) -> bytes:
    kind, size, width = reader.take("iII")
    values = reader.array(width, cells * size).reshape(width, cells, size)
    return struct.pack("<iII", kind, size, width) + values[:, source].tobytes()
