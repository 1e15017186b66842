"""The strong sources of a finished map: a correction in and around them, in proportion to them, so that they explain the field."""

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, max_pool3d

from qsmdl.scan import FieldMap
from qsmdl.solvers.misfit import Misfit, check_same_grid
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.weights import median_noise_ppm
from qsmdl.validation import check_positive

STRONG_PPM = 0.5
"""Beyond every tissue and vein: calcifications and haemorrhages."""
_REACH_VOXELS = 3
_LEAST_DISTRUST_PPM = 0.025
"""Without any noise: beside a strong source the field of a scan is that of no map on its grid."""
_DISTRUST_PER_NOISE = 16.0
"""Echoes are lost beside one, so noise is several times the median, and the map's relative error is well below 1."""
_TOLERANCE = 1e-3


def distrust(field: FieldMap) -> float:
    """In ppm: sqrt(25^2 + (16 sigma)^2) ppb, sigma as for `fine_damping`. Chosen on development heads at SNR 30, 100 and 1000 (docs/flagship.md,
    entry 14).
    """
    return math.hypot(_LEAST_DISTRUST_PPM, _DISTRUST_PER_NOISE * median_noise_ppm(field))


@torch.no_grad()
def strong_source_correction(
    chi_ppm: Tensor,
    field: FieldMap,
    *,
    ringing_ppm: Tensor | None = None,
    distrust_ppm: float | None = None,
    n_iterations: int = 30,
    padding: float = 1.5,
) -> Tensor:
    """The d [x, y, z] in ppm, 0 but for voxels within three of a strong source (|chi| > 0.5 ppm) and in the mask, that minimises

        ||w (D (chi + ringing + d) - f)||^2 + distrust^2 ||d / s||^2,

    s the root mean square of chi over 3 x 3 x 3 voxels, by conjugate gradients. The other corrections take every voxel for as uncertain as the next,
    so what a calcification has too much of is balanced by a smooth cloud around it. An estimate errs at a strong source in proportion to it: its
    echoes are lost there, so neither its shape nor its strength is seen but from afar, where the field tells its sum (its dipole moment) best.

    distrust_ppm: by how much the field errs beside such sources, over the relative error of the map; by default `distrust`. ringing_ppm: what was
    taken off the map (`physics.unring`) though the field has it. Without a strong source all is 0. Raises InputError for a total field, or maps of
    another shape.
    """
    doubted = distrust(field) if distrust_ppm is None else distrust_ppm
    check_positive(distrust_ppm=doubted)
    check_same_grid(field, chi_ppm=chi_ppm, ringing_ppm=ringing_ppm)
    problem = Problem.of(field, padding=padding)
    strong = (chi_ppm.abs() > STRONG_PPM) & field.mask
    if not strong.any():
        return torch.zeros_like(chi_ppm)
    misfit = Misfit.of(problem, chi_ppm if ringing_ppm is None else chi_ppm + ringing_ppm)
    near = max_pool3d(strong[None, None].to(chi_ppm.dtype), 2 * _REACH_VOXELS + 1, 1, _REACH_VOXELS)[0, 0]
    size = avg_pool3d((chi_ppm * field.mask).square()[None, None], 3, 1, 1)[0, 0].sqrt()
    scale = problem.grid.place(near * size) * misfit.mask
    return misfit.on_field_map(misfit.correct_within(scale, doubted**2, n_iterations=n_iterations, tolerance=_TOLERANCE))
