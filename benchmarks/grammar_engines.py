"""Compares llguidance and xgrammar: what of JSON schema each serves, how fast, and how it refuses.

    python benchmarks/grammar_engines.py MODEL [llguidance|xgrammar …]

xgrammar is not among our dependencies (it brings torch, transformers and triton): install it into
an environment of its own beside Slipstream. Masks are timed one token at a time over the accepted
texts, with the tokenizer of MODEL.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engine"))
from grammar_cases import CASES, INVALID

from slipstream.checkpoint.sources import resolve
from slipstream.engine.grammar import Grammar
from slipstream.engine.grammar_llguidance import matcher_of, tokens_of
from slipstream.models.load import load

Walk = Callable[[list[int]], tuple[bool, list[float]]]  # ids → (accepted whole, mask seconds)


class Llguidance:
    """Compiles as engine/grammar_llguidance.py does."""

    def __init__(self, tokenizer: Any) -> None:
        self.vocabulary = tokenizer.vocabulary_size
        self.tokens = tokens_of(tokenizer, self.vocabulary)

    def compile(self, schema: str) -> Walk:
        start = matcher_of(Grammar("json_schema", schema), self.tokens)

        def walk(ids: list[int]) -> tuple[bool, list[float]]:
            matcher, mask, seconds = (
                start.deep_copy(),
                np.zeros(-(-self.vocabulary // 32), np.int32),
                [],
            )
            for token in ids:
                begin = time.perf_counter()
                matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
                seconds.append(time.perf_counter() - begin)
                if not matcher.validate_tokens([token]) or not matcher.consume_token(token):
                    return False, seconds
            return bool(matcher.is_accepting()), seconds

        return walk


class Xgrammar:
    """Strict mode off, white space as its default has it."""

    def __init__(self, tokenizer: Any) -> None:
        import xgrammar  # noqa: PLC0415  not among our dependencies

        self.xgrammar = xgrammar
        vocabulary = [tokenizer.token_bytes(i) for i in range(tokenizer.vocabulary_size)]
        info = xgrammar.TokenizerInfo(
            vocabulary, xgrammar.VocabType.RAW, stop_token_ids=sorted(tokenizer.eos_ids)
        )
        self.ends = sorted(tokenizer.eos_ids)
        self.vocabulary = tokenizer.vocabulary_size
        self.compiler = xgrammar.GrammarCompiler(info, max_threads=2, cache_enabled=False)

    def compile(self, schema: str) -> Walk:
        compiled = self.compiler.compile_json_schema(schema, strict_mode=False)

        def walk(ids: list[int]) -> tuple[bool, list[float]]:
            matcher, seconds = self.xgrammar.GrammarMatcher(compiled), []
            mask = self.xgrammar.allocate_token_bitmask(1, self.vocabulary)
            for token in [*ids, self.ends[0]]:
                begin = time.perf_counter()
                matcher.fill_next_token_bitmask(mask)
                seconds.append(time.perf_counter() - begin)
                if not matcher.accept_token(token):
                    return False, seconds
            return True, seconds

        return walk


def judge(engine: Any, tokenizer: Any) -> None:
    """Prints a line for each case, and the figures of all."""
    compiles, masks, served, right = [], [], 0, 0
    for case in CASES:
        begin = time.perf_counter()
        try:
            walk = engine.compile(json.dumps(case.schema))
        except Exception as error:
            print(f"  {case.name:24} refused: {' '.join(str(error).split())[:110]}")
            continue
        compiles.append(time.perf_counter() - begin)
        served += 1
        wrong = []
        texts = [(text, True) for text in case.accepted]
        for text, expected in texts + [(text, False) for text in case.refused]:
            accepted, seconds = walk(tokenizer.encode(text, special=False))
            masks += seconds
            if accepted != expected:
                wrong.append(f"{'refuses' if expected else 'accepts'} {text}")
        right += not wrong
        print(f"  {case.name:24} {'right' if not wrong else 'WRONG: ' + '; '.join(wrong)}")
    print(f"  served {served} of {len(CASES)}, right {right}")
    for what, values in (("compile, ms", compiles), ("mask, µs", masks)):
        scaled = np.array(values) * (1e3 if "ms" in what else 1e6)
        median, high, top = np.percentile(scaled, [50, 99, 100])
        print(f"  {what:12} median {median:8.2f}  p99 {high:9.2f}  max {top:9.2f}  n {len(scaled)}")
    for name, schema in INVALID:
        try:
            engine.compile(schema)
            print(f"  invalid: {name:20} taken")
        except BaseException as error:
            told = " ".join(str(error).split())
            print(f"  invalid: {name:20} {type(error).__name__}: {told[:150]}")


def main() -> None:
    """See the module's text."""
    tokenizer = load(resolve(sys.argv[1], quiet=True)).tokenizer
    for name in sys.argv[2:] or ["llguidance", "xgrammar"]:
        begin = time.perf_counter()
        engine = {"llguidance": Llguidance, "xgrammar": Xgrammar}[name](tokenizer)
        print(
            f"{name}: import and tokenizer {time.perf_counter() - begin:.2f} s,"
            f" torch imported: {'torch' in sys.modules}"
        )
        judge(engine, tokenizer)


if __name__ == "__main__":
    main()
