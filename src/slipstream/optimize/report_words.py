"""The report's prose: how to read it, what the baseline is, how things were measured."""

from collections.abc import Iterator

from slipstream.optimize.study import Study

HOW_TO_READ = (
    "KL is the mean divergence of a candidate's next-token distribution from the original's, in "
    "nats per token: 0 is no change, 0.01 is hard to notice, 0.1 is about what common 4-bit files "
    "cost a small model, 1 is another model.",
    "Top-1 is the share of positions where both put the same token first; ppl × is the candidate's "
    "perplexity divided by the original's.",
    "Intervals are 95 % bootstrap intervals (BCa) over blocks of 64 positions. A limit on quality "
    "is kept only if the unfavorable end of the interval keeps it.",
    "Speeds are medians of alternating rounds of one stream, with the slowest and fastest round in "
    "brackets; for a limit the slowest counts. Rows of equal formats share one measurement: how "
    "the codes were chosen does not change the work.",
    "MB is the size of the stored tensors. Memory is what packing the weights for the kernels and "
    "reading a 512-token prompt added to the process, in MB, measured.",
)


def baseline(study: Study) -> str:
    """What the distances are distances from."""
    formats = study.facts.get("stored_formats")
    stored = f" ({formats})" if formats else ""
    text = (
        f"The original is {study.model} as its file stores it{stored}, run with float32 "
        "activations and a float32 KV cache. "
    )
    if study.facts.get("stored_quantized"):
        text += (
            "The file is quantized already, and the model before that is not in it: distances here "
            "come on top of what that has cost. Formats that would only copy its codes are no "
            "candidates; the row “as stored” shows what serving the file itself gives. "
        )
    return text + "Candidates run as they will be served, with a bfloat16 KV cache."


def method(study: Study) -> Iterator[str]:
    """One sentence or two for each step."""
    yield (
        f"Quality: {study.evaluation_tokens:,} tokens ({study.text}) in chunks of up to 512; every "
        "token after the first of a chunk is scored, for original and candidate alike."
    )
    yield (
        f"Calibration: {study.calibration_tokens:,} other tokens of the same source, for gptq "
        "(arXiv 2210.17323; columns in order of their inputs' energy, static groups, damping "
        "inputs / tokens and at least 1 %, "
        "clipping searched for the least squared error weighted by that energy)."
    )
    yield "rtn: rounding to nearest, clipping searched for the least squared error of each group."
    yield (
        "a8 g32: inputs of linears are rounded to int8 with one scale per 32 values of a token; "
        "a32: they stay float32. g32, g64: weights share a scale in groups of 32 or 64; row: one "
        "scale per output. asym: with an integer zero point. Embedding and head are int8 per row "
        "unless the recipe says otherwise."
    )
    yield (
        "Choice: the fastest decoder within the limits; speeds within 3 % are a tie, which the "
        "lower KL wins. Pareto front: candidates that no other beats in KL, decode speed and size "
        "at once."
    )
    skipped = study.facts.get("not_measured")
    if skipped:
        yield f"Not measured, for lack of time: {', '.join(skipped)}."
