"""MEDI: nonlinear field fit with total variation that spares the edges of the magnitude, by Gauss-Newton."""

from torch import Tensor

from qsmdl.about import about
from qsmdl.errors import InputError
from qsmdl.physics.derivatives import Gradient
from qsmdl.physics.relaxation import combined_magnitude, fit_r2star
from qsmdl.scan import ChiMap, FieldMap, Scan
from qsmdl.solvers.admm import OnStep
from qsmdl.solvers.csf import Uniformity, csf_mask
from qsmdl.solvers.echoes import FieldMisfit, check_same_grid
from qsmdl.solvers.gauss_newton import Objective
from qsmdl.solvers.grid import PADDING
from qsmdl.solvers.inversion import invert
from qsmdl.solvers.objective import DipoleMisfit, FourierCoordinates, SmoothedVariation
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.weights import Weighting, edge_mask
from qsmdl.validation import check_not_negative, check_positive


@about(
    input="local field, magnitude",
    reference="Liu et al., MEDI, NeuroImage 2012; Magn Reson Med 2013 (MERIT); Magn Reson Med 2018 (MEDI+0)",
    checked="check phantom: 11.51 (without edge mask)",
    parameter="regularisation",
)
def medi(
    field: FieldMap,
    *,
    regularisation: float = 8e-5,
    edge_share: float = 0.0,
    rejection: bool = True,
    csf_regularisation: float = 0.0,
    csf_r2star_per_s: float = 5.0,
    echo_time_s: float = 0.003,
    smoothing: float = 1e-4,
    n_iterations: int = 10,
    tolerance: float = 0.1,
    cg_iterations: int = 100,
    cg_tolerance: float = 0.1,
    weighting: Weighting = "noise",
    padding: float | None = PADDING,
    scan: Scan | None = None,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Morphology-enabled dipole inversion (Liu et al., NeuroImage 2012), with MERIT (Magn Reson Med 2013) and the CSF term of MEDI+0 (2018).

    Minimises sum w^2 / c^2 (1 - cos(c (D x - f))) + alpha ||M G x||_1 + beta/2 ||x - mean x||^2 over the CSF, with x and f in ppm, c = 2 pi gamma B0
    `echo_time_s`, G the gradient in 1/mm with Neumann ends, its components summed and smoothed, |g| ~ sqrt(g^2 + eps^2), and M = 0 at the edges of
    the magnitude. Gauss-Newton with lagged diffusivity and truncated CG; steps that raise the objective are halved. What differs from the original:
    the cosine is not continued beyond half a turn, since the field is unwrapped, and CG is preconditioned in k-space; the minimum stays the same.

    regularisation: alpha in ppm mm, for a weight of mean 1. From lambda ||w (exp(i D x) - exp(i phi))||^2 + ||M G x||_1 in rad: alpha = 1 / (2 lambda
    2 pi gamma B0 TE), 6.7e-5 for the original's lambda 1000 at 7 T and 4 ms. edge_share: of the 3 n components of the gradient of the magnitude (all
    echoes' root of squares; without a scan the field's weight) that M spares; the original's 90 % of voxels is 0.3. The quota marks noise where the
    magnitude is flat: of two simulated heads 0.3 cost one 5 points of NRMSE and gained the other 1, so the default is M = 1. rejection: after every
    step, voxels that misfit by more than six standard deviations are turned down (MERIT); a strong source that CG has not reached yet may be among
    them. csf_regularisation: beta, 0 for none (the original: lambda_CSF / (2 lambda) = 0.05); needs a scan, whose R2* below csf_r2star_per_s marks
    the CSF. echo_time_s in s. smoothing: eps in ppm/mm (the original: 1e-3 rad, 1.3e-4 at 7 T and 4 ms). cg_tolerance, cg_iterations (the original:
    0.01, 100); tolerance: ||dx|| / ||x|| to stop at. padding: see `WorkingGrid.of`.

    The k = 0 component is 0. Raises InputError for a total field, a missing scan, or a setting out of range.
    """
    check_positive(regularisation=regularisation, echo_time_s=echo_time_s, smoothing=smoothing)
    problem = Problem.of(field, padding=padding, weighting=weighting)
    coordinates = FourierCoordinates(problem.grid.shape, problem.data)
    data = DipoleMisfit(problem, FieldMisfit.of(problem, echo_time_s, rejection=rejection), coordinates)
    variation = SmoothedVariation(problem, coordinates, regularisation, smoothing, magnitude_edges(problem, scan, edge_share))
    found = invert(
        problem, data, variation, coordinates, more=csf_terms(problem, coordinates, scan, csf_regularisation, csf_r2star_per_s),
        n_iterations=n_iterations, tolerance=tolerance, cg_iterations=cg_iterations, cg_tolerance=cg_tolerance, on_step=on_step,
    )  # fmt: skip
    return problem.chi_map(found)


def magnitude_edges(problem: Problem, scan: Scan | None, share: float) -> Tensor | None:
    """The edge mask M of the magnitude on the working grid (without a scan: of the field's weight); None where no edge is spared."""
    field = problem.grid.field
    if not 0 <= share < 1:
        raise InputError(f"edge_share is {share}; the share of components that are edges must be at least 0 and below 1.")
    if share == 0:
        return None
    if scan is not None:
        check_same_grid(scan, field)
    magnitude = field.weight if scan is None else combined_magnitude(scan)
    gradient = Gradient(field.geometry.voxel_size_mm, "neumann")
    return edge_mask(problem.grid.place(magnitude.to(problem.data.dtype)), problem.mask, gradient, share=share)


def csf_terms(problem: Problem, coordinates: FourierCoordinates, scan: Scan | None, strength: float, r2star_per_s: float) -> list[Objective]:
    """The term of MEDI+0 on the CSF that R2* shows, or none for a strength beta of 0."""
    check_not_negative(csf_regularisation=strength)
    check_positive(csf_r2star_per_s=r2star_per_s)
    if strength == 0:
        return []
    if scan is None:
        raise InputError(f"csf_regularisation is {strength}, which needs the echoes to find the CSF, but no scan was given. Set it to 0.")
    field = problem.grid.field
    check_same_grid(scan, field)
    region = csf_mask(fit_r2star(scan)[0], field.mask, field.geometry, threshold_per_s=r2star_per_s)
    return [Uniformity(problem.grid.place(region.to(problem.data.dtype)) > 0, coordinates, strength)]
