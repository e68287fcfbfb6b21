"""What the engine has done and what it holds now, in numbers: for metrics, reports and estimates.

The engine counts into `Stats`; everyone else reads the frozen `Snapshot`.
"""

from dataclasses import dataclass

from slipstream.engine.scheduler import State

SMOOTHING = 0.2  # weight of the newest request in the running mean of durations


@dataclass(frozen=True)
class Snapshot:
    """The engine at one moment. Counts ending in `_total` only grow."""

    running: int
    waiting: int
    pages_used: int
    pages_total: int
    steps_total: int
    prompt_tokens_total: int
    answer_tokens_total: int
    preemptions_total: int
    finished_total: int
    request_s: float  # running mean of how long a request takes once it runs; 0 until one ended
    pages_cached: int = 0  # without an owner, kept for their tokens
    prefix_queries_total: int = 0  # prompt tokens looked up in the prefix cache
    prefix_hits_total: int = 0  # and found there
    kv_use: float = 0.0  # share of KV pages in use, 0…1, of the kind of attention that is fullest


@dataclass
class Stats:
    """Counters that the engine's step keeps."""

    steps: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    preemptions: int = 0
    finished: int = 0
    request_s: float = 0.0
    prefix_queries: int = 0
    prefix_hits: int = 0

    def count_prompt(self, tokens: int, found: int) -> None:
        """A prompt begins to run, with `found` of its tokens in the prefix cache."""
        self.prompt_tokens += tokens
        self.prefix_queries += tokens
        self.prefix_hits += found

    def count_finished(self, seconds: float) -> None:
        """A request has ended after running for `seconds`."""
        self.finished += 1
        share = SMOOTHING if self.finished > 1 else 1.0
        self.request_s += share * (seconds - self.request_s)

    def snapshot(self, state: State) -> Snapshot:
        """The counters with what the scheduler holds now."""
        return Snapshot(
            running=len(state.running),
            waiting=len(state.waiting),
            pages_used=sum(pool.used_count for pool in state.pools),
            pages_total=sum(pool.page_count for pool in state.pools),
            steps_total=self.steps,
            prompt_tokens_total=self.prompt_tokens,
            answer_tokens_total=self.answer_tokens,
            preemptions_total=self.preemptions,
            finished_total=self.finished,
            request_s=self.request_s,
            pages_cached=sum(pool.resting_count for pool in state.pools),
            kv_use=max(pool.used_count / pool.page_count for pool in state.pools),
            prefix_queries_total=self.prefix_queries,
            prefix_hits_total=self.prefix_hits,
        )
