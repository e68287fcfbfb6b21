"""Each loss against its formula, in numpy and float64."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from slipstream.compress.training import losses  # noqa: E402
from slipstream.compress.training.teacher import likeliest  # noqa: E402


def distributions(seed: int, rows: int = 5, size: int = 11) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    raw = np.exp(random.normal(size=(2, rows, size)) * 2)
    return tuple(raw / raw.sum(axis=-1, keepdims=True))


def logs(p: np.ndarray):
    return torch.from_numpy(np.log(p))


def slow_kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * np.log(p / q)).sum(axis=-1)


@given(st.integers(0, 50), st.sampled_from([0.1, 0.5, 0.9]))
def test_divergences_are_their_formulas(seed: int, beta: float) -> None:
    p, q = distributions(seed)
    m = beta * p + (1 - beta) * q
    wanted = {
        "forward": slow_kl(p, q),
        "reverse": slow_kl(q, p),
        "jensen_shannon": beta * slow_kl(p, m) + (1 - beta) * slow_kl(q, m),
    }
    for kind, value in wanted.items():
        found = losses.divergence(logs(p), logs(q), kind, beta).numpy()
        assert np.allclose(found, value, atol=1e-10), kind
    assert (losses.divergence(logs(p), logs(q), "jensen_shannon").numpy() <= math.log(2)).all()


def test_the_gradient_of_forward_kl_is_q_minus_p_over_the_temperature() -> None:
    p, _ = distributions(1)
    z = torch.randn(5, 11, requires_grad=True, generator=torch.Generator().manual_seed(0))
    losses.kl(logs(p).float(), losses.log_softmax(z, 2.0)).sum().backward()
    q = torch.softmax(z.detach() / 2, dim=-1)
    assert torch.allclose(z.grad, (q - torch.from_numpy(p).float()) / 2, atol=1e-6)


def test_what_never_happens_adds_nothing_not_even_to_gradients() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0]]).log()
    z = torch.zeros(1, 3, requires_grad=True)
    log_q = torch.cat([z[:, :2].log_softmax(-1), torch.full((1, 1), -math.inf)], dim=-1)
    loss = losses.kl(p, log_q).sum()
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and torch.isfinite(z.grad).all()


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen_shannon"])
def test_sparse_divergences_grow_to_the_whole_one(kind) -> None:
    p, q = distributions(2)
    whole = losses.divergence(logs(p), logs(q), kind).numpy()
    before = np.zeros(len(whole))
    for k in (1, 3, 6, 10):
        teacher = likeliest(logs(p), k, 1.0)
        found = losses.divergence(*losses.sparse_pair(teacher, logs(q)), kind).numpy()
        assert (found >= before - 1e-6).all() and (found <= whole + 1e-5).all()
        before = found
    assert np.allclose(before, whole, atol=1e-5)  # ten tokens and the eleventh are all


def test_the_rest_is_what_the_likeliest_leave() -> None:
    p, _ = distributions(3)
    found = likeliest(logs(p), 4, 1.0)
    order = np.argsort(-p, axis=-1)
    assert (np.sort(found.ids.numpy()) == np.sort(order[:, :4])).all()
    wanted = np.take_along_axis(p, order[:, 4:], -1).sum(-1)
    assert np.allclose(found.rest.exp().numpy(), wanted, rtol=1e-5)


def test_relations_see_only_the_past_of_their_own_sequence() -> None:
    random = np.random.default_rng(4)
    starts, heads = np.array([0, 4, 7], np.int32), 2
    mine, theirs = random.normal(size=(7, 6)), random.normal(size=(7, 10))
    total = 0.0
    for start, end in ((0, 4), (4, 7)):
        for h in range(heads):
            rows = []
            for x in (theirs, mine):
                d = x.shape[1] // heads
                part = x[start:end, h * d : (h + 1) * d]
                scores = part @ part.T / math.sqrt(d)
                rows.append(scores)
            for t in range(end - start):
                p, q = (np.exp(s[t, : t + 1]) / np.exp(s[t, : t + 1]).sum() for s in rows)
                total += slow_kl(p, q) / heads
    found = losses.relation_distance(
        torch.from_numpy(mine), torch.from_numpy(theirs), starts, heads
    )
    assert float(found) == pytest.approx(total / 7, rel=1e-5)


def test_hidden_distance_is_relative() -> None:
    h = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    assert float(losses.hidden_distance(h * 0, h)) == pytest.approx(1)
    assert float(losses.hidden_distance(h, h)) == 0
    assert float(losses.hidden_distance(h * 5, h * 10)) == pytest.approx(0.25)


def test_cross_entropy_is_minus_the_log_of_what_came() -> None:
    p, _ = distributions(5)
    found = losses.cross_entropy(logs(p), torch.tensor([0, 1, 2, 3, 4])).numpy()
    assert np.allclose(found, [-math.log(p[i, i]) for i in range(5)])
