"""What the prefix cache is worth: the first token behind a long system prompt that all share.

python benchmarks/serving/prefix.py              # about one minute
"""

import argparse
from statistics import median

from run import path_of
from servers import slipstream_server

from slipstream.bench.client import run_load
from slipstream.bench.compare import compare
from slipstream.bench.load import random_calls
from slipstream.bench.samples import Samples
from slipstream.machine import machine, thread_count


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--threads", type=int, default=thread_count())
    parser.add_argument("--shared", type=int, default=2000, help="tokens that all prompts share")
    parser.add_argument("--own", type=int, default=32, help="tokens of each prompt's own")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    model = path_of(options.model)
    context = options.shared + options.own + 64
    with slipstream_server(model, options.threads, 4, context) as server:

        def first_token_s(seed: int, count: int) -> list[float]:
            calls = random_calls(
                count, options.shared + options.own, 4, shared_prefix=options.shared, seed=seed
            )
            return [
                float(seen.first_token_s or 0) - seen.began_s
                for seen in run_load(server.target, calls, 1)
            ]

        first_token_s(-1, 2)
        pairs = [first_token_s(seed, 2) for seed in range(options.rounds)]
    cold = Samples(tuple(1 / pair[0] for pair in pairs))
    warm = Samples(tuple(1 / pair[1] for pair in pairs))
    print(
        f"{options.model} on {machine().describe()}: {options.shared} shared tokens and "
        f"{options.own} own, one client, {options.rounds} different prefixes, each first new, "
        "then known"
    )
    print(f"- new: first token after {1000 * median(pair[0] for pair in pairs):.0f} ms")
    print(f"- known: first token after {1000 * median(pair[1] for pair in pairs):.0f} ms")
    print(f"- {compare(cold, warm)}")


if __name__ == "__main__":
    main()
