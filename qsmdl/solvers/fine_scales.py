"""The fine scales of a finished map: a correction that fits the field as closely as its noise allows."""

import torch
from torch import Tensor

from qsmdl.scan import FieldMap
from qsmdl.solvers.misfit import Misfit, check_same_grid
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.weights import median_noise_ppm
from qsmdl.validation import check_positive

_MAP_ERROR_PPM = 1.4e-3
"""How far a regularised map is from explaining the field at fine scales."""
_MODEL_ERROR_PPM = 2e-4
"""What remains without any noise: the field of a scan is not quite that of a map on its grid."""
WORTH_IT = 1.0
"""Largest `fine_damping` with which to correct at all: where noise hides what is missing, removing ringing anew costs more contrast than is gained
(slopes of 0.98 in place of 0.99 at peak SNR 30)."""
_TOLERANCE = 0.01


def fine_damping(field: FieldMap) -> float:
    """The noise's variance over that of what is missing: (sigma^2 + 0.2^2) / 1.4^2 in ppb, sigma the median of the field's standard deviation in the
    mask, or 0.8 ppb where it is not known (the challenge's scans at peak SNR 100). Chosen on two development heads at SNR 30, 100 and 1000
    (docs/final-solve.md).
    """
    return (median_noise_ppm(field) ** 2 + _MODEL_ERROR_PPM**2) / _MAP_ERROR_PPM**2


@torch.no_grad()
def fine_correction(chi_ppm: Tensor, field: FieldMap, *, damping: float | None = None, n_iterations: int = 12, padding: float = 1.5) -> Tensor:
    """The d [x, y, z] in ppm, 0 outside the mask, that minimises ||w (D (chi + d) - f)||^2 + damping ||d||^2, by conjugate gradients.

    chi_ppm: the map with everything that the field has, its ringing too; so d rings, as the scan does: remove the ringing of the sum. Regularised
    maps are too smooth wherever the dipole kernel is far from 0 and the noise is weak; where it is near 0, d is next to nothing. Large scales
    converge slowly, and are another's (`solvers.large_scales`). damping: without a unit, `fine_damping` by default. Raises InputError for a total
    field, a map of another shape, or a damping that is not positive.
    """
    check_same_grid(field, chi_ppm=chi_ppm)
    weight = fine_damping(field) if damping is None else damping
    check_positive(damping=weight)
    problem = Problem.of(field, padding=padding)
    misfit = Misfit.of(problem, chi_ppm)
    found = misfit.correct(lambda v: weight * v, torch.full_like(misfit.dipole, weight), n_iterations=n_iterations, tolerance=_TOLERANCE)
    return misfit.on_field_map(found)
