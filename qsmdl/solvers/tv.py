"""Total variation with a weighted linear or nonlinear data term, by ADMM."""

import math

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.scan import ChiMap, FieldMap
from qsmdl.solvers.admm import OnStep, Term, admm, check_iterations
from qsmdl.solvers.direct import PADDING
from qsmdl.solvers.grid import WorkingGrid
from qsmdl.solvers.prox import soft_threshold, weighted_cosine, weighted_quadratic
from qsmdl.solvers.spectral import GradientDipoleSolve
from qsmdl.solvers.weights import Weighting, data_weight
from qsmdl.units import rad_per_ppm


def tv(
    field: FieldMap,
    *,
    regularisation: float = 5e-5,
    penalty: float = 0.05,
    data_penalty: float = 1.0,
    n_iterations: int = 150,
    tolerance: float = 1e-3,
    weighting: Weighting = "noise",
    nonlinear: bool = True,
    echo_time_s: float = 0.012,
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    _check(regularisation, penalty, data_penalty, echo_time_s)
    check_iterations(n_iterations, tolerance)
    grid = WorkingGrid.of(field, padding)
    weight = grid.place(data_weight(field, weighting))
    data = grid.place(field.field_ppm)
    solve = GradientDipoleSolve(grid, penalty, data_penalty)
    inside = weight.flatten().nonzero().squeeze(1)
    squared, measured = weight.flatten()[inside].square(), data.flatten()[inside]
    radians = _phase_scale(field, echo_time_s) if nonlinear else 0.0

    def fit(v: Tensor) -> Tensor:
        # Where the weight is 0 the proximal map is the identity: only the mask is worked on.
        z = v.clone()
        known = v.flatten()[inside]
        fitted = weighted_cosine(known, measured, squared, data_penalty, radians) if nonlinear else weighted_quadratic(known, measured, squared, data_penalty)
        z.view(-1).index_copy_(0, inside, fitted)
        return z

    def shrink(v: Tensor) -> Tensor:
        return soft_threshold(v, regularisation / penalty)

    start = weighted_quadratic(torch.zeros_like(data), data, weight.square(), data_penalty)
    terms = [Term(solve.gradient.apply_forward, shrink, data.new_zeros((3, *grid.shape))), Term(solve.field, fit, start)]
    solution = admm(solve, terms, n_iterations=n_iterations, tolerance=tolerance, on_step=on_step)
    return grid.chi_map(solution.x, solution.outcome)


def _phase_scale(field: FieldMap, echo_time_s: float) -> float:
    return rad_per_ppm(field.geometry.b0_tesla, echo_time_s)


def _check(regularisation: float, penalty: float, data_penalty: float, echo_time_s: float) -> None:
    named = {"regularisation": regularisation, "penalty": penalty, "data_penalty": data_penalty, "echo_time_s": echo_time_s}
    for name, value in named.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}; it must be positive and finite.")
