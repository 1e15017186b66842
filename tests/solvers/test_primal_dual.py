import math

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.solvers.primal_dual import DualTerm, primal_dual
from qsmdl.solvers.prox import soft_threshold


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fused_lasso(b: torch.Tensor, matrix: torch.Tensor, alpha: float, sigma: float) -> list[DualTerm]:
    """1/2 ||x - b||^2 + alpha ||A x||_1."""

    def add(y: torch.Tensor, total: torch.Tensor) -> None:
        total += y

    def add_transposed(y: torch.Tensor, total: torch.Tensor) -> None:
        total += matrix.T @ y

    return [
        DualTerm(torch.clone, add, sigma, lambda v: (v - sigma * b) / (1 + sigma)),
        DualTerm(lambda x: matrix @ x, add_transposed, sigma, lambda v: v.clamp(-alpha, alpha)),
    ]


def test_it_reaches_the_answer_of_a_lasso():
    b = torch.randn(50, generator=generator(), dtype=torch.float64)
    terms = fused_lasso(b, torch.eye(50, dtype=torch.float64), 0.5, 0.7)
    steps: list[int] = []
    found = primal_dual(
        terms, torch.zeros_like(b), precondition=lambda r: r / 1.4, n_iterations=800, tolerance=1e-10, on_step=lambda step, _: steps.append(step)
    )
    torch.testing.assert_close(found.x, soft_threshold(b, 0.5), atol=1e-8, rtol=0)
    assert found.stopped == "tolerance reached"
    assert found.n_steps == len(found.curve) == len(steps) < 800
    assert found.residual == found.curve[-1] < 1e-10


def test_it_satisfies_the_optimality_conditions_with_a_full_preconditioner():
    """0 = x - b + A^T y with |y| <= alpha, and y = alpha sign(A x) where A x is not 0."""
    b = torch.randn(12, generator=generator(1), dtype=torch.float64)
    matrix = torch.randn(9, 12, generator=generator(2), dtype=torch.float64)
    alpha, sigma = 0.3, 0.5
    inverse = torch.linalg.inv(sigma * (torch.eye(12, dtype=torch.float64) + matrix.T @ matrix))
    found = primal_dual(
        fused_lasso(b, matrix, alpha, sigma), torch.zeros_like(b), precondition=lambda r: inverse @ r, n_iterations=3000, tolerance=0.0
    ).x
    y = torch.linalg.lstsq(matrix.T, (b - found)[:, None]).solution[:, 0]
    assert float((matrix.T @ y - (b - found)).abs().max()) < 1e-8
    assert float(y.abs().max()) < alpha + 1e-8
    image = matrix @ found
    kinked = image.abs() < 1e-7
    assert 0 < int(kinked.sum()) < 9
    torch.testing.assert_close(y[~kinked], alpha * image[~kinked].sign(), atol=1e-7, rtol=0)


def test_it_keeps_a_hard_constraint():
    """The point of a plane that lies nearest to b."""
    b, normal = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64), torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)

    def add(y: torch.Tensor, total: torch.Tensor) -> None:
        total += y

    def add_normal(y: torch.Tensor, total: torch.Tensor) -> None:
        total += y * normal

    terms = [
        DualTerm(torch.clone, add, 1.0, lambda v: (v - b) / 2),
        DualTerm(lambda x: (normal @ x)[None], add_normal, 1.0, lambda v: v - 3.0),
    ]
    found = primal_dual(terms, torch.zeros_like(b), precondition=lambda r: r / 4, n_iterations=2000, tolerance=0.0)
    torch.testing.assert_close(found.x, b + (3 - b.sum()) / 3, atol=1e-9, rtol=0)
    assert found.stopped == "max steps"


def test_it_starts_where_it_is_told_and_leaves_that_alone():
    b = torch.ones(4, dtype=torch.float64)
    start = torch.full_like(b, 0.25)
    found = primal_dual(
        fused_lasso(b, torch.eye(4, dtype=torch.float64), 0.1, 1.0), start, precondition=lambda r: 0 * r, n_iterations=3, tolerance=0.0
    )
    torch.testing.assert_close(found.x, torch.full_like(b, 0.25))
    assert float((start - 0.25).abs().max()) == 0


def test_a_map_that_explodes_and_bad_settings_are_refused():
    b = torch.ones(3)
    terms = fused_lasso(b, torch.eye(3), 0.1, 1.0)
    with pytest.raises(InputError, match="no longer finite after 1 steps"):
        primal_dual(terms, torch.zeros(3), precondition=lambda r: r * math.nan, n_iterations=5, tolerance=0.0)
    with pytest.raises(InputError, match="n_iterations"):
        primal_dual(terms, torch.zeros(3), precondition=torch.clone, n_iterations=0, tolerance=0.0)
    with pytest.raises(InputError, match="tolerance"):
        primal_dual(terms, torch.zeros(3), precondition=torch.clone, n_iterations=1, tolerance=1.5)
