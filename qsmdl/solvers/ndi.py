"""NDI: nonlinear dipole inversion by gradient descent, with the number of steps as the regulariser."""

from typing import Literal

import torch
from torch import Tensor

from qsmdl.about import about
from qsmdl.errors import InputError
from qsmdl.scan import ChiMap, FieldMap, Scan
from qsmdl.solvers.admm import OnStep
from qsmdl.solvers.descent import descend
from qsmdl.solvers.echoes import EchoMisfit, FieldMisfit, VoxelMisfit
from qsmdl.solvers.grid import PADDING, WorkingGrid
from qsmdl.solvers.objective import DipoleMisfit, FourierCoordinates
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.solution import Solution
from qsmdl.solvers.weights import Weighting
from qsmdl.validation import check_not_negative, check_positive

_WELL_KNOWN = (0.225, 0.275)
_ILL_KNOWN = (0.15, 0.2)
_SHELL_OF_NYQUIST = (0.65, 0.95)


@about(
    input="all echoes",
    reference="Polak et al., NDI, NMR Biomed 2020; Milovic et al., ISMRM 2022 (stopping rule)",
    checked="check phantom: 57.5, 49.2, 47.6, 48.8 (10, 30, 100, 200 steps)",
)
def ndi(
    field: FieldMap,
    *,
    n_iterations: int = 100,
    auto_stop: bool = False,
    step_size: float = 4.0,
    regularisation: float = 0.003,
    fidelity: Literal["echoes", "field"] = "echoes",
    echo_time_s: float = 0.004,
    tolerance: float = 0.0,
    weighting: Weighting = "noise",
    padding: float | None = PADDING,
    scan: Scan | None = None,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Nonlinear dipole inversion (Polak et al., NMR Biomed 2020): gradient descent from 0 on the misfit of the complex signals, stopped early.

    Descends E = sum_j |s_j|^2 / k^2 (1 - cos(c_j D x - phase_j)) + a/2 ||x||^2 over all echoes j (`fidelity` "echoes"; k scales the weights, see
    `EchoMisfit`), or E = sum w^2 / c^2 (1 - cos(c (D x - f))) + a/2 ||x||^2 ("field", and where no scan is given), with x and f in ppm, c = 2 pi
    gamma B0 TE. There is no minimum worth reaching: noise grows along the zeros of D, and the number of steps is the regulariser. What differs from
    the original: all echoes instead of one phase, and phases of the echoes are unwrapped with the field map, so that a misfit of more than half a
    turn waits for the shorter echoes instead of pulling to a wrong turn.

    n_iterations: steps, at most. auto_stop: end when after the third step the mean of |F x| over 0.15 < |D| <= 0.2 exceeds that over 0.225 < |D| <=
    0.275, both in the shell of 65 to 95 % of Nyquist (FANSI). step_size: for a data term whose largest curvature is 1, as for a weight of maximum 1
    in FANSI (2 there; must be below 4.5). regularisation: a in the same scale, no unit (FANSI: 1e-5). 4 and 0.003 made the better maps of two
    simulated heads, by 1 to 2 points of NRMSE. echo_time_s: of the "field" fidelity, in s. tolerance: relative change to stop at, 0 for never.
    weighting: of the "field" fidelity, "noise" or "uniform". padding: see `WorkingGrid.of`.

    The k = 0 component is 0. Raises InputError for a total field, echoes that do not belong to the field, or a setting out of range.
    """
    check_positive(step_size=step_size, echo_time_s=echo_time_s)
    check_not_negative(regularisation=regularisation)
    if step_size >= 4.5:
        raise InputError(f"step_size is {step_size}; it must be below 4.5 = 2 / max D^2, or the descent diverges.")
    if fidelity not in ("echoes", "field"):
        raise InputError(f"fidelity is {fidelity!r}; it must be 'echoes' or 'field'.")
    problem = Problem.of(field, padding=padding, weighting=weighting)
    coordinates = FourierCoordinates(problem.grid.shape, problem.data)
    from_echoes = EchoMisfit.of(scan, problem) if fidelity == "echoes" and scan is not None else None
    misfit: VoxelMisfit = FieldMisfit.of(problem, echo_time_s) if from_echoes is None else from_echoes
    data = DipoleMisfit(problem, misfit, coordinates)
    scale = 1 / float(misfit.curvature().max())
    streaks = _Streaks(problem.grid, data.kernel)

    found = descend(
        lambda x: data.gradient(x).mul_(scale).add_(x, alpha=regularisation),
        coordinates.pack(torch.zeros_like(problem.data)),
        step_size=step_size,
        n_iterations=n_iterations,
        tolerance=tolerance,
        stop=(lambda x, step: step > 3 and streaks.have_grown(coordinates.density(x))) if auto_stop else None,
        on_step=on_step,
    )
    return problem.chi_map(Solution(coordinates.unpack(found.x), found.n_steps, found.stopped, found.residual, found.curve))


class _Streaks:
    """The stopping rule: high frequencies near the cone, where noise is amplified, against those farther away from it."""

    def __init__(self, grid: WorkingGrid, kernel: Tensor) -> None:
        size = grid.field.geometry.voxel_size_mm
        axes = [torch.fft.fftfreq(n).mul(2) for n in grid.shape[:2]] + [torch.fft.rfftfreq(grid.shape[2]).mul(2)]
        # In units of the Nyquist frequency of the coarsest axis, so that the shell lies within k-space for any voxel.
        squares = [(k * max(size) / h).square() for k, h in zip(axes, size, strict=True)]
        radius = (squares[0][:, None, None] + squares[1][:, None] + squares[2]).sqrt().to(kernel.device)
        strength = kernel.abs()
        shell = (radius >= _SHELL_OF_NYQUIST[0]) & (radius <= _SHELL_OF_NYQUIST[1])
        self._ill, self._well = (shell & (strength > low) & (strength <= high) for low, high in (_ILL_KNOWN, _WELL_KNOWN))

    def have_grown(self, density: Tensor) -> bool:
        """density: |F x| on the half spectrum."""
        if not (bool(self._ill.any()) and bool(self._well.any())):
            return False
        return float(density[self._ill].mean()) > float(density[self._well].mean())
