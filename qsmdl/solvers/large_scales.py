"""The large scales of a finished map: a smooth correction inside the mask that explains what of the field the map leaves unexplained."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from qsmdl.physics.fourier import irfft3, multiply_spectrum, rfft3
from qsmdl.scan import FieldMap
from qsmdl.solvers.misfit import Misfit, check_same_grid
from qsmdl.solvers.problem import Problem
from qsmdl.validation import check_positive

_DAMPING = 1e-4
"""Of the correction itself, so that what no voxel has measured (a constant, the cone at large scales) does not grow."""
_TOLERANCE = 0.01
_SMOOTH = 0.1
"""Width of the Gaussian that tells what of a misfit is smooth, as a share of the sampling's highest frequency."""
MOST_UNEXPLAINED = 0.0014
"""Share of the smooth field's energy that may remain for a correction to be believed."""


class Explained(NamedTuple):
    """chi_ppm: the map [x, y, z], corrected or as it was; unexplained: the share of the smooth part of the field that no source inside the mask
    explains; doubts: why the map was left as it was, one sentence or none.
    """

    chi_ppm: Tensor
    unexplained: float
    doubts: tuple[str, ...] = ()


@torch.no_grad()
def explain_large_scales(
    chi_ppm: Tensor, field: FieldMap, *, ringing_ppm: Tensor | None = None, stiffness: float = 0.3, n_iterations: int = 16, padding: float = 1.5
) -> Explained:
    """A map [x, y, z] in ppm plus the smooth d, 0 outside the mask, that minimises

        ||w (D (chi + ringing + d) - f)||^2 + stiffness h^4 ||L d||^2 + 1e-4 ||d||^2,

    L the Laplacian between voxels of the mask and h^3 a voxel's volume, by preconditioned conjugate gradients. Solvers that leave the map free
    outside the mask, where nothing is measured, explain part of the field by sources there, and networks do not see the whole of a head: both err
    smoothly. Wavelengths shorter than some ten voxels stay as they were.

    padding: factor on the mask's bounding box; with 1.25, as other solvers have it, the field of the periodic images costs up to a sixth of the gain.
    ringing_ppm: what was taken off the map (`physics.unring`) though the field has it. stiffness: without a unit.

    The support is the point. Where sources outside the mask are left in the field (background, brain that the mask cuts off) the correction does
    harm, and a smooth d cannot explain the field: if more than 0.14 % of its smooth part's energy remains, the map is returned as it was, with a
    doubt (chosen on 21 simulated scans: docs/final-solve.md). Raises InputError for a total field, or maps of another shape.
    """
    check_positive(stiffness=stiffness)
    check_same_grid(field, chi_ppm=chi_ppm, ringing_ppm=ringing_ppm)
    problem = Problem.of(field, padding=padding)
    correction, unexplained = _correction(problem, chi_ppm if ringing_ppm is None else chi_ppm + ringing_ppm, stiffness, n_iterations)
    found = torch.where(field.mask, chi_ppm, 0.0)
    if unexplained > MOST_UNEXPLAINED:
        doubt = (
            f"the large scales of the map were left as they were: smooth sources inside the mask leave {100 * unexplained:.2g} % of the energy of "
            f"the smooth field unexplained (at most {100 * MOST_UNEXPLAINED:g} %), so it has others, as of background or of brain outside the mask"
        )
        return Explained(found, unexplained, (doubt,))
    found[problem.grid.box] += correction[problem.grid.inner]
    return Explained(found, unexplained)


def _correction(problem: Problem, explained_ppm: Tensor, stiffness: float, n_iterations: int) -> tuple[Tensor, float]:
    """The correction in ppm on the working grid [x, y, z], and the share of the smooth field that it leaves."""
    grid, gradient, misfit = problem.grid, problem.gradient, Misfit.of(problem, explained_ppm)
    mask, power = misfit.mask, grid.gradient_power()
    joined = misfit.joined
    stiff = stiffness * math.prod(grid.field.geometry.voxel_size_mm) ** (4 / 3)

    def laplacian(v: Tensor) -> Tensor:
        return gradient.apply_adjoint(joined * gradient.apply_forward(v)) * mask

    def penalty(v: Tensor) -> Tensor:
        return laplacian(laplacian(v)).mul_(stiff).add_(v, alpha=_DAMPING)

    found = misfit.correct(penalty, power.square_().mul_(stiff).add_(_DAMPING), n_iterations=n_iterations, tolerance=_TOLERANCE)
    whole, left = (_smooth_energy(misfit.weight * v) for v in (problem.data, misfit.left(found)))
    return found, left / whole if whole > 0 else 0.0


def _smooth_energy(volume: Tensor) -> float:
    """The sum of squares of a volume [x, y, z] without its fine scales."""
    frequencies = [torch.fft.fftfreq(n, device=volume.device) * 2 for n in volume.shape]
    frequencies[2] = frequencies[2][: volume.shape[2] // 2 + 1].abs()
    low = [torch.exp(-0.5 * (f / _SMOOTH).square()) for f in frequencies]
    kernel = (low[0][:, None, None] * low[1][:, None] * low[2]).to(volume.dtype)
    return float(irfft3(multiply_spectrum(rfft3(volume), kernel), volume.shape).square().sum())
