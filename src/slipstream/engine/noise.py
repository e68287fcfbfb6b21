"""Noise that depends on (seed, index, token id) alone: nothing is drawn in sequence, or kept.

The sampler adds it to scores. Every number is a hash of its coordinates, so any id's noise can be
computed by itself, in any order, alone or with others.

Over blocks of ids the noise is built from the top, which is what makes drawing from a whole
vocabulary cheap: the highest noise of a block is known before any other number in it.

    peak     the maximum of 64 Gumbel variables is a Gumbel variable plus log 64
    winner   which id of the block has it: each equally likely
    others   Gumbel variables truncated at the peak: -log(exp(-peak) + exp(-g))

Together these are 64 independent Gumbel variables, exactly (Maddison et al., 2014, "A* Sampling").
"""

import math

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]
Bits = NDArray[np.uint64]

BLOCK = 64  # ids whose highest noise is known at once
LOG_BLOCK = math.log(BLOCK)

# SplitMix64 (Steele et al., 2014): a step along the stream, and a mixer of 64 bits.
STEP = 0x9E3779B97F4A7C15
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
MASK = 2**64 - 1


class Noise:
    """The Gumbel noise of token `index` of the request with `seed`."""

    def __init__(self, seed: int, index: int) -> None:
        stream = _mixed_int(_mixed_int(seed) + index * STEP)
        self._ids, self._peaks, self._winners = (_mixed_int(stream + n * STEP) for n in (1, 2, 3))

    def of(self, ids: Ids) -> Doubles:
        """float64 [C]: the noise of each id."""
        blocks = ids // BLOCK
        peaks = self.peaks(blocks)
        winners = _hashed(self._winners, blocks) % np.uint64(BLOCK)
        others = -np.log(np.exp(-peaks) + np.exp(-gumbel(_hashed(self._ids, ids))))
        wins = winners == (ids % BLOCK).astype(np.uint64)
        noise: Doubles = np.where(wins, peaks, np.minimum(others, peaks))
        return noise

    def peaks(self, blocks: Ids) -> Doubles:
        """float64 [B]: the highest noise of each block of BLOCK ids."""
        return gumbel(_hashed(self._peaks, blocks)) + LOG_BLOCK


def gumbel(bits: Bits) -> Doubles:
    """Gumbel variables from raw bits: -log(-log(u)), u strictly between 0 and 1."""
    uniform = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52  # exact
    values: Doubles = -np.log(-np.log(uniform))
    return values


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
