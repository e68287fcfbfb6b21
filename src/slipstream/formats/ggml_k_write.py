"""Rounding to GGML's super-blocks of 256: Q4_K, Q5_K and Q6_K, each error weighted by importance.

`compress.gguf_round` calls `round_k`. As in llama.cpp, a group's scale (and minimum) is searched
over several spans by weighted least squares; scales are then rounded to 6 or 8 bits of the
super-block's own, and the codes are chosen for the rounded scales.

Legend: B super-blocks, G groups of one (8 of 32 values, or 16 of 16), N values of a group.
"""

import numpy as np
from numpy.typing import NDArray

from slipstream.formats.ggml_write import Bytes

F32 = NDArray[np.float32]

SUPER = 256
_SPANS = np.linspace(-0.9, 0.9, 13, dtype=np.float32)  # of a code, as llama.cpp's search
_SIGNED_SPANS = np.linspace(-0.9, 0.9, 9, dtype=np.float32)
_PIECE = 1 << 10  # super-blocks at a time: temporaries of 1 MiB


def round_k(weight: F32, importance: F32, type: str) -> Bytes:
    """float32 [O, I], I a multiple of 256; importance [I] > 0 → uint8 [O, bytes of a row]."""
    rows, width = weight.shape
    blocks = weight.reshape(-1, SUPER)
    shares = np.broadcast_to(importance.reshape(-1, SUPER), (rows, width // SUPER, SUPER))
    shares = shares.reshape(-1, SUPER)
    round_piece = _q6_k if type == "Q6_K" else _q4_k if type == "Q4_K" else _q5_k
    pieces = [
        round_piece(blocks[start : start + _PIECE], shares[start : start + _PIECE])
        for start in range(0, len(blocks), _PIECE)
    ]
    return np.concatenate(pieces).reshape(rows, -1)


def _q4_k(blocks: F32, shares: F32) -> Bytes:
    codes, head = _with_minimums(blocks, shares, 15)
    pairs = codes.reshape(len(blocks), 4, 2, 32)
    nibbles = pairs[:, :, 0] | (pairs[:, :, 1] << np.uint8(4))
    return np.hstack([head, nibbles.reshape(len(blocks), -1)])


def _q5_k(blocks: F32, shares: F32) -> Bytes:
    codes, head = _with_minimums(blocks, shares, 31)
    fifth = np.zeros((len(blocks), 32), np.uint8)
    for group in range(8):
        fifth |= (codes[:, group] >> np.uint8(4)) << np.uint8(group)
    pairs = (codes & np.uint8(15)).reshape(len(blocks), 4, 2, 32)
    nibbles = pairs[:, :, 0] | (pairs[:, :, 1] << np.uint8(4))
    return np.hstack([head, fifth, nibbles.reshape(len(blocks), -1)])


def _q6_k(blocks: F32, shares: F32) -> Bytes:
    x = blocks.reshape(-1, 16, 16)
    scale = _signed_scales(x, _importance(x, shares), 32)
    most = np.take_along_axis(scale, np.abs(scale).argmax(axis=1)[:, None], axis=1)
    d = _half(most / np.float32(-128))
    sc = np.clip(np.rint(_divided(scale, d)), -128, 127)
    steps = np.clip(np.rint(_divided(x, (d * sc)[..., None])), -32, 31) + 32
    q: Bytes = steps.astype(np.uint8).reshape(-1, 2, 4, 32)  # halves of four planes of 32
    low = (q[:, :, :2] & np.uint8(15)) | ((q[:, :, 2:] & np.uint8(15)) << np.uint8(4))
    planes = (q >> np.uint8(4)) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    high: Bytes = np.bitwise_or.reduce(planes, axis=2)
    count = len(blocks)
    fields = [low.reshape(count, 128), high.reshape(count, 64), sc.astype(np.int8).view(np.uint8)]
    return np.hstack([*fields, d.astype(np.float16).view(np.uint8)])


def _with_minimums(blocks: F32, shares: F32, top: int) -> tuple[Bytes, Bytes]:
    """Codes uint8 [B, 8, 32] and the 16 bytes at the head of Q4_K and Q5_K."""
    x = blocks.reshape(-1, 8, 32)
    scale, minimum = _scales_and_minimums(x, _importance(x, shares), top)
    d = _half(scale.max(axis=1, keepdims=True) / 63)
    dmin = _half(minimum.max(axis=1, keepdims=True) / 63)
    sc = np.clip(np.rint(_divided(scale, d)), 0, 63)
    m = np.clip(np.rint(_divided(minimum, dmin)), 0, 63)
    codes = _divided(x + (dmin * m)[..., None], (d * sc)[..., None])
    rounded: Bytes = np.clip(np.rint(codes), 0, top).astype(np.uint8)
    halves = np.hstack([d.astype(np.float16), dmin.astype(np.float16)]).view(np.uint8)
    return rounded, np.hstack([halves, _pack_six(sc.astype(np.uint8), m.astype(np.uint8))])


def _pack_six(sc: Bytes, m: Bytes) -> Bytes:
    """8 scales and 8 minimums of 6 bits in 12 bytes; see `ggml_k._scales_and_minimums`."""
    first = sc[:, :4] | ((sc[:, 4:] >> np.uint8(4)) << np.uint8(6))
    second = m[:, :4] | ((m[:, 4:] >> np.uint8(4)) << np.uint8(6))
    third = (sc[:, 4:] & np.uint8(15)) | ((m[:, 4:] & np.uint8(15)) << np.uint8(4))
    return np.hstack([first, second, third])


def _importance(x: F32, shares: F32) -> F32:
    """[B, G, N]: the input's power times √(σ² + w²), as llama.cpp weights its errors."""
    sigma2 = 2 * np.square(x).mean(axis=(1, 2), keepdims=True)
    return np.asarray(shares.reshape(x.shape) * np.sqrt(sigma2 + np.square(x)), np.float32)


def _scales_and_minimums(x: F32, w: F32, top: int) -> tuple[F32, F32]:
    """The scale and the minimum (subtracted, never below 0) of each group, [B, G]."""
    least, most = np.minimum(x.min(axis=-1), 0), x.max(axis=-1)
    best_scale = _divided(most - least, np.float32(top))
    best_minimum = -least
    best = _error(x, w, best_scale, best_minimum, top)
    total, mean_x = w.sum(axis=-1), (w * x).sum(axis=-1)
    for span in _SPANS:
        inverse = _divided(np.float32(top) + span, most - least)[..., None]
        codes = np.clip(np.rint((x - least[..., None]) * inverse), 0, top)
        sum_q, sum_qq = (w * codes).sum(axis=-1), (w * codes * codes).sum(axis=-1)
        sum_qx = (w * codes * x).sum(axis=-1)
        determinant = total * sum_qq - sum_q * sum_q
        scale = _divided(total * sum_qx - mean_x * sum_q, determinant)
        minimum = _divided(sum_qq * mean_x - sum_q * sum_qx, determinant)
        above = minimum > 0
        scale = np.where(above, _divided(sum_qx, sum_qq), scale)
        scale, minimum = np.maximum(scale, 0), -np.where(above, 0, minimum)
        error = _error(x, w, scale, minimum, top)
        better = error < best
        best_scale = np.where(better, scale, best_scale)
        best_minimum = np.where(better, minimum, best_minimum)
        best = np.minimum(error, best)
    return best_scale.astype(np.float32), best_minimum.astype(np.float32)


def _error(x: F32, w: F32, scale: F32, minimum: F32, top: int) -> F32:
    wide, low = scale[..., None], minimum[..., None]
    codes = np.clip(np.rint(_divided(x + low, wide)), 0, top)
    return np.asarray((w * np.square(codes * wide - low - x)).sum(axis=-1), np.float32)


def _signed_scales(x: F32, w: F32, reach: int) -> F32:
    """The scale [B, G] of codes from -reach to reach - 1; the furthest value takes -reach."""
    furthest = np.take_along_axis(x, np.abs(x).argmax(axis=-1)[..., None], axis=-1)
    found = np.zeros(x.shape[:2], np.float32)
    best = np.full(x.shape[:2], -1, np.float32)
    for span in _SIGNED_SPANS:
        codes = np.clip(np.rint(_divided(-(reach + span), furthest) * x), -reach, reach - 1)
        above, below = (w * codes * x).sum(axis=-1), (w * codes * codes).sum(axis=-1)
        gain = _divided(above * above, below)  # what the error loses by this scale
        better = gain > best
        found = np.where(better, _divided(above, below), found)
        best = np.maximum(gain, best)
    return found


def _half(values: F32) -> F32:
    """Rounded to float16, never to infinity, and back."""
    most = np.finfo(np.float16).max
    return np.clip(values, -most, most).astype(np.float16).astype(np.float32)


def _divided(above: F32 | np.float32, below: F32 | np.float32) -> F32:
    above, below = np.broadcast_arrays(above, below)
    result = np.zeros(above.shape, np.float32)
    return np.divide(above, below, out=result, where=below != 0)
