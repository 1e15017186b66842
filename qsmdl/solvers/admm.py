"""The alternating direction method of multipliers for sum_i g_i(K_i x), with every K_i x split off. It knows neither operators nor physics."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.solvers.solution import Solution

OnStep = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class Term:
    """One term g(K x). forward: x -> K x, a new tensor; prox: v -> argmin_z g(z) + mu/2 ||z - v||^2, a new tensor, with mu known to it; start: the
    first target z - s (its dual starts at 0). rest, where it is cheaper: v, out -> v - prox(v), written to out.
    """

    forward: Callable[[Tensor], Tensor]
    prox: Callable[[Tensor], Tensor]
    start: Tensor
    rest: Callable[[Tensor, Tensor], Tensor] | None = None


@dataclass(slots=True)
class GrowingPenalty:
    """A penalty mu that grows by `growth` whenever the split K x - z has not shrunk to `share` of what it was a step before: then mu is too weak to
    bring the two together. It stands still with a growth of 1. `value` is what solve and prox read at every step.
    """

    value: float
    growth: float = 1.0
    share: float = 0.7
    split: float = math.inf

    def grow(self, split: float) -> float:
        """The factor by which mu grows after a step that left this ||K x - z||."""
        factor = self.growth if split > self.share * self.split else 1.0
        self.split, self.value = split, self.value * factor
        return factor


def admm(
    solve: Callable[[Sequence[Tensor]], Tensor],
    terms: Sequence[Term],
    *,
    n_iterations: int,
    tolerance: float,
    start: Tensor | None = None,
    penalty: GrowingPenalty | None = None,
    on_step: OnStep | None = None,
) -> Solution[Tensor]:
    """Minimise sum_i g_i(K_i x) (Boyd et al., Found Trends Mach Learn 2011, scaled duals).

    solve: the targets t_i = z_i - s_i -> argmin_x sum_i mu_i/2 ||K_i x - t_i||^2. start: an x to begin with, whose first targets come from the
    proximal maps with duals of 0 (None: the terms' own). Stops when the relative change ||x - x_before|| / ||x|| falls below the tolerance (0:
    never), checked before the duals move; residual and curve hold that change. penalty: of the first term, where solve and prox read it anew at
    every step (its dual shrinks as it grows). on_step(step, change) is called after every step. Raises InputError for a setting out of range, or if x
    is no longer finite.
    """
    check_iterations(n_iterations, tolerance)
    targets = [term.start for term in terms]
    duals = [torch.zeros_like(target) for target in targets]
    curve: list[float] = []

    def advance(x: Tensor) -> None:
        for i, term in enumerate(terms):
            v = term.forward(x).add_(duals[i])
            if term.rest is not None and (penalty is None or i > 0):
                # The next dual is v - z, and the next target z - (v - z): no new volumes.
                targets[i] = v.sub_(term.rest(v, duals[i]), alpha=2)
                continue
            z = term.prox(v)
            v.sub_(z)
            if penalty is not None and i == 0:
                v.div_(penalty.grow(float(torch.linalg.vector_norm(v - duals[i]))))
            duals[i] = v
            targets[i] = z.sub_(duals[i])

    if start is not None:
        advance(start)
    x, before = solve(targets), start
    for step in range(1, n_iterations + 1):
        # The x of the step before is not needed again, except where it is the caller's.
        change = relative_change(x, before, spent=before is not start)
        curve.append(change)
        if not math.isfinite(change):
            raise InputError(
                f"The map is no longer finite after {step} steps. Check the field map and its weight for extreme values, and raise the penalty."
            )
        if on_step is not None:
            on_step(step, change)
        if change < tolerance or step == n_iterations:
            break
        advance(x)
        x, before = solve(targets), x
    stopped = "tolerance reached" if curve[-1] < tolerance else "max steps"
    return Solution(x, len(curve), stopped, curve[-1], tuple(curve))


def continued(on_step: OnStep | None, n_before: int) -> OnStep | None:
    """The same report for a later stage of a method: its steps count on from n_before."""
    return None if on_step is None else lambda step, value: on_step(n_before + step, value)


def relative_change(x: Tensor, before: Tensor | None, *, spent: bool = False) -> float:
    """||x - before|| / ||x||; 1 for the first x, so that a start of 0 is not taken for the end; 0 where both are 0. spent: `before` may be
    overwritten.
    """
    norm = float(torch.linalg.vector_norm(x))
    if before is None:
        return 1.0 if math.isfinite(norm) else norm
    distance = float(torch.linalg.vector_norm(before.sub_(x) if spent else x - before))
    return distance / norm if norm > 0 else distance


def check_iterations(n_iterations: int, tolerance: float) -> None:
    """Refuse numbers of steps and tolerances that no iteration can keep."""
    if n_iterations < 1:
        raise InputError(f"n_iterations is {n_iterations}; at least one step is needed.")
    if not 0 <= tolerance < 1:
        raise InputError(f"tolerance is {tolerance}; the relative change to stop at must lie between 0 (never) and 1.")
