"""Speeds as the search journals them, and the quick stand-in that is timed for a recipe."""

from dataclasses import replace
from typing import Any

from slipstream.bench.offline import Speed
from slipstream.bench.samples import Samples
from slipstream.compress.recipe import Recipe
from slipstream.evaluate.interval import Measured


def uncalibrated(recipe: Recipe) -> Recipe:
    """The same formats, quickly rounded: as good for timing."""
    rules = tuple(replace(rule, method="rtn", clip="minmax") for rule in recipe.rules)
    return replace(recipe, rules=rules)


def speed_json(speed: Speed) -> dict[str, Any]:
    """Medians with the lowest and highest sample, and the samples."""
    assert speed.decode is not None and speed.prefill is not None
    return {"decode": _measured(speed.decode), "prefill": _measured(speed.prefill)}


def _measured(samples: Samples) -> dict[str, Any]:
    between = Measured(samples.median, samples.low, samples.high)
    return {**between.to_json(), "samples": list(samples.values)}
