"""A student that learns from a teacher: the parts of its loss, weighted and added.

loss = T² · divergence(teacher, student) + labels · cross entropy
     + hidden · distance of projected rows + relations · distance of attention relations
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import gcd

import numpy as np
import torch

from slipstream.compress.corpus import Corpus, Portion
from slipstream.compress.training import losses
from slipstream.compress.training.losses import Divergence
from slipstream.compress.training.network import Network, Trace, Wanted
from slipstream.compress.training.parameters import Parameters
from slipstream.compress.training.teacher import Kept, Teacher
from slipstream.errors import UnsupportedError


@dataclass(frozen=True)
class Mixture:
    """The weights of the parts; 0 leaves a part out."""

    divergence: Divergence = "forward"
    temperature: float = 1.0
    beta: float = 0.5
    soft: float = 1.0
    labels: float = 0.0
    hidden: float = 0.0
    relations: float = 0.0


@dataclass(frozen=True)
class Pairs:
    """Which layers are compared: (student's, teacher's)."""

    hidden: tuple[tuple[int, int], ...] = ()
    relations: tuple[tuple[int, int], ...] = ()

    def wanted(self, side: int) -> Wanted:
        """Of the student (0) or the teacher (1)."""
        return Wanted(
            frozenset(pair[side] for pair in self.hidden),
            frozenset(pair[side] for pair in self.relations),
        )


def even_pairs(student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """Every student layer with the teacher's at the same share of the depth; the last with the
    last.
    """
    return tuple((s, (s + 1) * teacher // student - 1) for s in range(student))


@dataclass
class Distillation:
    """The task; see `loop.Task`. Without a teacher, `kept` has what it said of each portion."""

    student: Network
    parameters: Parameters
    teacher: Teacher | None
    train: Corpus
    held_out: Corpus | None
    mixture: Mixture
    seed: int
    pairs: Pairs = field(default_factory=Pairs)
    projections: dict[int, torch.nn.Parameter] = field(default_factory=dict)
    kept: Kept | None = None
    kept_held_out: Kept | None = None
    remembered: dict[int, torch.Tensor] = field(default_factory=dict)  # of held-out portions

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """The student's, and the projections that are thrown away afterwards."""
        named = {f"projection.{layer}": value for layer, value in self.projections.items()}
        return {**self.parameters.trained(), **named}

    def loss(self, position: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Mean over the portion's scored rows."""
        number = self.train.at(position, self.seed)
        portion = self.train.portions[number]
        student = self.student.run(portion, self.pairs.wanted(0))
        teacher = None
        if self.teacher is not None:
            teacher = self.teacher.trace(portion, self.pairs.wanted(1))
        parts = dict(self._parts(student, teacher, portion, number))
        total = torch.stack([weight * value for weight, value in parts.values()]).sum()
        return total, {name: float(value.detach()) for name, (_, value) in parts.items()}

    def _parts(
        self, student: Trace, teacher: Trace | None, portion: Portion, number: int
    ) -> dict[str, tuple[float, torch.Tensor]]:
        """By name: weight and value."""
        mixture, found = self.mixture, {}
        if mixture.soft:
            soft = self._soft(student.logits, teacher, number).mean()
            found["soft"] = (mixture.soft * mixture.temperature**2, soft)
        if mixture.labels:
            ids = torch.from_numpy(portion.next_ids.astype(np.int64)).to(student.logits.device)
            logs = losses.log_softmax(student.logits)
            found["labels"] = (mixture.labels, losses.cross_entropy(logs, ids).mean())
        if mixture.hidden:
            assert teacher is not None
            found["hidden"] = (mixture.hidden, self._hidden(student, teacher))
        if mixture.relations:
            assert teacher is not None
            found["relations"] = (mixture.relations, self._relations(student, teacher, portion))
        return found

    def _soft(self, logits: torch.Tensor, teacher: Trace | None, number: int) -> torch.Tensor:
        mixture = self.mixture
        log_q = losses.log_softmax(logits, mixture.temperature)
        if self.kept is not None:
            log_p, log_q = losses.sparse_pair(self.kept.read(number), log_q)
        else:
            assert teacher is not None
            log_p = losses.log_softmax(teacher.logits, mixture.temperature)
        return losses.divergence(log_p, log_q, mixture.divergence, mixture.beta)

    def _hidden(self, student: Trace, teacher: Trace) -> torch.Tensor:
        distances = [
            losses.hidden_distance(student.hidden[s] @ self.projections[s].T, teacher.hidden[t])
            for s, t in self.pairs.hidden
        ]
        return torch.stack(distances).mean()

    def _relations(self, student: Trace, teacher: Trace, portion: Portion) -> torch.Tensor:
        found: list[torch.Tensor] = []
        for s, t in self.pairs.relations:
            for mine, theirs in zip(student.relations[s], teacher.relations[t], strict=True):
                heads = gcd(mine.shape[1], theirs.shape[1], RELATION_HEADS)
                found.append(losses.relation_distance(mine, theirs, portion.starts, heads))
        return torch.stack(found).mean()

    def measure(self) -> dict[str, float]:
        """Mean KL(teacher ‖ student) and negative log-likelihood on the held-out portions."""
        if self.held_out is None:
            return {}
        divergence, likelihood, rows = 0.0, 0.0, 0
        for number, portion in enumerate(self.held_out.portions):
            log_q = losses.log_softmax(self.student.run(portion).logits)
            ids = torch.from_numpy(portion.next_ids.astype(np.int64)).to(log_q.device)
            likelihood += float(losses.cross_entropy(log_q, ids).sum())
            divergence += float(self._distance(log_q, portion, number).sum())
            rows += len(log_q)
        return {"kl": divergence / rows, "nll": likelihood / rows}

    def _distance(self, log_q: torch.Tensor, portion: Portion, number: int) -> torch.Tensor:
        if self.teacher is not None:
            if number not in self.remembered:
                logs = losses.log_softmax(self.teacher.trace(portion, Wanted()).logits)
                if 4 * logs.numel() * (number + 1) > REMEMBERED_BYTES:
                    return losses.kl(logs, log_q)
                self.remembered[number] = logs
            return losses.kl(self.remembered[number], log_q)
        assert self.kept_held_out is not None
        return losses.kl(*losses.sparse_pair(self.kept_held_out.read(number), log_q))


REMEMBERED_BYTES = 512 << 20  # of the teacher's distributions, so that it measures them once
RELATION_HEADS = 48  # pieces of a row, at most: MiniLMv2's choice for its larger models


def new_projections(
    pairs: Pairs, widths: tuple[int, int], make: Callable[[np.ndarray], torch.nn.Parameter]
) -> dict[int, torch.nn.Parameter]:
    """By the student's layer: [teacher's width, student's width], the identity at first."""
    mine, theirs = widths
    return {s: make(np.eye(theirs, mine, dtype=np.float32)) for s, _ in pairs.hidden}


def check_pairs(pairs: Pairs, student: int, teacher: int) -> None:
    """UnsupportedError for layers that are not there."""
    for s, t in (*pairs.hidden, *pairs.relations):
        if not (0 <= s < student and 0 <= t < teacher):
            raise UnsupportedError(
                f"layer {s} of {student} cannot be compared with layer {t} of {teacher}"
            )
