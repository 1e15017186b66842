"""Gauss-Newton with inner conjugate gradients, for nonlinear data terms and lagged-diffusivity regularisers."""

import math
from collections.abc import Callable
from dataclasses import dataclass

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


def gauss_newton(
    linearise: Callable[[Tensor], Linearised],
    value: Callable[[Tensor], float],
    start: Tensor,
    *,
    n_iterations: int,
    tolerance: float,
    cg_iterations: int,
    cg_tolerance: float,
    precondition: Apply | None = None,
    on_step: OnStep | None = None,
) -> Solution[Tensor]:
    """Minimise an objective: x += d with H d = -gradient, solved by `cg` from 0 and truncated.

    A step that raises the objective is halved, up to six times, and then refused: the objective never rises. Stops at ||d|| / ||x|| below the
    tolerance. residual: the last relative change; curve: the objective, from the start on. Raises InputError where a value is no longer finite.
    """
    check_iterations(n_iterations, tolerance)
    x, stopped, change, step = start, "max steps", 1.0, 0
    model = linearise(x)
    curve = [model.value]
    for step in range(1, n_iterations + 1):
        if not math.isfinite(model.value):
            raise InputError(f"The objective is no longer finite after {step - 1} steps. Check the field map and its weight for extreme values.")
        d = cg(model.curvature, -model.gradient, n_iterations=cg_iterations, tolerance=cg_tolerance, precondition=precondition).x
        shorter = _descending(value, x, d, model.value)
        if shorter is None:
            stopped = "no descent left"
            break
        change, x = relative_change(shorter, x), shorter
        model = linearise(x)
        curve.append(model.value)
        if on_step is not None:
            on_step(step, change)
        if change < tolerance:
            stopped = "tolerance reached"
            break
    return Solution(x, step, stopped, change, tuple(curve))


def _descending(value: Callable[[Tensor], float], x: Tensor, d: Tensor, before: float) -> Tensor | None:
    """The point x + d, or the first half, quarter ... of the way at which the objective has not risen; None where all raise it."""
    # Float32 sums over a head carry this much rounding; a change below it is no rise.
    slack = abs(before) * 8 * torch.finfo(x.dtype).eps
    for halving in range(N_HALVINGS + 1):
        candidate = x + d * 0.5**halving
        if value(candidate) <= before + slack:
            return candidate
    return None
