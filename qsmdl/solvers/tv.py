"""Total variation with a weighted linear or nonlinear data term, by ADMM."""

import inspect
from collections.abc import Callable

from torch import Tensor

from qsmdl.about import about
from qsmdl.scan import ChiMap, FieldMap, Scan
from qsmdl.solvers.admm import OnStep, Term, admm
from qsmdl.solvers.grid import PADDING
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.solution import Solution
from qsmdl.solvers.spectral import GradientDipoleSolve
from qsmdl.solvers.terms import EdgeWeight, Forward, cosine_misfit, quadratic_misfit, spared_edges, total_variation
from qsmdl.solvers.weights import USUAL_NOISE_PPM, Weighting, median_noise_ppm
from qsmdl.validation import check_positive


@about(
    reference="Milovic et al., FANSI, Magn Reson Med 2018",
    checked="check phantom: 9.37",
    parameter="regularisation",
)
def tv(
    field: FieldMap,
    *,
    scan: Scan | None = None,
    regularisation: float = 8e-5,
    penalty: float = 0.05,
    data_penalty: float = 1.0,
    n_iterations: int = 150,
    tolerance: float = 1e-3,
    weighting: Weighting = "noise",
    edge_weight: EdgeWeight = "none",
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Total variation with a weighted linear data term, by ADMM with data splitting (Milovic et al., Magn Reson Med 2018, "FANSI", wTV).

    Minimises 1/2 ||w (D x - f)||^2 + alpha ||R G x||_1 with x and f in ppm, G the periodic gradient in 1/mm, its three components summed
    (anisotropic). Neither B0 nor an echo time enters, and the map scales with the field and alpha together.

    regularisation: alpha in ppm mm, for a weight w whose mean in the mask is 1 (`data_weight`). It converts from codes that work in rad with a weight
    of maximum 1: alpha = alpha_rad / (2 pi gamma B0 TE) / mean(w)^2, so that 2e-4 rad at 7 T and 12 ms with a mean of 0.5 is 3.6e-5. Less noise wants
    less of it, in proportion. penalty (mu_1 of ||G x - z||^2) and data_penalty (mu_2), without units of the field, set the speed, not the minimiser;
    by the weight they convert like alpha, by 1 / mean(w)^2. The defaults are those of `nltv`. weighting: "noise" or "uniform". edge_weight: R, "none"
    (1), or "magnitude" or "r2star", small at the edges of that map of the scan (`spared_edges`). padding: see `WorkingGrid.of`. on_step(step,
    change): progress.

    Stops at a relative change of x below the tolerance. The k = 0 component is 0; the map is not referenced further. Every step takes four real
    transforms. Raises InputError for a total field, a setting out of range, or an edge weight without a scan.
    """
    check_positive(regularisation=regularisation, penalty=penalty, data_penalty=data_penalty)
    problem = Problem.of(field, padding=padding, weighting=weighting)
    found = minimise(
        problem,
        lambda forward: quadratic_misfit(problem, forward, data_penalty),
        regularisation=regularisation,
        penalty=penalty,
        data_penalty=data_penalty,
        edges=spared_edges(problem, scan, edge_weight),
        n_iterations=n_iterations,
        tolerance=tolerance,
        on_step=on_step,
    )
    return problem.chi_map(found)


@about(
    reference="Milovic et al., FANSI, Magn Reson Med 2018",
    checked="check phantom: 9.37",
    parameter="regularisation",
)
def nltv(
    field: FieldMap,
    *,
    scan: Scan | None = None,
    regularisation: float = 8e-5,
    penalty: float = 0.05,
    data_penalty: float = 1.0,
    echo_time_s: float = 0.003,
    n_iterations: int = 150,
    tolerance: float = 1e-3,
    weighting: Weighting = "noise",
    edge_weight: EdgeWeight = "none",
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Total variation with the misfit of complex signals, by ADMM with data splitting (Milovic et al., Magn Reson Med 2018, "FANSI", nlTV).

    Minimises sum w^2 / c^2 (1 - cos(c (D x - f))) + alpha ||R G x||_1 with c = 2 pi gamma B0 `echo_time_s` in rad/ppm, the rest as in `tv`, with
    which it agrees for small misfits. The pull of voxels that misfit by more than a quarter of a turn (0.28 ppm at 7 T and 3 ms) is bounded, and
    those beyond half a turn are let go. Unlike in the original, the field is unwrapped, so the cosine is not continued beyond half a turn and no
    choice of c can wrap. B0 matters to c alone.

    regularisation, penalty, data_penalty, weighting, edge_weight, padding and on_step: as in `tv`. The defaults of regularisation and echo_time_s
    were chosen on two simulated heads (peak SNR 100, 7 T), one with a calcification; at 12 ms the calcification came out weaker.

    Stops at a relative change of x below the tolerance. The k = 0 component is 0; the map is not referenced further. Every step takes four real
    transforms. Raises InputError for a total field, a setting out of range, or an edge weight without a scan.
    """
    check_positive(regularisation=regularisation, penalty=penalty, data_penalty=data_penalty, echo_time_s=echo_time_s)
    problem = Problem.of(field, padding=padding, weighting=weighting)
    rad_per_ppm = problem.radians(echo_time_s)
    found = minimise(
        problem,
        lambda forward: cosine_misfit(problem, forward, data_penalty, rad_per_ppm),
        regularisation=regularisation,
        penalty=penalty,
        data_penalty=data_penalty,
        edges=spared_edges(problem, scan, edge_weight),
        n_iterations=n_iterations,
        tolerance=tolerance,
        on_step=on_step,
    )
    return problem.chi_map(found)


def minimise(
    problem: Problem,
    misfit: Callable[[Forward], Term],
    *,
    regularisation: float,
    penalty: float,
    data_penalty: float,
    edges: Tensor | None,
    n_iterations: int,
    tolerance: float,
    start: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Solution[Tensor]:
    """Any data term of the field D x, plus total variation: `misfit` makes the term from x -> D x, its prox for `data_penalty`.

    edges: R of the total variation, None for 1. start: a map to start from, see `admm`.
    """
    solve = GradientDipoleSolve(problem.grid, penalty, data_penalty)
    terms = [total_variation(problem, regularisation, penalty, edges), misfit(solve.field)]
    return admm(solve, terms, n_iterations=n_iterations, tolerance=tolerance, start=start, on_step=on_step)


def noise_scaled_regularisation(field: FieldMap) -> float:
    """The regularisation of `nltv` in ppm mm for a scan: its default up to the noise of the scans that it was chosen on, in proportion to the noise
    (the median of the field's standard deviation in the mask) above. Not less for less noise: that helps heads without strong sources and harms those
    with, since near veins and calcifications the field of a scan is not that of its map, however little noise there is (docs/flagship.md, entry 7).
    The default where the noise is not known.
    """
    default = float(inspect.signature(nltv).parameters["regularisation"].default)
    return default * max(1.0, median_noise_ppm(field) / USUAL_NOISE_PPM)
