"""TFI: dipole inversion preconditioned by the susceptibility that R2* lets expect."""

import torch
from torch import Tensor

from qsmdl.about import about
from qsmdl.errors import InputError
from qsmdl.physics.relaxation import fit_r2star
from qsmdl.scan import ChiMap, FieldMap, Scan
from qsmdl.solvers.admm import OnStep
from qsmdl.solvers.direct import tkd
from qsmdl.solvers.echoes import FieldMisfit, check_same_grid
from qsmdl.solvers.grid import PADDING
from qsmdl.solvers.inversion import invert
from qsmdl.solvers.medi import magnitude_edges
from qsmdl.solvers.objective import DipoleMisfit, FourierCoordinates, SmoothedVariation
from qsmdl.solvers.preconditioner import strength_by_r2star, strength_by_threshold
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.weights import Weighting
from qsmdl.validation import check_positive


@about(
    input="all echoes",
    reference="Liu et al., TFI, Magn Reson Med 2017",
    parameter="regularisation",
)
def tfi(
    field: FieldMap,
    *,
    regularisation: float = 8e-5,
    strength: float = 10.0,
    r2star_per_s: float = 120.0,
    edge_share: float = 0.0,
    rejection: bool = True,
    echo_time_s: float = 0.003,
    smoothing: float = 1e-4,
    n_iterations: int = 10,
    tolerance: float = 0.1,
    cg_iterations: int = 40,
    cg_tolerance: float = 0.1,
    weighting: Weighting = "noise",
    padding: float | None = PADDING,
    scan: Scan | None = None,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Total field inversion (Liu et al., Magn Reson Med 2017) of a local field, where its preconditioner serves strong sources inside the mask.

    Minimises sum w^2 / c^2 (1 - cos(c (D P y - f))) + alpha ||M G P y||_1 over y, with x = P y and everything else as in `medi`; P = `strength` where
    R2* exceeds `r2star_per_s`, else 1. P does not change the minimum, only which part of it truncated conjugate gradients reach first. What differs
    from the original: the field is a local one, so P is 1 outside the mask (30 there makes strong sources outside, of which a local field has none);
    CG is also preconditioned in k-space; the cosine is not continued beyond half a turn.

    regularisation: alpha in ppm mm for a weight of mean 1 (1 / (2 lambda 2 pi gamma B0 TE)). strength: P, no unit (the original: 30), and
    r2star_per_s (the original: 30 / s at 3 T, which grows with B0 to 70 / s at 7 T): 10 and 120 / s made the better maps of two simulated heads at
    7 T; with 30 and 70 / s, CG cut off after 30 steps was 5 points worse. rejection: MERIT. The others: see `medi`. The k = 0 component is 0.

    Raises InputError for a total field, a missing scan (R2* needs echoes), or a setting out of range.
    """
    check_positive(strength=strength, r2star_per_s=r2star_per_s)
    r2star = _r2star("tfi", field, scan)
    expected = strength_by_threshold(r2star, field.mask, threshold_per_s=r2star_per_s, strength=strength)
    return preconditioned(
        field, expected, regularisation=regularisation, edge_share=edge_share, rejection=rejection, echo_time_s=echo_time_s, smoothing=smoothing,
        n_iterations=n_iterations, tolerance=tolerance, cg_iterations=cg_iterations, cg_tolerance=cg_tolerance, weighting=weighting, padding=padding,
        scan=scan, on_step=on_step,
    )  # fmt: skip


@about(
    input="all echoes",
    reference="Liu et al., TFI with automatic preconditioner, Magn Reson Med 2020",
    parameter="regularisation",
)
def tfipc(
    field: FieldMap,
    *,
    regularisation: float = 8e-5,
    largest_strength: float = 10.0,
    threshold: float = 0.2,
    edge_share: float = 0.0,
    rejection: bool = True,
    echo_time_s: float = 0.003,
    smoothing: float = 1e-4,
    n_iterations: int = 10,
    tolerance: float = 0.1,
    cg_iterations: int = 40,
    cg_tolerance: float = 0.1,
    weighting: Weighting = "noise",
    padding: float | None = PADDING,
    scan: Scan | None = None,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Total field inversion with an automatic preconditioner (Liu et al., Magn Reson Med 2020), of a local field.

    The objective of `tfi`, with P = sigma(R2*) / sigma_1, a logistic fitted to the medians of the susceptibility of a first map in bins of R2*
    (`strength_by_r2star`), between 1 and `largest_strength`. What differs from the original: what differs in `tfi`, and no part for sources outside
    the mask.

    regularisation: alpha in ppm mm for a weight of mean 1. largest_strength: of P, no unit (the original: 30 to 40; 10 needs fewer steps). threshold:
    of |D| in the first map, by `tkd` (0.2). The others: see `tfi` and `medi`. The k = 0 component is 0.

    Raises InputError for a total field, a missing scan (R2* needs echoes), or a setting out of range.
    """
    if not largest_strength >= 1:
        raise InputError(f"largest_strength is {largest_strength}; the preconditioner's largest value must be at least 1.")
    r2star = _r2star("tfipc", field, scan)
    first = tkd(field, threshold=threshold, padding=padding).chi_ppm
    expected = strength_by_r2star(r2star, first, field.mask, largest=largest_strength)
    return preconditioned(
        field, expected, regularisation=regularisation, edge_share=edge_share, rejection=rejection, echo_time_s=echo_time_s, smoothing=smoothing,
        n_iterations=n_iterations, tolerance=tolerance, cg_iterations=cg_iterations, cg_tolerance=cg_tolerance, weighting=weighting, padding=padding,
        scan=scan, on_step=on_step,
    )  # fmt: skip


def preconditioned(
    field: FieldMap,
    strength: Tensor,
    *,
    regularisation: float,
    edge_share: float,
    rejection: bool,
    echo_time_s: float,
    smoothing: float,
    n_iterations: int,
    tolerance: float,
    cg_iterations: int,
    cg_tolerance: float,
    weighting: Weighting,
    padding: float | None,
    scan: Scan | None,
    on_step: OnStep | None,
) -> ChiMap:
    """The inversion that `tfi` and `tfipc` share, for any expected strength P [x, y, z], positive."""
    check_positive(regularisation=regularisation, echo_time_s=echo_time_s, smoothing=smoothing)
    problem = Problem.of(field, padding=padding, weighting=weighting)
    coordinates = FourierCoordinates(problem.grid.shape, problem.data)
    data = DipoleMisfit(problem, FieldMisfit.of(problem, echo_time_s, rejection=rejection), coordinates)
    variation = SmoothedVariation(problem, coordinates, regularisation, smoothing, magnitude_edges(problem, scan, edge_share))
    placed = problem.grid.place((strength - 1).to(problem.data.dtype)) + 1
    found = invert(
        problem, data, variation, coordinates, n_iterations=n_iterations, tolerance=tolerance, cg_iterations=cg_iterations,
        cg_tolerance=cg_tolerance, strength=placed, on_step=on_step,
    )  # fmt: skip
    return problem.chi_map(found)


def _r2star(name: str, field: FieldMap, scan: Scan | None) -> Tensor:
    if scan is None:
        raise InputError(f"{name} needs the echoes of {field.name!r} for R2*, but no scan was given. Use medi, which works from the field map alone.")
    check_same_grid(scan, field)
    r2star = fit_r2star(scan)[0]
    return torch.where(field.mask, r2star, 0.0)
