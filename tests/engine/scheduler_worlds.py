"""A scheduler without a model, for its tests: steps it, and keeps what each page would hold."""

from dataclasses import dataclass, field

from slipstream.backends.batch import PAGE_SIZE
from slipstream.engine.pages import GONE
from slipstream.engine.request import Request, SamplingParams
from slipstream.engine.scheduler import Limits, Plan, Scheduler, plan

PLAIN = SamplingParams()


def request(number, prompt, max_tokens=4, **more):
    """`prompt`: its tokens, or how many: then unlike any other request's."""
    ids = tuple(1000 * number + i for i in range(prompt)) if isinstance(prompt, int) else prompt
    return Request(number, tuple(ids), more.pop("params", PLAIN), 0, max_tokens, **more)


def scheduler(*requests, max_batch=4, token_budget=100, page_count=16, prefix_cache=True, **more):
    limits = Limits(max_batch, token_budget, **more)
    page_counts = (page_count,) if isinstance(page_count, int) else page_count
    made = Scheduler(limits, page_counts, prefix_cache=prefix_cache)
    for entry in requests:
        made.add(entry)
    return made


def admitted(decided: Plan) -> list[int]:
    return [admission.request_id for admission in decided.admitted]


def next_token(sequence) -> int:
    return hash(tuple(sequence.ids[-3:])) % 7 + sequence.request.id % 2


@dataclass
class World:
    """Runs a scheduler's steps and asserts its promises on each."""

    made: Scheduler
    now: float = 0.0
    pages: dict[tuple[int, int], list[int]] = field(default_factory=dict)  # (kind, page): tokens
    steps: int = 0
    copies: int = 0
    ended: list[int] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)  # of all requests so far

    def step(self) -> Plan:
        """One step; ends what has its answer or is overdue."""
        made = self.made
        for late in made.overdue(self.now):
            self.end(late)
        decided = made.plan(self.now)
        assert decided == plan(made.state, made.limits, self.now), "not pure"
        self._check_decision(decided)
        for kind, source, target in made.begin(decided, self.now):
            self.pages[kind, target] = list(self.pages[kind, source])
            self.copies += 1
        made.check()
        self._compute(decided)
        tokens = {
            p.request_id: next_token(made.sequences[p.request_id])
            for p in decided.pieces
            if p.samples
        }
        made.commit(decided, tokens)
        for sequence in list(made.sequences.values()):
            if sequence.answer_length == sequence.request.max_tokens:
                self.end(sequence.request.id)
        made.check()
        self.steps += 1
        return decided

    def end(self, number: int) -> None:
        self.made.remove(number)
        self.ended.append(number)

    def _check_decision(self, decided: Plan) -> None:
        state, limits = self.made.state, self.made.limits
        assert decided.rows <= limits.token_budget
        here = [s for s in state.running if s.request.id not in decided.preempted]
        assert len(here) + len(decided.admitted) <= limits.max_batch
        if state.running and not decided.admitted:
            assert state.running[0].request.id not in decided.preempted, "the first was set back"
        decodes = {s.request.id for s in here if s.pending == 1}
        assert decodes <= {p.request_id for p in decided.pieces}, "a running decode was left out"
        stuck = not decided.pieces and decided.wait_s is None and self.made.sequences
        assert not stuck, "requests wait and none runs"

    def _compute(self, decided: Plan) -> None:
        """Every key that a row sees is that of its own tokens; then its own is written."""
        for piece in decided.pieces:
            for kind in range(len(self.made.state.pools)):
                self._compute_kind(kind, piece)

    def _compute_kind(self, kind, piece) -> None:
        sequence = self.made.sequences[piece.request_id]
        pages, ids = sequence.pages[kind], sequence.ids
        first = self.made.limits.sights[kind].first_seen(piece.start)
        for position in range(first, piece.start):
            page = pages[position // PAGE_SIZE]
            assert page != GONE
            assert self.pages[kind, page][position % PAGE_SIZE] == ids[position], "wrong"
        for position in range(piece.start, piece.start + piece.rows):
            page = pages[position // PAGE_SIZE]
            assert self.made.state.pools[kind].owners(page) == 1, "writes what others read"
            slots = self.pages.setdefault((kind, page), [-1] * PAGE_SIZE)
            slots[position % PAGE_SIZE] = ids[position]


def run(made: Scheduler) -> Plan:
    """One step of the scheduler in a world that lasts as long as it does."""
    return vars(made).setdefault("world", World(made)).step()
