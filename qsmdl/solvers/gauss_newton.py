"""Gauss-Newton with inner conjugate gradients, for nonlinear data terms and lagged-diffusivity regularisers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.solvers.admm import OnStep, check_iterations, relative_change
from qsmdl.solvers.krylov import Apply, cg
from qsmdl.solvers.solution import Solution

N_HALVINGS = 6


@dataclass(frozen=True, slots=True)
class Linearised:
    """An objective around a point: its value and gradient there, and v -> H v, a self-adjoint positive semidefinite model of its curvature."""

    value: float
    gradient: Tensor
    curvature: Apply


class Objective(Protocol):
    """A function to minimise."""

    def value(self, x: Tensor) -> float:
        """Its value at x."""

    def linearise(self, x: Tensor) -> Linearised:
        """Its value, gradient and curvature at x."""


class Sum:
    """The sum of several objectives of the same unknown."""

    def __init__(self, terms: Sequence[Objective]) -> None:
        self.terms = tuple(terms)

    def value(self, x: Tensor) -> float:
        """Sum of the values."""
        return sum(term.value(x) for term in self.terms)

    def linearise(self, x: Tensor) -> Linearised:
        """Sum of the values, gradients and curvatures."""
        parts = [term.linearise(x) for term in self.terms]

        def curvature(v: Tensor) -> Tensor:
            total = parts[0].curvature(v)
            for part in parts[1:]:
                total += part.curvature(v)
            return total

        gradient = parts[0].gradient
        for part in parts[1:]:
            gradient = gradient + part.gradient
        return Linearised(sum(part.value for part in parts), gradient, curvature)


def gauss_newton(
    objective: Objective,
    start: Tensor,
    *,
    n_iterations: int,
    tolerance: float,
    cg_iterations: int,
    cg_tolerance: float,
    precondition: Callable[[Tensor], Apply] | None = None,
    revise: Callable[[Tensor], None] | None = None,
    on_step: OnStep | None = None,
) -> Solution[Tensor]:
    """Minimise an objective: x += d with H d = -gradient, solved by `cg` from 0 and truncated.

    precondition: x -> the preconditioner of the step at x, made after the objective was linearised there. A step that raises the objective is halved,
    up to six times, and then refused: the objective never rises. revise(x): called after every step, may change the objective itself (weights that
    follow the misfit, parameters that are refitted to x). Stops at ||d|| / ||x|| below the tolerance. residual: the last relative change; curve: the
    objective at the start and after every step, before its revision. Raises InputError where a value is no longer finite.
    """
    check_iterations(n_iterations, tolerance)
    x, stopped, change, step = start, "max steps", 1.0, 0
    curve: list[float] = []
    for step in range(1, n_iterations + 1):
        model = objective.linearise(x)
        if not math.isfinite(model.value):
            raise InputError(f"The objective is no longer finite after {step - 1} steps. Check the field map and its weight for extreme values.")
        curve = curve or [model.value]
        inverse = None if precondition is None else precondition(x)
        d = cg(model.curvature, -model.gradient, n_iterations=cg_iterations, tolerance=cg_tolerance, precondition=inverse).x
        found = _descending(objective.value, x, d, model.value)
        if found is None:
            stopped = "no descent left"
            break
        change, x = relative_change(found[0], x), found[0]
        curve.append(found[1])
        if on_step is not None:
            on_step(step, change)
        if change < tolerance:
            stopped = "tolerance reached"
            break
        if revise is not None:
            revise(x)
    return Solution(x, step, stopped, change, tuple(curve))


def _descending(value: Callable[[Tensor], float], x: Tensor, d: Tensor, before: float) -> tuple[Tensor, float] | None:
    """The point x + d, or the first half, quarter ... of the way at which the objective has not risen, and its value; None where all raise it."""
    # Float32 sums over a head carry this much rounding; a change below it is no rise.
    slack = abs(before) * 8 * torch.finfo(x.dtype).eps
    for halving in range(N_HALVINGS + 1):
        candidate = x + d * 0.5**halving
        after = value(candidate)
        if after <= before + slack:
            return candidate, after
    return None
