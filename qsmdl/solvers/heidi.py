"""Homogeneity enabled incremental dipole inversion (HEIDI)."""

import math

import torch
from torch import Tensor

from qsmdl.about import about
from qsmdl.errors import InputError
from qsmdl.physics.derivatives import Gradient
from qsmdl.physics.fourier import irfft3, multiply_spectrum, rfft3
from qsmdl.scan import ChiMap, FieldMap, Scan
from qsmdl.solvers.admm import OnStep
from qsmdl.solvers.grid import PADDING
from qsmdl.solvers.kspace import complete, magnitude_on
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.solution import in_stages
from qsmdl.solvers.weights import inner_pairs, percentile
from qsmdl.validation import check_not_negative, check_positive

_SMOOTHING_STEPS = 5


@about(input="local field, magnitude", reference="Schweser et al., NeuroImage 2012", from_description=True, parameter="well")
def heidi(
    field: FieldMap,
    *,
    scan: Scan | None = None,
    ill: float = 0.09,
    well: float = 0.23,
    field_step: float = 0.0039,
    field_curvature: float = 0.059,
    magnitude_step: float = 2.4,
    edge_weight: float = 0.1,
    penalty: float = 10.0,
    n_iterations: int = 50,
    tolerance: float = 1e-3,
    n_diffusion: int = 8,
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Homogeneity enabled incremental dipole inversion (Schweser, Sommer, Deistung, Reichenbach, NeuroImage 2012), from its description.

    1. Well-conditioned frequencies, |D| >= well, are F f / D. 2. x_1 minimises ||W G x||_1 among the maps with these frequencies, G the periodic
    gradient in 1/mm, its components summed: all others are completed, so that the map is homogeneous where the data are. 3. In the transitional band,
    ill <= |D| < well, the map takes the frequencies of x_1 after anisotropic diffusion (`diffuse`, n_diffusion steps; with well = ill there is no
    band); all others are x_1's.

    W is 1 (homogeneous) where the smoothed field steps by less than field_step (ppm/mm), has a curvature below field_curvature (ppm/mm^2), and the
    smoothed magnitude steps by less than magnitude_step times its mean step; else edge_weight, and 1 at the border of the mask. The paper's 0.00105
    rad/(T s mm) and 0.0159 rad/(T s mm^2) of phase / (B0 TE) are taken with TE in ms: divided by 2 pi gamma = 0.2675 rad/(T ms ppm) they are the
    defaults, while in seconds every voxel would be an edge. Both are sizes of the field, so the map scales with the field only if they do; B0 does
    not matter. The magnitude is that of all echoes of `scan`; without a scan, the confidence of the field map.

    The authors' code is closed. They solve step 2 by NESTA; here it is ADMM with the frequencies fixed, and penalty, in 1/(ppm mm), sets its speed.
    A public port fixes the transitional band in step 2 too, and takes the completed frequencies from the smoothed map; on simulated heads and on the
    check phantom that error was larger, by 7 to 11 points. padding: see `WorkingGrid.of`. The k = 0 component is 0 before the mask is applied. Raises
    InputError for a total field, a scan on another grid or a setting out of range.
    """
    check_positive(field_step=field_step, field_curvature=field_curvature, magnitude_step=magnitude_step, penalty=penalty)
    check_not_negative(edge_weight=edge_weight)
    if not 0 < ill <= well < 2 / 3:
        raise InputError(f"ill is {ill} and well is {well}; both must lie between 0 and 2/3, ill not above well. 0.09 and 0.23 are published.")
    if n_diffusion < 0:
        raise InputError(f"n_diffusion is {n_diffusion}; it must be at least 0 (no smoothing).")
    problem = Problem.of(field, padding=padding, weighting="uniform")
    mask, gradient, strength = problem.mask, problem.gradient, problem.grid.dipole().abs()
    pairs = inner_pairs(mask)
    magnitude = magnitude_on(problem.grid, scan)
    steps = gradient.apply_forward(diffuse(problem.data, pairs, gradient, _SMOOTHING_STEPS)).mul_(pairs)
    homogeneous = (steps.abs() < field_step) & (gradient.apply_adjoint(steps).abs() < field_curvature)
    steps = gradient.apply_forward(diffuse(magnitude, pairs, gradient, _SMOOTHING_STEPS)).abs_()
    homogeneous &= steps <= magnitude_step * steps[pairs].mean()
    known = strength >= well
    inverse = torch.where(known, 1 / torch.where(known, problem.grid.dipole(), 1.0), 0.0)
    found = complete(
        problem.grid,
        irfft3(multiply_spectrum(rfft3(problem.data), inverse), problem.grid.shape),
        known,
        fidelity=math.inf,
        penalty=penalty,
        edges=torch.where(homogeneous | ~pairs, magnitude.new_tensor(1.0), edge_weight),
        n_iterations=n_iterations,
        tolerance=tolerance,
        on_step=on_step,
    )
    band = ((strength >= ill) & ~known).to(strength.dtype)
    change = rfft3(diffuse(found.x * mask, pairs, gradient, n_diffusion) - found.x)
    return problem.chi_map(in_stages(found.x + irfft3(multiply_spectrum(change, band), problem.grid.shape), found))


def diffuse(volume: Tensor, pairs: Tensor, gradient: Gradient, n_steps: int) -> Tensor:
    """Anisotropic diffusion within the mask (Perona and Malik, IEEE Trans Pattern Anal 1990): v <- v - t G^T (g exp(-(g / K)^2)) with g = G v.

    volume [x, y, z] on the working grid; pairs: `inner_pairs` of the mask, across whose border nothing flows. K is the 90th percentile of |g| in
    each step, as in the paper, so the result scales with the volume; t is half of what keeps the scheme stable. The mean in the mask stays.
    """
    rate = 0.25 / sum(1 / size**2 for size in gradient.voxel_size_mm)
    for _ in range(n_steps):
        steps = gradient.apply_forward(volume).mul_(pairs)
        contrast = percentile(steps[pairs].abs(), 90).clamp(min=torch.finfo(volume.dtype).tiny)
        volume = volume - rate * gradient.apply_adjoint(steps * torch.exp(-(steps / contrast).square()))
    return volume
