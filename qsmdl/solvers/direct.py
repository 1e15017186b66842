"""Closed-form inversions: truncated k-space division and its relatives, and L2 regularisation."""

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
    _check_threshold(threshold)
    grid = WorkingGrid.of(field, padding)
    dipole = grid.dipole()
    inverse = truncated_inverse(dipole, threshold)
    return _filtered(grid, _corrected(grid, dipole, inverse) if slope_correction else inverse)


@about(
    kind="direct",
    reference="Wharton et al., Magn Reson Med 2010",
    checked="check phantom: 44.7 at a threshold of 0.1",
    parameter="threshold",
)
def tsvd(field: FieldMap, *, threshold: float = 0.12, slope_correction: bool = False, padding: float | None = PADDING) -> ChiMap:
    """Truncated singular value decomposition (Wharton, Schaefer, Bowtell, Magn Reson Med 2010): chi = F^-1 (F f / D where |D| > threshold, else 0).

    slope_correction: as for `tkd`. padding: see `WorkingGrid.of`. The k = 0 component is 0; the map is not referenced further. Raises InputError for
    a total field or a threshold outside (0, 2/3).
    """
    _check_threshold(threshold)
    grid = WorkingGrid.of(field, padding)
    dipole = grid.dipole()
    kept = dipole.abs() > threshold
    inverse = torch.where(kept, 1 / torch.where(kept, dipole, 1.0), 0.0)
    return _filtered(grid, _corrected(grid, dipole, inverse) if slope_correction else inverse)


@about(
    kind="direct",
    reference="Schweser et al., Magn Reson Med 2013",
    checked="check phantom: 48.7 and 49.7 at thresholds of 0.1 and 0.2",
    from_description=True,
    parameter="threshold",
)
def sdi(field: FieldMap, *, threshold: float = 0.2, padding: float | None = PADDING) -> ChiMap:
    """Superfast dipole inversion (Schweser, Deistung, Sommer, Reichenbach, Magn Reson Med 2013) of a local field.

    The published method is one filter from phase to susceptibility: background removal, truncated division and the correction of the slope by the
    value at 0 of the point spread function. On a local field the first is nothing, and what remains is `tkd` with slope_correction. threshold: public
    code uses 2/3, a sign function of D, at which the correction is 3; on simulated heads that gave twice the error of 0.2. Raises InputError as
    `tkd`.
    """
    return tkd(field, threshold=threshold, slope_correction=True, padding=padding)


@about(
    kind="direct",
    reference="Bilgic et al., J Magn Reson Imaging 2014",
    checked="check phantom: 36.6 and 38.0 at 1e-3 and 5e-3",
    parameter="regularisation",
)
def l2(field: FieldMap, *, regularisation: float = 2e-2, padding: float | None = PADDING) -> ChiMap:
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


def truncated_inverse(dipole: Tensor, threshold: float) -> Tensor:
    """The symbol sign(D) / max(|D|, threshold), 0 where D is 0 up to rounding."""
    inverse = dipole.sign() / dipole.abs().clamp(min=threshold)
    # On the magic angle, as at k = (1, 1, 1), D is 0 up to rounding, and its sign chance.
    inverse[dipole.abs() < _ROUNDING] = 0.0
    return inverse


def _corrected(grid: WorkingGrid, dipole: Tensor, inverse: Tensor) -> Tensor:
    return inverse / half_spectrum_mean(dipole * inverse, grid.shape)


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold < 2 / 3:
        raise InputError(
            f"threshold is {threshold}; it must lie above 0 and below 2/3, the largest value of the dipole kernel. Usual values are 0.1 to 0.2."
        )


def half_spectrum_mean(values: Tensor, shape: tuple[int, int, int]) -> float:
    """Mean over the full spectrum of a real even function given on the half spectrum."""
    columns = values.sum(dim=(0, 1), dtype=torch.float64)
    single = float(columns[0]) + (float(columns[-1]) if shape[2] % 2 == 0 and shape[2] > 1 else 0.0)
    return (2 * float(columns.sum()) - single) / math.prod(shape)


def _filtered(grid: WorkingGrid, inverse: Tensor) -> ChiMap:
    inverse[0, 0, 0] = 0.0
    spectrum = multiply_spectrum(rfft3(grid.place(grid.field.field_ppm)), inverse)
    return grid.chi_map(irfft3(spectrum, grid.shape), Outcome(0, "closed form", 0.0))
