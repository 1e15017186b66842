"""Closed-form inversions: truncated k-space division and L2 regularisation."""

import math

import torch
from torch import Tensor

from qsmdl.about import about
from qsmdl.errors import InputError
from qsmdl.physics.fourier import irfft3, multiply_spectrum, rfft3
from qsmdl.scan import ChiMap, FieldMap, Outcome
from qsmdl.solvers.grid import PADDING, WorkingGrid

_ROUNDING = 1e-6


@about(
    kind="direct",
    reference="Shmueli et al., Magn Reson Med 2009",
    checked="check phantom: 44.7 and 43.3 at thresholds of 0.1 and 0.2",
    parameter="threshold",
)
def tkd(field: FieldMap, *, threshold: float = 0.2, slope_correction: bool = False, padding: float | None = PADDING) -> ChiMap:
    """Truncated k-space division (Shmueli et al., Magn Reson Med 2009): chi = F^-1 (F f * sign(D) / max(|D|, threshold)).

    slope_correction divides by the mean of D times that inverse, the value at 0 of the point spread function (Schweser et al., Magn Reson Med 2013):
    the slope against the truth comes close to 1, and streaks grow with it. padding: see `WorkingGrid.of`. The k = 0 component is 0; the map is not
    referenced further. Raises InputError for a total field or a threshold outside (0, 2/3).
    """
    if not 0 < threshold < 2 / 3:
        raise InputError(
            f"threshold is {threshold}; it must lie above 0 and below 2/3, the largest value of the dipole kernel. Usual values are 0.1 to 0.2."
        )
    grid = WorkingGrid.of(field, padding)
    dipole = grid.dipole()
    inverse = dipole.sign() / dipole.abs().clamp(min=threshold)
    # On the magic angle, as at k = (1, 1, 1), D is 0 up to rounding, and its sign chance.
    inverse[dipole.abs() < _ROUNDING] = 0.0
    if slope_correction:
        inverse /= half_spectrum_mean(dipole * inverse, grid.shape)
    return _filtered(grid, inverse)


@about(
    kind="direct",
    reference="Bilgic et al., J Magn Reson Imaging 2014",
    checked="check phantom: 36.6 and 38.0 at 1e-3 and 5e-3",
    parameter="regularisation",
)
def l2(field: FieldMap, *, regularisation: float = 1e-2, padding: float | None = PADDING) -> ChiMap:
    """Closed-form L2: argmin ||D x - f||^2 + regularisation ||G x||^2 over the grid (Bilgic et al., J Magn Reson Imaging 2014), G the gradient in
    1/mm.

    regularisation is in mm^2 and has the same meaning in any unit of the field. padding: see `WorkingGrid.of`. The k = 0 component is 0; the map is
    not referenced further. Raises InputError for a total field or a regularisation that is not positive.
    """
    if not (math.isfinite(regularisation) and regularisation > 0):
        raise InputError(f"regularisation is {regularisation}; it must be positive and finite. Usual values are 1e-3 to 2e-2.")
    grid = WorkingGrid.of(field, padding)
    dipole = grid.dipole()
    denominator = grid.gradient_power().mul_(regularisation).addcmul_(dipole, dipole)
    denominator[0, 0, 0] = 1.0
    return _filtered(grid, dipole.div_(denominator))


def half_spectrum_mean(values: Tensor, shape: tuple[int, int, int]) -> float:
    """Mean over the full spectrum of a real even function given on the half spectrum."""
    columns = values.sum(dim=(0, 1), dtype=torch.float64)
    single = float(columns[0]) + (float(columns[-1]) if shape[2] % 2 == 0 and shape[2] > 1 else 0.0)
    return (2 * float(columns.sum()) - single) / math.prod(shape)


def _filtered(grid: WorkingGrid, inverse: Tensor) -> ChiMap:
    inverse[0, 0, 0] = 0.0
    spectrum = multiply_spectrum(rfft3(grid.place(grid.field.field_ppm)), inverse)
    return grid.chi_map(irfft3(spectrum, grid.shape), Outcome(0, "closed form", 0.0))
