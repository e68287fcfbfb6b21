"""The tokens that may follow a beam, each with what it adds to the beam's score.

Penalties and biases change how likely a token is, and so the scores: they are log-probabilities
under the changed logits. Constraints (allowed ids, bad words, min tokens, grammars) only forbid: a
beam's score is what it would be without them, as in transformers. `Drawer.draw` calls this.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.engine.sampler import Sampler, TokenLogprob, top_ids

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Rival(TokenLogprob):
    """`score` ranks beams; `logprob` and `top` are the model's own, as in every answer."""

    score: float = 0.0


def rivals_of(
    sampler: Sampler, row: Floats, ranked: Floats, allowed: Floats, *, count: int, top: int
) -> tuple[Rival, ...]:
    """The `count` likeliest tokens that are allowed, the likeliest first; fewer if fewer are.

    All float32 [V]: `row` as the model gave it, `ranked` with penalties and biases, `allowed` with
    -inf at what is forbidden too. Each rival names the `top` likeliest of `row`.
    """
    ids = [int(i) for i in top_ids(allowed, count) if allowed[i] > -np.inf]
    best = int(row.argmax())
    own = sampler.logprobs([row], [best], [top])[0]
    changed = int(ranked.argmax())
    score = own if ranked is row else sampler.logprobs([ranked], [changed], [0])[0]
    return tuple(
        Rival(
            i,
            float(row[i]) - float(row[best]) + own.logprob,  # the highest one's is -log(total)
            own.top,
            float(ranked[i]) - float(ranked[changed]) + score.logprob,
        )
        for i in ids
    )
