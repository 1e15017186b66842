"""The terms that ADMM solvers are made of: data terms and total variation, each with its proximal map."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.relaxation import combined_magnitude, fit_r2star
from qsmdl.scan import Scan
from qsmdl.solvers.admm import Term
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.prox import PhaseSplit, Threshold, clip, soft_threshold, weighted_absolute, weighted_cosine, weighted_quadratic
from qsmdl.solvers.weights import soft_edge_weight

Forward = Callable[[Tensor], Tensor]
EdgeWeight = Literal["none", "magnitude", "r2star"]


def spared_edges(problem: Problem, scan: Scan | None, edge_weight: EdgeWeight) -> Tensor | None:
    """The weight R of total variation, [3, x, y, z] on the working grid: small where the scan's map has an edge, at most 1 (`soft_edge_weight`).

    edge_weight: "none" (None is returned: R = 1), "magnitude" (root sum of squares over the echoes), or "r2star" (`fit_r2star`), which shows
    iron-rich nuclei and veins where the magnitude is flat. The more is spared, the larger the regularisation parameter has to be. Raises InputError
    for another word, or where the scan is missing or lies on another grid.
    """
    if edge_weight not in get_args(EdgeWeight):
        raise InputError(f"edge_weight is {edge_weight!r}; it must be one of {', '.join(map(repr, get_args(EdgeWeight)))}.")
    if edge_weight == "none":
        return None
    field = problem.grid.field
    if scan is None:
        raise InputError(f"edge_weight={edge_weight!r} needs the magnitude, but only a field map was given. Pass the scan, or edge_weight='none'.")
    if scan.geometry.shape != field.geometry.shape:
        raise InputError(f"The scan has the grid {scan.geometry.shape} and the field map {field.geometry.shape}; edges need both on one grid.")
    volume = fit_r2star(scan)[0] if edge_weight == "r2star" else combined_magnitude(scan)
    return soft_edge_weight(problem.grid.place(volume.to(problem.data)), problem.mask, problem.gradient)


def total_variation(problem: Problem, regularisation: float, penalty: float, edge_weight: Tensor | None = None) -> Term:
    """The term alpha ||R G x||_1, anisotropic: the absolute differences of the three directions are summed.

    edge_weight: R on the working grid, [x, y, z] or [3, x, y, z] (None: 1). The dual starts at 0.
    """
    threshold = regularisation / penalty if edge_weight is None else edge_weight * (regularisation / penalty)
    return absolute(problem.gradient.apply_forward, threshold, problem.data.new_zeros((3, *problem.grid.shape)))


def absolute(forward: Forward, threshold: Threshold, start: Tensor) -> Term:
    """The term mu ||threshold * K x||_1, mu its penalty, as a threshold of the split variable."""
    return Term(forward, lambda v: soft_threshold(v, threshold), start, rest=lambda v, out: clip(v, threshold, out))


def harmonic(problem: Problem, forward: Forward, regularisation: float, penalty: float) -> Term:
    """The term beta/2 ||m z||^2, m the mask."""
    factor = penalty / (penalty + regularisation * problem.mask.to(problem.data.dtype))
    return Term(forward, lambda v: v * factor, torch.zeros_like(problem.data))


def quadratic_misfit(problem: Problem, forward: Forward, penalty: float) -> Term:
    """1/2 ||w (z - f)||^2."""
    prox = problem.where_measured(lambda v: weighted_quadratic(v, problem.measured, problem.squared_weight, penalty))
    return Term(forward, prox, prox(torch.zeros_like(problem.data)))


def cosine_misfit(problem: Problem, forward: Forward, penalty: float, rad_per_unit: float) -> Term:
    """The term sum w^2 / c^2 (1 - cos(c (z - f))): the misfit of complex signals, for a field that is unwrapped (`weighted_cosine`). It starts from
    the quadratic one's first step.
    """
    fit = problem.where_measured(lambda v: weighted_cosine(v, problem.measured, problem.squared_weight, penalty, rad_per_unit))
    return Term(forward, fit, quadratic_misfit(problem, forward, penalty).start)


def absolute_misfit(problem: Problem, forward: Forward, penalty: float) -> Term:
    """||w (z - f)||_1, with w not squared. It starts from the field itself."""
    weight = problem.squared_weight.sqrt()
    prox = problem.where_measured(lambda v: weighted_absolute(v, problem.measured, weight, penalty))
    return Term(forward, prox, problem.data.clone())


def absolute_phase_misfit(problem: Problem, forward: Forward, penalty: float, phase_penalty: float, rad_per_unit: float) -> Term:
    """The term sum w / c |exp(i c z) - exp(i c f)|, constant beyond half a turn, by the split of `PhaseSplit`: its prox keeps a state, so a term
    serves one run. It starts from the field itself.
    """
    split = PhaseSplit(problem.measured, problem.squared_weight.sqrt(), penalty, phase_penalty, rad_per_unit)
    return Term(forward, problem.where_measured(split), problem.data.clone())
