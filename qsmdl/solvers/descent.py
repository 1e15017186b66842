"""First-order descent: plain, accelerated with restarts, and with a proximal map."""

import math
from collections.abc import Callable

from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.solvers.admm import OnStep, check_iterations, relative_change
from qsmdl.solvers.krylov import inner
from qsmdl.solvers.solution import Solution


def descend(
    gradient: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    step_size: float,
    n_iterations: int,
    tolerance: float,
    accelerate: bool = False,
    prox: Callable[[Tensor], Tensor] | None = None,
    value: Callable[[Tensor], float] | None = None,
    stop: Callable[[Tensor, int], bool] | None = None,
    on_step: OnStep | None = None,
) -> Solution[Tensor]:
    """Repeat x <- prox(x - t gradient(x)), plain or with Nesterov's momentum, which is set back to 0 whenever the step points uphill (O'Donoghue and
    Candes, Found Comput Math 2015).

    step_size: t; at most 1 / Lipschitz constant of the gradient (2 / L without acceleration) for the objective to fall. prox: of t times the part of
    the objective that has no gradient. stop(x, step): a rule of one's own. curve: the objective where `value` is given, else the relative change.
    Raises InputError where x is no longer finite.
    """
    check_iterations(n_iterations, tolerance)
    x, ahead, momentum, stopped, change, step, curve = start, start, 1.0, "max steps", 1.0, 0, []
    for step in range(1, n_iterations + 1):
        moved = ahead - step_size * gradient(ahead)
        if prox is not None:
            moved = prox(moved)
        change = relative_change(moved, x)
        if not math.isfinite(change):
            raise InputError(f"The map is no longer finite after {step} steps. Lower the step size, now {step_size:g}.")
        if accelerate:
            uphill = inner(ahead - moved, moved - x) > 0
            following = 1.0 if uphill else (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            ahead = moved if uphill else moved + (momentum - 1) / following * (moved - x)
            momentum = following
        else:
            ahead = moved
        x = moved
        curve.append(change if value is None else value(x))
        if on_step is not None:
            on_step(step, curve[-1])
        if change < tolerance:
            stopped = "tolerance reached"
            break
        if stop is not None and stop(x, step):
            stopped = "own rule"
            break
    return Solution(x, step, stopped, change, tuple(curve))
