"""One Gauss-Newton inversion: a data term of the field and a smoothed total variation, as MEDI, TFI and their kin share it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from qsmdl.solvers.admm import OnStep
from qsmdl.solvers.gauss_newton import Objective, Sum, gauss_newton
from qsmdl.solvers.objective import DipoleMisfit, FourierCoordinates, SmoothedVariation, inverse_mean_curvature
from qsmdl.solvers.preconditioner import preconditioner
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.solution import Solution


def invert(
    problem: Problem,
    data: DipoleMisfit,
    variation: SmoothedVariation,
    coordinates: FourierCoordinates,
    *,
    n_iterations: int,
    tolerance: float,
    cg_iterations: int,
    cg_tolerance: float,
    more: Sequence[Objective] = (),
    start: Tensor | None = None,
    strength: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Solution[Tensor]:
    """Minimise data + variation + more; the map in ppm on the working grid.

    start: a map to start from, None for 0; strength: where strong sources are expected, None for everywhere alike (`preconditioner`); both on the
    working grid. The steps are preconditioned in k-space by the mean curvature.
    """
    first = coordinates.pack(torch.zeros_like(problem.data) if start is None else start)
    first[0, 0, 0] = 0.0
    found = gauss_newton(
        Sum([data, variation, *more]),
        first,
        n_iterations=n_iterations,
        tolerance=tolerance,
        cg_iterations=cg_iterations,
        cg_tolerance=cg_tolerance,
        precondition=lambda _: preconditioner(inverse_mean_curvature(problem, data, variation), coordinates, strength),
        revise=data.revise,
        on_step=on_step,
    )
    return Solution(coordinates.unpack(found.x), found.n_steps, found.stopped, found.residual, found.curve)
