import itertools
import math

import pytest
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.solvers.descent import descend
from qsmdl.solvers.prox import soft_threshold


def least_squares(condition: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A with singular values from 1 down to 1 / sqrt(condition), and data."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(15, 15, generator=generator, dtype=torch.float64)).Q for _ in range(2))
    values = torch.logspace(0, -0.5 * math.log10(condition), 15, dtype=torch.float64)
    return left @ torch.diag(values) @ right.T, torch.randn(15, generator=generator, dtype=torch.float64)


def cost(matrix: Tensor, b: Tensor, x: Tensor, alpha: float = 0.0) -> float:
    return float(0.5 * (matrix @ x - b).square().sum() + alpha * x.abs().sum())


def test_plain_steps_are_those_of_the_recursion():
    matrix, b = least_squares(50)
    found = descend(lambda x: matrix.T @ (matrix @ x - b), torch.zeros_like(b), step_size=1.3, n_iterations=40, tolerance=0.0)
    x = torch.zeros_like(b)
    for _ in range(40):
        x = x - 1.3 * matrix.T @ (matrix @ x - b)
    torch.testing.assert_close(found.x, x)
    assert (found.n_steps, found.stopped, len(found.curve)) == (40, "max steps", 40)


def test_plain_descent_never_rises_and_reaches_the_minimum():
    matrix, b = least_squares(20)
    found = descend(
        lambda x: matrix.T @ (matrix @ x - b), torch.zeros_like(b), step_size=1.9, n_iterations=2000, tolerance=1e-12,
        value=lambda x: cost(matrix, b, x),
    )  # fmt: skip
    assert all(later <= earlier + 1e-14 for earlier, later in itertools.pairwise(found.curve))
    torch.testing.assert_close(found.x, torch.linalg.solve(matrix, b), rtol=1e-6, atol=1e-8)
    assert found.stopped == "tolerance reached"


def test_acceleration_with_restarts_is_faster_and_ends_at_the_same_minimum():
    matrix, b = least_squares(3000, seed=1)
    settings = {"step_size": 1.0, "n_iterations": 20000, "tolerance": 1e-9}
    plain, fast = (descend(lambda x: matrix.T @ (matrix @ x - b), torch.zeros_like(b), accelerate=a, **settings) for a in (False, True))
    assert fast.n_steps < plain.n_steps / 5
    torch.testing.assert_close(fast.x, torch.linalg.solve(matrix, b), rtol=1e-4, atol=1e-4)


def test_restarts_keep_momentum_from_going_uphill():
    """Without them the objective of a strongly convex problem ripples over hundreds of steps; with them it is down to 1e-9 after 400."""
    matrix, b = least_squares(1000, seed=2)
    best = cost(matrix, b, torch.linalg.solve(matrix, b))
    fast = descend(
        lambda x: matrix.T @ (matrix @ x - b), torch.zeros_like(b), step_size=1.0, n_iterations=400, tolerance=0.0, accelerate=True,
        value=lambda x: cost(matrix, b, x) - best,
    )  # fmt: skip
    x, ahead, momentum = torch.zeros_like(b), torch.zeros_like(b), 1.0
    for _ in range(400):
        moved = ahead - matrix.T @ (matrix @ ahead - b)
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead, x, momentum = moved + (momentum - 1) / following * (moved - x), moved, following
    assert fast.curve[-1] < 1e-9 * cost(matrix, b, torch.zeros_like(b))
    assert fast.curve[-1] < 0.01 * (cost(matrix, b, x) - best)


@pytest.mark.parametrize("accelerate", [False, True])
def test_proximal_steps_solve_the_lasso(accelerate: bool):
    matrix, b = least_squares(30, seed=3)
    alpha = 0.2
    found = descend(
        lambda x: matrix.T @ (matrix @ x - b), torch.zeros_like(b), step_size=1.0, n_iterations=5000, tolerance=1e-13, accelerate=accelerate,
        prox=lambda v: soft_threshold(v, alpha),
    )  # fmt: skip
    slope = matrix.T @ (matrix @ found.x - b)
    assert 0 < int((found.x != 0).sum()) < 15
    torch.testing.assert_close(slope[found.x != 0], -alpha * found.x[found.x != 0].sign(), rtol=0, atol=1e-8)
    assert float(slope.abs().max()) <= alpha + 1e-8


def test_a_rule_of_ones_own_stops():
    matrix, b = least_squares(30)
    found = descend(
        lambda x: matrix.T @ (matrix @ x - b), torch.zeros_like(b), step_size=1.0, n_iterations=50, tolerance=0.0, stop=lambda _, step: step == 7
    )
    assert (found.n_steps, found.stopped) == (7, "own rule")


def test_steps_are_reported_and_divergence_is_refused():
    seen: list[tuple[int, float]] = []
    found = descend(torch.clone, torch.ones(3), step_size=0.5, n_iterations=4, tolerance=0.0, on_step=lambda step, v: seen.append((step, v)))
    assert seen == list(enumerate(found.curve, start=1))
    with pytest.raises(InputError, match="Lower the step size"):
        descend(lambda x: -x.square() * 1e30, torch.ones(2), step_size=1e10, n_iterations=50, tolerance=0.0)
    with pytest.raises(InputError, match="n_iterations"):
        descend(torch.clone, torch.ones(3), step_size=0.5, n_iterations=0, tolerance=0.0)
