"""Orthogonal matrices that spread any vector evenly over its channels.

Hadamard matrices (all entries ±1/√n) where one of that order is known: Sylvester's doubling of
Paley's (https://en.wikipedia.org/wiki/Paley_construction). For other widths, a power of two of it
times a random rotation of the odd rest. Signs are drawn from a seed.
"""

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def rotation(width: int, seed: int = 0) -> F64:
    """float64 [width, width], orthogonal; equal seeds give equal matrices."""
    random = np.random.default_rng(seed)
    signs = random.choice([-1.0, 1.0], width)
    return hadamard_like(width, random) * signs


def hadamard_like(width: int, random: np.random.Generator) -> F64:
    """A Hadamard matrix of that order, or a Kronecker product with a random rotation."""
    doublings = 0
    core = width
    while True:
        found = _paley(core)
        if found is not None:
            return _doubled(found / np.sqrt(core), doublings)
        if core % 2:
            break
        core //= 2
        doublings += 1
    square, upper = np.linalg.qr(random.normal(size=(core, core)))
    return _doubled(square * np.sign(np.diagonal(upper)), doublings)


def _doubled(matrix: F64, times: int) -> F64:
    for _ in range(times):
        matrix = np.kron(np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2), matrix)
    return matrix


def _paley(order: int) -> F64 | None:
    """Entries ±1, or None where neither construction has this order."""
    if order in (1, 2):
        return np.array([[1.0]]) if order == 1 else np.array([[1.0, 1.0], [1.0, -1.0]])
    if order % 4:
        return None
    if _is_prime(order - 1) and (order - 1) % 4 == 3:
        return _paley_one(order - 1)
    if _is_prime(order // 2 - 1) and (order // 2 - 1) % 4 == 1:
        return _paley_two(order // 2 - 1)
    return None


def _paley_one(q: int) -> F64:
    """I + S, S the skew conference matrix of order q + 1, q ≡ 3 mod 4."""
    matrix = _bordered(q, -1.0)
    return matrix + np.eye(q + 1)


def _paley_two(q: int) -> F64:
    """The symmetric conference matrix of order q + 1, q ≡ 1 mod 4, doubled."""
    conference = _bordered(q, 1.0)
    plus, minus = np.array([[1.0, 1.0], [1.0, -1.0]]), np.array([[1.0, -1.0], [-1.0, -1.0]])
    return np.kron(conference, plus) + np.kron(np.eye(q + 1), minus)


def _bordered(q: int, side: float) -> F64:
    """Jacobsthal's matrix χ(i - j) with a border of ones (`side` down the first column)."""
    squares = {i * i % q for i in range(1, q)}
    character = np.array([0.0] + [1.0 if i in squares else -1.0 for i in range(1, q)])
    index = np.arange(q)
    matrix = np.zeros((q + 1, q + 1))
    matrix[0, 1:] = 1.0
    matrix[1:, 0] = side
    matrix[1:, 1:] = character[(index[:, None] - index[None, :]) % q]
    return matrix


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % i for i in range(2, int(n**0.5) + 1))
