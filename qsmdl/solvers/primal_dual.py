"""The preconditioned primal-dual hybrid gradient method for sum_i g_i(K_i x). It knows neither operators nor physics."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.solvers.admm import OnStep, check_iterations, relative_change
from qsmdl.solvers.solution import Solution


@dataclass(frozen=True, slots=True)
class DualTerm:
    """One term g(K x). forward: x -> K x, a new tensor; add_adjoint: y, total -> adds K^T y to the total in place; step: sigma; prox: v -> argmin_y
    g*(y) + ||y - v||^2 / (2 sigma), with sigma known to it and g* the convex conjugate of g; it may overwrite v.
    """

    forward: Callable[[Tensor], Tensor]
    add_adjoint: Callable[[Tensor, Tensor], None]
    step: float
    prox: Callable[[Tensor], Tensor]


def primal_dual(
    terms: Sequence[DualTerm],
    start: Tensor,
    *,
    precondition: Callable[[Tensor], Tensor],
    n_iterations: int,
    tolerance: float,
    on_step: OnStep | None = None,
) -> Solution[Tensor]:
    """Minimise sum_i g_i(K_i x) over x, g_i convex (Chambolle and Pock, J Math Imaging Vis 2011; preconditioned: Pock and Chambolle, ICCV 2011).

    Repeats y_i <- prox_i(y_i + sigma_i K_i x~), x <- x - T sum_i K_i^T y_i, x~ = 2 x - x_before, with duals that start at 0. precondition: r -> T r,
    a new tensor; T is self-adjoint with sum_i sigma_i ||K_i x||^2 <= <x, T^-1 x> for all x, then the iterates converge to a minimiser. The objective
    itself may rise between steps. Stops when ||x - x_before|| / ||x|| falls below the tolerance (0: never). residual and curve hold that change.
    on_step(step, change) is called after every step. Raises InputError for a setting out of range, or if x is no longer finite.
    """
    check_iterations(n_iterations, tolerance)
    x, ahead = start.clone(), start
    duals: list[Tensor] = []
    curve: list[float] = []
    for step in range(1, n_iterations + 1):
        pull = torch.zeros_like(x)
        for i, term in enumerate(terms):
            v = term.forward(ahead).mul_(term.step)
            if step == 1:
                duals.append(term.prox(v))
            else:
                duals[i] = term.prox(v.add_(duals[i]))
            term.add_adjoint(duals[i], pull)
        before, x = x, x - precondition(pull)
        change = relative_change(x, before)
        curve.append(change)
        if not math.isfinite(change):
            raise InputError(f"The map is no longer finite after {step} steps. Check the field map and its weight for extreme values.")
        if on_step is not None:
            on_step(step, change)
        if change < tolerance:
            break
        ahead = torch.sub(x, before).add_(x)
    return Solution(x, len(curve), "tolerance reached" if curve[-1] < tolerance else "max steps", curve[-1], tuple(curve))
