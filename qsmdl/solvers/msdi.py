"""MSDI: MEDI on a cascade of scales, each inverting what a spherical-mean high-pass leaves of the field."""

from collections.abc import Sequence

import torch
from torch import Tensor

from qsmdl.about import about
from qsmdl.errors import InputError
from qsmdl.physics.fourier import irfft3, multiply_spectrum, rfft3
from qsmdl.scan import ChiMap, FieldMap, Scan
from qsmdl.solvers.admm import OnStep
from qsmdl.solvers.echoes import FieldMisfit
from qsmdl.solvers.grid import PADDING
from qsmdl.solvers.inversion import invert
from qsmdl.solvers.medi import magnitude_edges
from qsmdl.solvers.objective import DipoleMisfit, FourierCoordinates, SmoothedVariation
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.solution import Solution
from qsmdl.solvers.weights import Weighting
from qsmdl.validation import check_positive

_FULL_SPHERE = 0.999


@about(
    input="local field, magnitude",
    reference="Acosta-Cabronero et al., MSDI, NeuroImage 2018",
    from_description=True,
    parameter="regularisation",
)
def msdi(
    field: FieldMap,
    *,
    regularisation: float = 8e-5,
    radii_mm: tuple[float, ...] = (10.0, 0.0),
    edge_share: float = 0.0,
    rejection: bool = True,
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
    """Multiscale dipole inversion (Acosta-Cabronero et al., NeuroImage 2018): `medi` scale by scale, the map the sum of the scales.

    Scale i minimises sum w_i^2 / c^2 (1 - cos(c (H_i D x_i - H_i r_i))) + alpha ||M_i G x_i||_1, where r_i is the field that the scales before left
    over, H_i v = v - S_i v takes off the mean over a sphere of radius R_i, w_i counts voxels whose sphere lies inside the mask, with the noise of the
    difference, 1 / sqrt(S_i w^-2 + w^-2) to mean 1, and c = 2 pi gamma B0 `echo_time_s`. A radius of 0 means H = 1. What differs from the original:
    the last radius is 0 here, since a local field has no background left for the cascade to reject, and without it what is coarser than the largest
    sphere stays out of the map; no cut of the least reliable 10 % of the voxels, which `rejection` (MERIT) covers; the rest as in `medi`.

    radii_mm: R_i (the original: 2, 4, 8, 16 in its first version, 1, 5 in its second), ascending or not. regularisation: alpha in ppm mm, at every
    scale. edge_share: the share of edges that M spares at the first scale (`medi`); M is 1 at the later ones. The others: see `medi`, at every scale.
    The curve joins those of the scales. The k = 0 component is 0.

    Raises InputError for a total field, spheres larger than the mask, or a setting out of range.
    """
    check_positive(regularisation=regularisation, echo_time_s=echo_time_s, smoothing=smoothing)
    if not radii_mm or any(not 0 <= r < 100 for r in radii_mm):
        raise InputError(f"radii_mm is {radii_mm}; it needs at least one radius, each between 0 (no high-pass) and 100 mm.")
    problem = Problem.of(field, padding=padding, weighting=weighting)
    coordinates = FourierCoordinates(problem.grid.shape, problem.data)
    kernel = problem.grid.dipole()
    edges = magnitude_edges(problem, scan, edge_share)
    chi, left, steps, curve = torch.zeros_like(problem.data), problem.data, 0, tuple[float, ...]()
    found = Solution(chi, 0, "", 0.0)
    for radius in radii_mm:
        scale, high_pass = scale_of(problem, left, radius)
        data = DipoleMisfit(scale, FieldMisfit.of(scale, echo_time_s, rejection=rejection), coordinates, kernel * high_pass)
        variation = SmoothedVariation(scale, coordinates, regularisation, smoothing, edges)
        found = invert(
            scale, data, variation, coordinates, n_iterations=n_iterations, tolerance=tolerance, cg_iterations=cg_iterations,
            cg_tolerance=cg_tolerance, on_step=None if on_step is None else _later(on_step, steps),
        )  # fmt: skip
        chi, edges, steps, curve = chi + found.x, None, steps + found.n_steps, (*curve, *found.curve)
        left = torch.where(problem.mask, problem.data - irfft3(multiply_spectrum(rfft3(chi), kernel), problem.grid.shape), 0.0)
    return problem.chi_map(Solution(chi, steps, found.stopped, found.residual, curve))


def _later(on_step: OnStep, steps: int) -> OnStep:
    return lambda step, change: on_step(steps + step, change)


def scale_of(problem: Problem, left: Tensor, radius_mm: float) -> tuple[Problem, Tensor]:
    """The problem of one scale, and the symbol of its high-pass 1 - S on the half spectrum: the field `left` minus its mean over spheres, with the
    weight of that difference where the whole sphere lies in the mask.
    """
    if radius_mm == 0:
        return Problem.weighted(problem.grid, left, problem.weight), torch.ones_like(problem.grid.gradient_power())
    low_pass = rfft3(sphere(problem.grid.shape, problem.grid.field.geometry.voxel_size_mm, radius_mm, like=problem.data)).real

    def mean(volume: Tensor) -> Tensor:
        return irfft3(multiply_spectrum(rfft3(volume), low_pass), problem.grid.shape)

    measured = problem.weight > 0
    whole = measured & (mean(measured.to(left.dtype)) > _FULL_SPHERE)
    if not bool(whole.any()):
        raise InputError(f"No sphere of {radius_mm:g} mm, one of radii_mm, lies inside the mask with weights above 0. Lower radii_mm.")
    variance = torch.where(measured, problem.weight.square().reciprocal(), 0.0)
    weight = torch.where(whole, (mean(variance) + variance).clamp(min=torch.finfo(left.dtype).tiny).rsqrt(), 0.0)
    weight = weight / weight[whole].mean()
    return Problem.weighted(problem.grid, torch.where(whole, left - mean(left), 0.0), weight), 1 - low_pass


def sphere(shape: Sequence[int], voxel_size_mm: Sequence[float], radius_mm: float, *, like: Tensor) -> Tensor:
    """A sphere around voxel 0 of a periodic grid, [*shape], of sum 1; voxels at its surface count in part, by their distance from it."""
    axes = [torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) * h for n, h in zip(shape, voxel_size_mm, strict=True)]
    distance = (axes[0][:, None, None].square() + axes[1][:, None].square() + axes[2].square()).sqrt()
    edge = sum(voxel_size_mm) / 3
    ball = (0.5 + (radius_mm - distance) / edge).clamp(0.0, 1.0)
    placed: Tensor = (ball / ball.sum()).to(like.dtype).to(like.device)
    return placed
