"""The whole engine on random workloads: whatever happens around it, a request's tokens are its own.

The fake program keeps the tokens themselves as keys and values, and computes logits from what it
reads back, so a wrong page anywhere changes tokens. Each case is a seed; run one by itself with
`-k 'seed[17]'`.
"""

import random
from dataclasses import dataclass, field

import pytest
from fakes import FakeProgram, fake_engine

from slipstream.engine.request import Request, SamplingParams

CONTEXT = 512
WINDOWS = [(None,), (None,), (1,), (64,), (100,), (64, None), (None, 30), (1, None, 100)]
SYSTEMS = [[n % 16] * 7 + list(range(16)) * 12 for n in range(3)]  # prompts begin like each other


@dataclass
class World:
    """An engine under random load, and what each request was given so far."""

    chance: random.Random
    engine: object
    now: float = 0.0
    requests: dict[int, Request] = field(default_factory=dict)
    got: dict[int, list[int]] = field(default_factory=dict)
    finish: dict[int, str] = field(default_factory=dict)

    def submit(self) -> None:
        chance = self.chance
        params = SamplingParams(
            temperature=chance.choice([0.0, 0.8]),
            seed=chance.randrange(100),
            max_tokens=chance.randint(1, 90),
            ignore_eos=True,
            n=chance.choice([1, 1, 1, 2, 5]),
        )
        terms = {
            "priority": chance.choice([0, 0, 0, 1, -1]),
            "key": chance.choice("abc"),
            "timeout_s": chance.choice([None, None, None, 30.0]),
            "adapter": None,
        }
        for request in self.engine.requests(self.prompt(), params, **terms):
            self.requests[request.id] = request
            self.got[request.id] = []
            self.engine.submit(request)

    def prompt(self) -> list[int]:
        system = self.chance.choice([*SYSTEMS, []])
        own = [
            self.chance.randrange(16) for _ in range(self.chance.choice([1, 5, 63, 64, 65, 130]))
        ]
        return system[: self.chance.choice([64, 128, 199])] + own

    def step(self) -> None:
        self.now += self.chance.random()
        for delta in self.engine.step():
            self.got[delta.request_id] += delta.ids
            if delta.finish is not None:
                self.finish[delta.request_id] = delta.finish
        self.engine.check()

    def cancel_one(self) -> None:
        running = [i for i in self.requests if i not in self.finish]
        if running:
            victim = self.chance.choice(running)
            assert self.engine.cancel(victim).finish == "cancelled"
            self.finish[victim] = "cancelled"
            self.engine.check()


def make_world(seed: int) -> World:
    chance = random.Random(seed)
    program = FakeProgram(windows=chance.choice(WINDOWS))
    max_batch = chance.randint(1, 8)
    world = World(chance, None)
    world.engine = fake_engine(
        program,
        max_batch=max_batch,
        token_budget=max_batch + chance.choice([0, 3, 60, 250]),
        context=CONTEXT,
        page_counts=[8 + chance.choice([0, 1, 4, 40]) for _ in program.windows],
        batching=chance.choice(["continuous", "continuous", "static", "dynamic"]),
        max_wait_s=2.0,
        prefix_cache=chance.random() < 0.8,
        clock=lambda: world.now,
    )
    return world


def alone(request: Request, windows: tuple[int | None, ...]) -> list[int]:
    """What the request gets from an engine of its own, prompt in one piece, nothing cached."""
    engine = fake_engine(
        FakeProgram(windows=windows), max_batch=1, token_budget=512, context=CONTEXT
    )
    params = SamplingParams(
        temperature=request.params.temperature,
        seed=request.seed,
        max_tokens=request.max_tokens,
        ignore_eos=True,
    )
    return list(engine.generate([request.prompt_ids], params)[0].ids)


def run(world: World, arrivals: int) -> None:
    chance, steps = world.chance, 0
    while arrivals or not world.engine.idle:
        if arrivals and chance.random() < 0.3:
            world.submit()
            arrivals -= 1
        if chance.random() < 0.03:
            world.cancel_one()
        world.step()
        steps += 1
        assert steps < 20_000, "no progress"


@pytest.mark.parametrize("seed", range(16))
def test_every_request_gets_its_own_tokens(seed):
    """In any batch and mode, chunked, set back, forked, with prefix hits, windows, cancellations."""
    world = make_world(seed)
    run(world, arrivals=8)
    windows = world.engine.program.windows
    for number, request in world.requests.items():
        expected = alone(request, windows)
        if world.finish[number] == "length":
            assert world.got[number] == expected
        else:
            assert world.got[number] == expected[: len(world.got[number])]
    assert world.finish.keys() == world.requests.keys()
    assert world.engine.snapshot().pages_used == 0


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_hundreds_more_of_them(part):
    for seed in range(100 + 25 * part, 125 + 25 * part):
        test_every_request_gets_its_own_tokens(seed)
