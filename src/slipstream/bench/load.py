"""Load on a server, as data: the calls to make, and what each of them saw.

`client.run_load` makes the calls; `traces` reads them from recorded arrivals. A `Load` is the same
for every server it is put on, so that servers can be compared.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median

TOKEN_IDS = (1000, 30000)  # ordinary tokens of any vocabulary that is large enough
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Call:
    """One request: its prompt as token ids, how many tokens are wanted, when it arrives.

    `arrival_s` None: as soon as a place is free (closed loop).
    """

    prompt: tuple[int, ...]
    answer_tokens: int
    arrival_s: float | None = None


@dataclass(frozen=True)
class Seen:
    """What the client of one call saw. Seconds; `gaps_s` between the arrivals of tokens.

    error      the server's refusal or a broken connection, in words; None when all went well
    tokens     as the server's usage says, or as many as came
    """

    began_s: float
    first_token_s: float | None
    ended_s: float
    tokens: int
    gaps_s: tuple[float, ...]
    error: str | None = None


@dataclass(frozen=True)
class Spread:
    """Percentiles of many measurements, in seconds."""

    p50: float
    p95: float
    p99: float

    def __str__(self) -> str:
        return " / ".join(f"{1000 * value:.0f}" for value in (self.p50, self.p95, self.p99))


@dataclass(frozen=True)
class Outcome:
    """A whole load on one server.

    tokens_per_s  tokens of all answers over the time from the first call to the last answer
    ttft, itl     from sending to the first token; between tokens; None when no token came
    """

    calls: int
    failed: int
    seconds: float
    tokens_per_s: float
    ttft: Spread | None
    itl: Spread | None
    errors: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """All fields, plain."""
        return asdict(self)


def summary(seen: Sequence[Seen]) -> Outcome:
    """What the calls of a load add up to. ValueError without calls."""
    if not seen:
        raise ValueError("a load needs at least one call")
    good = [one for one in seen if one.error is None]
    seconds = max(one.ended_s for one in seen) - min(one.began_s for one in seen)
    waits = [one.first_token_s - one.began_s for one in good if one.first_token_s is not None]
    gaps = [gap for one in good for gap in one.gaps_s]
    return Outcome(
        calls=len(seen),
        failed=len(seen) - len(good),
        seconds=seconds,
        tokens_per_s=sum(one.tokens for one in good) / seconds if seconds > 0 else 0.0,
        ttft=spread(waits),
        itl=spread(gaps),
        errors=tuple(sorted({one.error for one in seen if one.error is not None})[:5]),
    )


def spread(values: Iterable[float]) -> Spread | None:
    """Percentiles by the nearest rank; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    ranks = (max(0, -(-len(ordered) * p // 100) - 1) for p in PERCENTILES[1:])
    return Spread(median(ordered), *(ordered[rank] for rank in ranks))


def random_calls(
    count: int, prompt_tokens: int, answer_tokens: int, *, shared_prefix: int = 0, seed: int = 0
) -> list[Call]:
    """Calls with prompts of random ids, all different after the first `shared_prefix` ids."""
    draw = random.Random(seed)
    shared = _ids(draw, shared_prefix)
    own = max(prompt_tokens - shared_prefix, 1)
    return [Call(shared + _ids(draw, own), answer_tokens) for _ in range(count)]


def _ids(draw: random.Random, count: int) -> tuple[int, ...]:
    return tuple(draw.randrange(*TOKEN_IDS) for _ in range(count))
