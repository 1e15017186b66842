"""The terms that ADMM solvers are made of: data terms and total variation, each with its proximal map."""

from collections.abc import Callable

import torch
from torch import Tensor

from qsmdl.solvers.admm import Term
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.prox import soft_threshold, weighted_absolute, weighted_absolute_phase, weighted_cosine, weighted_quadratic

Forward = Callable[[Tensor], Tensor]


def total_variation(problem: Problem, regularisation: float, penalty: float, edge_weight: Tensor | None = None) -> Term:
    """The term alpha ||R G x||_1, anisotropic: the absolute differences of the three directions are summed.

    edge_weight: R on the working grid, [x, y, z] or [3, x, y, z] (None: 1). The dual starts at 0.
    """
    threshold = regularisation / penalty if edge_weight is None else edge_weight * (regularisation / penalty)
    return Term(problem.gradient.apply_forward, lambda v: soft_threshold(v, threshold), problem.data.new_zeros((3, *problem.grid.shape)))


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
    """||w (z - f)||_1, with w not squared (Milovic et al., Magn Reson Med 2022, L1-QSM)."""
    weight = problem.squared_weight.sqrt()
    prox = problem.where_measured(lambda v: weighted_absolute(v, problem.measured, weight, penalty))
    return Term(forward, prox, prox(torch.zeros_like(problem.data)))


def absolute_phase_misfit(problem: Problem, forward: Forward, penalty: float, rad_per_unit: float) -> Term:
    """The term sum w / c |exp(i c z) - exp(i c f)|, bounded beyond half a turn (the nonlinear L1-QSM of Milovic et al. 2022)."""
    weight = problem.squared_weight.sqrt()
    prox = problem.where_measured(lambda v: weighted_absolute_phase(v, problem.measured, weight, penalty, rad_per_unit))
    return Term(forward, prox, prox(torch.zeros_like(problem.data)))
