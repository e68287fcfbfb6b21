"""The Pareto front, the choice, and the JSON of a study, on made-up results."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.compress.recipe import Recipe, Rule
from slipstream.evaluate.evaluation import Distance, Evaluation
from slipstream.evaluate.interval import Measured
from slipstream.formats.tensor import Affine
from slipstream.optimize.limits import parse_limits
from slipstream.optimize.report import report_html
from slipstream.optimize.study import Result, Role, Study, choose, pareto_front
from slipstream.optimize.table import rows
from slipstream.svg import log_ticks, ticks


def result(
    name: str,
    kl: float,
    decode: float,
    size: int = 100,
    role: Role = "candidate",
    spread: float = 0.1,
) -> Result:
    around = Measured(kl, kl * (1 - spread), kl * (1 + spread))
    distance = Distance(
        around, kl * 5, kl * 9, Measured(0.9, 0.88, 0.92), Measured.exact(1 + kl), 20.0
    )
    evaluation = Evaluation(1000, "0" * 64, Measured(20, 19, 21), distance)
    speed = Measured(decode, decode * 0.99, decode * 1.01)
    recipe = Recipe((Rule("linear", Affine(4, 32), "gptq"),))
    return Result(name, role, recipe, evaluation, size * 10**6, size * 10**6, speed, speed, 1.5)


def study(*results: Result, limits: tuple[str, ...] = ("kl<0.1",)) -> Study:
    baseline = result("as stored · a32", 0.0, 50, role="baseline")
    stored = result("as stored · a8", 0.002, 80, role="stored")
    facts = {"cpu": "a <fast> one", "not_measured": ["int2 <dreams>"]}
    return Study(
        "model", baseline, stored, results, parse_limits(limits), "a <text>", 2048, 4096, facts
    )


def test_the_fastest_within_the_limits_is_chosen() -> None:
    found = study(result("good", 0.01, 60), result("fast", 0.05, 100), result("bad", 0.3, 150))
    choice = found.choice()
    assert choice and choice.name == "fast"


def test_a_tie_in_speed_goes_to_quality() -> None:
    choice = study(result("a", 0.05, 100), result("b", 0.02, 98)).choice()
    assert choice and choice.name == "b"


def test_a_mean_within_the_limit_is_not_enough() -> None:
    assert study(result("wide", 0.095, 100, spread=0.1)).choice() is None
    assert study(result("narrow", 0.095, 100, spread=0.01)).choice() is not None


def test_misses_are_listed_nearest_first() -> None:
    found = study(result("far", 0.9, 100), result("near", 0.12, 90), result("mid", 0.3, 90))
    assert found.choice() is None
    assert [r.name for r in found.nearest_misses()] == ["near", "mid", "far"]


def test_unfinished_and_failed_results_are_never_chosen() -> None:
    failed = Result("broken", "candidate", Recipe(()), failure="a singular Hessian")
    untimed = Result("untimed", "candidate", Recipe(()), evaluation=result("x", 0.01, 1).evaluation)
    found = study(failed, untimed, limits=("kl<1",))
    assert found.choice() is None and found.front() == ()
    assert "failed: a singular Hessian" in rows(found)[2].cells[-1]
    assert "a singular Hessian" in report_html(found, None)


POINTS = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=12
)


@given(POINTS)
def test_the_front_is_what_no_other_beats(points: list[tuple[int, int, int]]) -> None:
    results = [result(str(i), kl / 100, speed, size) for i, (kl, speed, size) in enumerate(points)]
    front = {int(r.name) for r in pareto_front(results)}

    def beats(a: tuple[int, int, int], b: tuple[int, int, int]) -> bool:
        return a != b and a[0] <= b[0] and a[1] >= b[1] and a[2] <= b[2]

    expected = {i for i, p in enumerate(points) if not any(beats(q, p) for q in points)}
    assert front == expected and front


@given(POINTS)
def test_the_choice_is_within_three_percent_of_the_fastest(
    points: list[tuple[int, int, int]],
) -> None:
    results = [result(str(i), kl / 100, speed) for i, (kl, speed, _) in enumerate(points)]
    choice = choose(results)
    assert choice and choice.decode and choice.decode.value >= 0.97 * max(p[1] for p in points)


def test_results_go_through_json() -> None:
    whole = result("a", 0.05, 100)
    assert Result.from_json(json.loads(json.dumps(whole.to_json()))) == whole
    failed = Result("broken", "candidate", Recipe(()), failure="no")
    assert Result.from_json(json.loads(json.dumps(failed.to_json()))) == failed


def test_the_study_is_plain_json() -> None:
    data = json.loads(json.dumps(study(result("a", 0.05, 100)).to_json(), allow_nan=False))
    assert data["choice"] == "a" and data["pareto_front"] == ["a"]
    assert [row["within_limits"] for row in data["rows"]] == [True, True, True]


def test_the_report_stands_alone_and_is_escaped() -> None:
    found = study(result("fast", 0.05, 100), result("small & bad", 0.5, 120, 60))
    page = report_html(found, found.choice())
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert "&lt;fast&gt;" in page and "small &amp; bad" in page and "<text>" not in page
    assert page.count("<svg") == 2 and 'class="chosen"' in page
    assert "int2 &lt;dreams&gt;" in page


def test_a_report_of_nothing_says_so() -> None:
    found = study(result("bad", 0.5, 100))
    page = report_html(found, None)
    assert "nothing was written" in page
    forced = report_html(found, found.candidates[0])
    assert "Written by force" in forced


@pytest.mark.parametrize(("low", "high"), [(0, 1), (37.2, 121.9), (-5, 5), (83.1, 83.9)])
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 13 and all(low <= value <= high for value in found)


def test_log_ticks_are_within() -> None:
    assert list(log_ticks(-2.1, -0.6)) == [0.01, 0.02, 0.05, 0.1, 0.2]
