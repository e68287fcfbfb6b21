"""What a student is trained to make small: distances between distributions, rows and relations.

Functions on tensors with the papers' symbols; `distillation` puts them together. P is the
teacher's distribution, Q the student's, as log-probabilities [L, V]. Each is checked against its
formula in the tests.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

Divergence = Literal["forward", "reverse", "jensen_shannon"]


def log_softmax(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """log softmax(z / T) in float32, whatever the logits were computed in."""
    return torch.log_softmax(logits.float() / temperature, dim=-1)


def kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(P ‖ Q) of each row, [L], in nats. Outcomes with p = 0 add nothing."""
    never = log_p.isneginf()
    ratio = log_p.masked_fill(never, 0) - log_q.masked_fill(never, 0)  # no 0 · ∞, in gradients too
    return (log_p.exp() * ratio).sum(dim=-1)


def divergence(
    log_p: torch.Tensor, log_q: torch.Tensor, kind: Divergence, beta: float = 0.5
) -> torch.Tensor:
    """Of each row, [L]: KL(P ‖ Q), KL(Q ‖ P), or β KL(P ‖ M) + (1 - β) KL(Q ‖ M).

    M = β P + (1 - β) Q; with β = ½ that is the Jensen-Shannon divergence, at most ln 2 (Agarwal et
    al. 2023, https://arxiv.org/abs/2306.13649).
    """
    if kind == "forward":
        return kl(log_p, log_q)
    if kind == "reverse":
        return kl(log_q, log_p)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    return beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)


@dataclass(frozen=True)
class Sparse:
    """The k likeliest tokens of each row: ids [L, k], log-probabilities [L, k], and that of all
    other tokens together, [L].
    """

    ids: torch.Tensor
    logs: torch.Tensor
    rest: torch.Tensor


def sparse_pair(teacher: Sparse, log_q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log P and log Q over k + 1 outcomes, [L, k + 1]: the teacher's tokens, and any other.

    A divergence over them is at most that over all tokens, and equal to it where the two agree on
    how the rest is shared out.
    """
    log_p = torch.cat([teacher.logs, teacher.rest[:, None]], dim=-1)
    others = log_q.scatter(-1, teacher.ids, -math.inf).logsumexp(dim=-1, keepdim=True)
    return log_p, torch.cat([log_q.gather(-1, teacher.ids), others], dim=-1)


def cross_entropy(log_q: torch.Tensor, next_ids: torch.Tensor) -> torch.Tensor:
    """-log q(next token) of each row, [L]."""
    return -log_q.gather(-1, next_ids[:, None])[:, 0]


def hidden_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """‖h' - h‖² / ‖h‖² over all rows [R, W]: of projected rows of the student to the teacher's."""
    return ((student.float() - teacher) ** 2).sum() / (teacher**2).sum()


def relation_distance(
    student: torch.Tensor,
    teacher: torch.Tensor,
    starts: NDArray[np.int32],
    heads: int,
) -> torch.Tensor:
    """Mean KL between the self-relations of the teacher's rows and of the student's.

    MiniLMv2, Wang et al. 2020, https://arxiv.org/abs/2012.15828: rows [R, ·] (queries, keys or
    values) are cut into `heads` pieces of d; a relation is softmax(X Xᵀ / √d), each row over the
    positions of its own sequence up to its own. Widths may differ, the pieces' number may not.
    """
    total, rows = student.new_zeros(()), 0
    for start, end in pairwise(starts):
        pair = [relations(x[start:end], heads) for x in (teacher, student)]
        total = total + kl(*pair).sum() / heads
        rows += int(end - start)
    return total / rows


def relations(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of one sequence [T, heads · d] → log softmax(X Xᵀ / √d), causal, [heads, T, T]."""
    pieces = x.float().reshape(len(x), heads, -1).transpose(0, 1)
    scores = pieces @ pieces.transpose(1, 2) / math.sqrt(pieces.shape[-1])
    after = torch.ones(scores.shape[1:], dtype=torch.bool, device=x.device).triu(1)
    logs: torch.Tensor = scores.masked_fill(after, -math.inf).log_softmax(dim=-1)
    return logs
