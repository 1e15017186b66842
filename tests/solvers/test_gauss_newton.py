import itertools
import math

import pytest
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.solvers.gauss_newton import Linearised, Sum, gauss_newton

SETTINGS = {"n_iterations": 500, "tolerance": 1e-10, "cg_iterations": 50, "cg_tolerance": 1e-12}


class Quadratic:
    """1/2 x^T A x - b^T x, with A given to the solver times `stiffness`."""

    def __init__(self, matrix: Tensor, b: Tensor, stiffness: float = 1.0) -> None:
        self.matrix, self.b, self.stiffness = matrix, b, stiffness

    def value(self, x: Tensor) -> float:
        return float(0.5 * x @ self.matrix @ x - self.b @ x)

    def linearise(self, x: Tensor) -> Linearised:
        return Linearised(self.value(x), self.matrix @ x - self.b, lambda v: self.stiffness * (self.matrix @ v))


def quadratic(seed: int = 0, stiffness: float = 1.0) -> Quadratic:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    return Quadratic(root @ root.T + torch.eye(6, dtype=torch.float64), torch.randn(6, generator=generator, dtype=torch.float64), stiffness)


class Circle:
    """1/2 (|x|^2 - 1)^2 + 1/2 |x - target|^2, with the Gauss-Newton curvature of both squares."""

    target = torch.tensor([2.0, 1.0], dtype=torch.float64)

    def value(self, x: Tensor) -> float:
        return float(0.5 * (x @ x - 1) ** 2 + 0.5 * (x - self.target).square().sum())

    def linearise(self, x: Tensor) -> Linearised:
        return Linearised(self.value(x), 2 * (x @ x - 1) * x + x - self.target, lambda v: 4 * x * (x @ v) + v)


def falls(curve: tuple[float, ...]) -> bool:
    """Never rises, but for rounding."""
    return all(later <= earlier + 1e-14 * abs(curve[0] - curve[-1]) + 1e-14 for earlier, later in itertools.pairwise(curve))


def zeros(n: int = 6) -> Tensor:
    return torch.zeros(n, dtype=torch.float64)


def test_a_quadratic_takes_one_step():
    objective = quadratic()
    found = gauss_newton(objective, zeros(), **SETTINGS)
    torch.testing.assert_close(found.x, torch.linalg.solve(objective.matrix, objective.b))
    assert found.n_steps == 2
    assert found.curve[1] == pytest.approx(objective.value(found.x))
    assert found.stopped == "tolerance reached"


def test_the_sum_of_terms_is_minimised_as_one():
    first, second = quadratic(1), quadratic(2)
    found = gauss_newton(Sum([first, second]), zeros(), **SETTINGS)
    torch.testing.assert_close(found.x, torch.linalg.solve(first.matrix + second.matrix, first.b + second.b))
    assert found.curve[-1] == pytest.approx(first.value(found.x) + second.value(found.x))


def test_a_nonlinear_objective_falls_to_its_stationary_point():
    found = gauss_newton(Circle(), torch.tensor([-3.0, 0.5], dtype=torch.float64), **SETTINGS)
    assert float(Circle().linearise(found.x).gradient.norm()) < 1e-8
    assert falls(found.curve)
    assert found.n_steps == len(found.curve) - 1


@pytest.mark.parametrize("stiffness", [0.4, 0.1, 0.02])
def test_steps_that_overshoot_are_halved(stiffness: float):
    """A curvature that is too small by 1 / stiffness makes whole steps that many times too long."""
    objective = quadratic(3, stiffness)
    found = gauss_newton(objective, zeros(), **(SETTINGS | {"n_iterations": 200}))
    assert falls(found.curve)
    torch.testing.assert_close(found.x, torch.linalg.solve(objective.matrix, objective.b), rtol=1e-6, atol=1e-6)


def test_where_every_step_rises_nothing_moves():
    objective = quadratic(3, 1e-6)
    found = gauss_newton(objective, zeros(), **SETTINGS)
    assert found.stopped == "no descent left"
    assert float(found.x.norm()) == 0


def test_the_objective_may_be_revised_between_steps():
    objective, seen = quadratic(4), []

    def revise(x: Tensor) -> None:
        seen.append(x.clone())
        objective.b = objective.b * 0.5

    found = gauss_newton(objective, zeros(), revise=revise, **(SETTINGS | {"n_iterations": 3}))
    assert len(seen) == 3
    torch.testing.assert_close(found.x, torch.linalg.solve(objective.matrix, objective.b * 2))
    torch.testing.assert_close(seen[1], seen[0] / 2)


def test_the_preconditioner_is_made_where_the_step_starts():
    points = []

    def at(x: Tensor):
        points.append(x.clone())
        return lambda r: r / 3

    found = gauss_newton(Circle(), torch.tensor([1.5, 0.5], dtype=torch.float64), precondition=at, **SETTINGS)
    assert len(points) == found.n_steps
    torch.testing.assert_close(points[0], torch.tensor([1.5, 0.5], dtype=torch.float64))
    assert float(Circle().linearise(found.x).gradient.norm()) < 1e-8


def test_steps_are_reported_and_values_must_be_finite():
    seen: list[int] = []
    gauss_newton(Circle(), torch.tensor([1.5, 0.5], dtype=torch.float64), on_step=lambda step, _: seen.append(step), **SETTINGS)
    assert seen == list(range(1, len(seen) + 1))
    with pytest.raises(InputError, match="no longer finite"):
        gauss_newton(Circle(), torch.tensor([math.nan, 0.5], dtype=torch.float64), **SETTINGS)
    with pytest.raises(InputError, match="n_iterations"):
        gauss_newton(Circle(), zeros(2), **(SETTINGS | {"n_iterations": 0}))
