"""Noise that depends on (seed, index, token id) alone: nothing is drawn in sequence, or kept.

The sampler adds it to scores. Every number is a hash of its coordinates, so any id's noise can be
computed by itself, in any order, alone or with others. The native sampler has the same bits.

A Gumbel variable is -log(E) of an exponential one, E = -log(u). Over blocks of ids the noise is
built from the top, which is what makes drawing from a whole vocabulary cheap: the highest noise of
a block is known before any other number in it.

    peak     of 64 exponential variables the lowest is an exponential one / 64
    winner   which id of the block has it: each equally likely
    others   exponential variables beyond the lowest: E_lowest + E, since they forget

Together -log of these are 64 independent Gumbel variables, exactly (Maddison et al., 2014, "A*
Sampling").
"""

import numpy as np
from numpy.typing import NDArray

from slipstream.engine.exact import log

Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]
Bits = NDArray[np.uint64]

BLOCK = 64  # ids whose highest noise is known at once

# SplitMix64 (Steele et al., 2014): a step along the stream, and a mixer of 64 bits.
STEP = 0x9E3779B97F4A7C15
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
MASK = 2**64 - 1


def noise_keys(seed: int, index: int) -> tuple[int, int, int]:
    """The keys of the ids, of the blocks' peaks, and of their winners."""
    stream = _mixed_int(_mixed_int(seed) + index * STEP)
    ids, peaks, winners = (_mixed_int(stream + n * STEP) for n in (1, 2, 3))
    return ids, peaks, winners


class Noise:
    """The Gumbel noise of token `index` of the request with `seed`."""

    def __init__(self, seed: int, index: int) -> None:
        self._ids, self._peaks, self._winners = noise_keys(seed, index)

    def of(self, ids: Ids) -> Doubles:
        """float64 [C]: the noise of each id."""
        blocks = ids // BLOCK
        lowest = self._lowest(blocks)
        peaks = -log(lowest)
        winners = _hashed(self._winners, blocks) % np.uint64(BLOCK)
        others = -log(lowest + exponential(_hashed(self._ids, ids)))
        wins = winners == (ids % BLOCK).astype(np.uint64)
        noise: Doubles = np.where(wins, peaks, np.minimum(others, peaks))
        return noise

    def peaks(self, blocks: Ids) -> Doubles:
        """float64 [B]: the highest noise of each block of BLOCK ids."""
        return -log(self._lowest(blocks))

    def _lowest(self, blocks: Ids) -> Doubles:
        return exponential(_hashed(self._peaks, blocks)) * (1.0 / BLOCK)


def exponential(bits: Bits) -> Doubles:
    """Exponential variables from raw bits: -log(u), u strictly between 0 and 1."""
    uniform = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52  # exact
    return -log(uniform)


def choice_seed(seed: int, choice: int) -> int:
    """The seed of choice `choice` of a request with several; choice 0 keeps the request's own."""
    return seed if choice == 0 else _mixed_int(_mixed_int(seed) ^ _mixed_int(choice * STEP))


def _hashed(key: int, numbers: Ids) -> Bits:
    bits = numbers.astype(np.uint64) * np.uint64(STEP) + np.uint64(key)
    bits = (bits ^ (bits >> np.uint64(30))) * MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * MIX_2
    return bits ^ (bits >> np.uint64(31))


def _mixed_int(number: int) -> int:
    bits = number & MASK
    bits = (bits ^ (bits >> 30)) * int(MIX_1) & MASK
    bits = (bits ^ (bits >> 27)) * int(MIX_2) & MASK
    return bits ^ (bits >> 31)
