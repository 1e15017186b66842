"""WH-QSM: total variation together with a weak harmonic field that background removal left behind, by ADMM."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from qsmdl.about import about
from qsmdl.scan import ChiMap, FieldMap, Scan
from qsmdl.solvers.admm import OnStep, Term, admm
from qsmdl.solvers.grid import PADDING
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.solution import Solution
from qsmdl.solvers.spectral import WeakHarmonicSolve
from qsmdl.solvers.terms import EdgeWeight, Forward, cosine_misfit, harmonic, quadratic_misfit, spared_edges, total_variation
from qsmdl.solvers.weights import Weighting
from qsmdl.validation import check_positive


@about(reference="Milovic et al., WH-QSM, Magn Reson Med 2019", parameter="regularisation")
def whqsm(
    field: FieldMap,
    *,
    scan: Scan | None = None,
    regularisation: float = 8e-5,
    harmonic_regularisation: float = 600.0,
    penalty: float = 0.05,
    data_penalty: float = 1.0,
    harmonic_penalty: float = 12.0,
    n_iterations: int = 150,
    tolerance: float = 1e-3,
    weighting: Weighting = "noise",
    edge_weight: EdgeWeight = "none",
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Weak-harmonics QSM (Milovic et al., Magn Reson Med 2019), linear: the local field is that of the map plus a smooth field h.

    Minimises 1/2 ||w (D x + h - f)||^2 + alpha ||R G x||_1 + beta/2 ||m L h||^2 over x and h, all in ppm, with L minus the Laplacian in 1/mm^2 and m
    the mask: h is what an imperfect background removal left, nearly harmonic where the sources are. On a field without a background this costs some
    accuracy, since h can take a part of the smooth field.

    regularisation: alpha in ppm mm, see `tv`. harmonic_regularisation: beta in mm^4, in any unit of the field. penalty, data_penalty and
    harmonic_penalty (mu of L h; the authors use beta / 50) set the speed, not the minimiser. With a weight of maximum 1 instead of mean 1, alpha,
    beta and all penalties are smaller by mean(w)^2. The original alternates between x and h and masks x in every step; here the two are solved for
    together, which makes it a plain ADMM, and x is masked once at the end. weighting, edge_weight, padding, on_step: as in `tv`.

    Stops at a relative change of x and h together below the tolerance. The k = 0 component of x is 0; the map is not referenced further. Every step
    takes six real transforms. Raises InputError for a total field, a setting out of range, or an edge weight without a scan.
    """
    check_positive(data_penalty=data_penalty)
    problem = Problem.of(field, padding=padding, weighting=weighting)
    found = _minimise(
        problem,
        lambda forward: quadratic_misfit(problem, forward, data_penalty),
        regularisation=regularisation,
        harmonic_regularisation=harmonic_regularisation,
        penalties=(penalty, data_penalty, harmonic_penalty),
        edges=spared_edges(problem, scan, edge_weight),
        n_iterations=n_iterations,
        tolerance=tolerance,
        on_step=on_step,
    )
    return problem.chi_map(found)


@about(reference="Milovic et al., WH-QSM, Magn Reson Med 2019", parameter="regularisation")
def whnlqsm(
    field: FieldMap,
    *,
    scan: Scan | None = None,
    regularisation: float = 8e-5,
    harmonic_regularisation: float = 600.0,
    penalty: float = 0.05,
    data_penalty: float = 1.0,
    harmonic_penalty: float = 12.0,
    echo_time_s: float = 0.003,
    n_iterations: int = 150,
    tolerance: float = 1e-3,
    weighting: Weighting = "noise",
    edge_weight: EdgeWeight = "none",
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Weak-harmonics QSM (Milovic et al., Magn Reson Med 2019), nonlinear: `whqsm` with the misfit of complex signals.

    Minimises sum w^2 / c^2 (1 - cos(c (D x + h - f))) + alpha ||R G x||_1 + beta/2 ||m L h||^2 with c = 2 pi gamma B0 `echo_time_s` in rad/ppm,
    constant beyond half a turn of misfit as in `nltv`; the field is unwrapped, so no choice of c can wrap. Everything else as in `whqsm`.

    Stops at a relative change of x and h together below the tolerance. The k = 0 component of x is 0; the map is not referenced further. Every step
    takes six real transforms. Raises InputError for a total field, a setting out of range, or an edge weight without a scan.
    """
    check_positive(data_penalty=data_penalty, echo_time_s=echo_time_s)
    problem = Problem.of(field, padding=padding, weighting=weighting)
    rad_per_ppm = problem.radians(echo_time_s)
    found = _minimise(
        problem,
        lambda forward: cosine_misfit(problem, forward, data_penalty, rad_per_ppm),
        regularisation=regularisation,
        harmonic_regularisation=harmonic_regularisation,
        penalties=(penalty, data_penalty, harmonic_penalty),
        edges=spared_edges(problem, scan, edge_weight),
        n_iterations=n_iterations,
        tolerance=tolerance,
        on_step=on_step,
    )
    return problem.chi_map(found)


def _minimise(
    problem: Problem,
    misfit: Callable[[Forward], Term],
    *,
    regularisation: float,
    harmonic_regularisation: float,
    penalties: tuple[float, float, float],
    edges: Tensor | None,
    n_iterations: int,
    tolerance: float,
    on_step: OnStep | None,
) -> Solution[Tensor]:
    """Any data term of D x + h with total variation of x and a harmonic h; the solution holds x. penalties: of gradient, data and Laplacian."""
    penalty, _, harmonic_penalty = penalties
    check_positive(
        regularisation=regularisation, harmonic_regularisation=harmonic_regularisation, penalty=penalty, harmonic_penalty=harmonic_penalty
    )
    solve = WeakHarmonicSolve(problem.grid, *penalties)
    sparse = total_variation(problem, regularisation, penalty, edges)
    terms = [
        replace(sparse, forward=lambda both: sparse.forward(both[0])),
        misfit(solve.field),
        harmonic(problem, solve.laplacian, harmonic_regularisation, harmonic_penalty),
    ]
    found = admm(solve, terms, n_iterations=n_iterations, tolerance=tolerance, on_step=on_step)
    return replace(found, x=found.x[0])
