"""The engine without a server: reads calls as JSON lines on stdin, answers with the seconds taken.

{"prompts": [[1, 2], …], "answer": 64, "at_once": 8}  →  {"seconds": 1.2, "tokens": 512}
"""

import json
import os
import sys
import time
from collections import deque

from slipstream.engine.engine import Engine
from slipstream.engine.options import EngineOptions
from slipstream.engine.request import SamplingParams


def main() -> None:
    model, threads, slots, context = json.loads(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    engine = Engine.open(model, EngineOptions(max_batch=slots, context=context, threads=threads))
    print(json.dumps({"ready": True}), file=replies)
    for line in sys.stdin:
        print(json.dumps(answer(engine, json.loads(line))), file=replies)


def answer(engine: Engine, asked: dict) -> dict:
    """As many requests at once as the server's clients keep open: one ends, the next begins."""
    params = SamplingParams(max_tokens=asked["answer"], ignore_eos=True)
    waiting = deque(engine.request(prompt, params) for prompt in asked["prompts"])
    tokens, under_way = 0, 0
    start = time.perf_counter()
    while waiting or under_way:
        while waiting and under_way < asked["at_once"]:
            engine.submit(waiting.popleft())
            under_way += 1
        for delta in engine.step():
            tokens += len(delta.ids)
            under_way -= delta.finish is not None
    return {"seconds": time.perf_counter() - start, "tokens": tokens}


if __name__ == "__main__":
    main()
