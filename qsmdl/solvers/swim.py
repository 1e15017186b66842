"""Susceptibility mapping by iterating between k-space and a threshold in the image (SWIM)."""

import torch
from torch import Tensor

from qsmdl.about import about
from qsmdl.errors import InputError
from qsmdl.physics.fourier import irfft3, multiply_spectrum, rfft3
from qsmdl.scan import ChiMap, FieldMap
from qsmdl.solvers.admm import OnStep, check_iterations
from qsmdl.solvers.direct import truncated_inverse
from qsmdl.solvers.grid import PADDING, WorkingGrid
from qsmdl.solvers.solution import Solution
from qsmdl.validation import check_not_negative


@about(
    kind="direct",
    reference="Tang et al., Magn Reson Med 2013; Haacke et al., J Magn Reson Imaging 2010",
    from_description=True,
    parameter="threshold",
)
def swim(
    field: FieldMap,
    *,
    threshold: float = 0.15,
    vessel_ppm: float = 0.07,
    n_iterations: int = 4,
    tolerance_ppm: float = 0.004,
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Geometry-constrained iterative SWIM: the part of k-space that the field does not determine is filled from the map's own strong structures.

    There is no objective: the method alternates two projections. From x_0, a truncated inversion at `threshold` (a) whose symbol falls smoothly to 0
    below it, D / |D| * (D / a)^2 / a, each pass takes the voxels with |x| above `vessel_ppm` as the structures, sets the rest to 0, and puts the
    spectrum of that where |D| < a, keeping x_0's elsewhere. It stops when the root mean square change in the mask falls below `tolerance_ppm`.

    From the description: the authors' code is not public, nor are the settings of their challenge submission, nor how structures are outlined beyond
    a threshold (the papers speak of 0.07 ppm for veins, a = 0.1, 0.004 ppm and three to four passes; a = 0.15 has the smaller error on simulated
    heads). Both signs count as structure here, so that calcifications do too. threshold: without unit, in (0, 2/3); curve: the change in ppm. Raises
    InputError for a total field or a setting out of range.
    """
    if not 0 < threshold < 2 / 3:
        raise InputError(f"threshold is {threshold}; it must lie above 0 and below 2/3, the largest value of the dipole kernel. Usual: 0.1 to 0.2.")
    check_not_negative(vessel_ppm=vessel_ppm, tolerance_ppm=tolerance_ppm)
    check_iterations(n_iterations, 0.0)
    grid = WorkingGrid.of(field, padding)
    mask, dipole = grid.place(torch.ones_like(field.field_ppm)) > 0, grid.dipole()
    measured = dipole.abs() >= threshold
    start = rfft3(grid.place(field.field_ppm))
    multiply_spectrum(start, truncated_inverse(dipole, threshold) * (dipole.abs() / threshold).clamp(max=1.0).square())
    kept = multiply_spectrum(start.clone(), measured.to(dipole.dtype))
    x = torch.where(mask, irfft3(start, grid.shape), 0.0)
    curve, stopped = [], "max steps"
    for step in range(1, n_iterations + 1):
        filled = multiply_spectrum(rfft3(torch.where(x.abs() > vessel_ppm, x, 0.0)), (~measured).to(dipole.dtype)).add_(kept)
        filled[0, 0, 0] = 0.0
        before, x = x, torch.where(mask, irfft3(filled, grid.shape), 0.0)
        curve.append(_root_mean_square((x - before)[mask]))
        if on_step is not None:
            on_step(step, curve[-1])
        if curve[-1] < tolerance_ppm:
            stopped = "tolerance reached"
            break
    return grid.chi_map(x, Solution(x, len(curve), stopped, curve[-1], tuple(curve)).outcome)


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
