"""Blocks of the methods that trust one part of k-space and complete the rest."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.derivatives import Gradient
from qsmdl.physics.fourier import irfft3, multiply_spectrum, rfft3
from qsmdl.physics.relaxation import combined_magnitude
from qsmdl.scan import Scan
from qsmdl.solvers.admm import GrowingPenalty, OnStep, Term, admm
from qsmdl.solvers.grid import WorkingGrid
from qsmdl.solvers.prox import soft_threshold
from qsmdl.solvers.solution import Solution


class CompletionSolve:
    """argmin_x fidelity/2 ||x - known||^2_M + mu/2 ||G x - t||^2, where ||x||^2_M = sum M |F x|^2 / n counts the trusted frequencies alone.

    known: a map [x, y, z]; trusted: M on the half spectrum, bool; fidelity: in 1/(ppm mm), infinite to leave the trusted frequencies as they are;
    penalty: mu, read at every call. G is the periodic gradient. The k = 0 component is set to exactly 0. Two real transforms per call.
    """

    def __init__(self, grid: WorkingGrid, known: Tensor, trusted: Tensor, fidelity: float, penalty: GrowingPenalty) -> None:
        self._shape, self._trusted, self._fidelity, self._penalty = grid.shape, trusted, fidelity, penalty
        self.gradient = Gradient(grid.field.geometry.voxel_size_mm)
        self._known = rfft3(known)
        self._power = grid.gradient_power()
        self._built_for = math.nan
        self._build()

    def _build(self) -> None:
        """The kernel of the gradient's target, and the part of x that does not change, for the penalty of now."""
        strength = torch.where(self._trusted, self._power.new_tensor(self._fidelity / self._penalty.value), 0.0)
        inverse = self._power + strength
        inverse[0, 0, 0] = math.inf
        share = 1 - self._power / inverse  # M fidelity / (M fidelity + mu L), also where that is infinite
        share[0, 0, 0] = 0.0
        self._of_gradient = inverse.reciprocal_()
        self._fixed = multiply_spectrum(self._known.clone(), share)
        self._built_for = self._penalty.value

    def __call__(self, targets: Sequence[Tensor]) -> Tensor:
        """targets: t [3, x, y, z]."""
        if self._built_for != self._penalty.value:
            self._build()
        spectrum = multiply_spectrum(rfft3(self.gradient.apply_adjoint(targets[0])), self._of_gradient)
        spectrum += self._fixed
        return irfft3(spectrum, self._shape)


def complete(
    grid: WorkingGrid,
    known: Tensor,
    trusted: Tensor,
    *,
    fidelity: float,
    penalty: float,
    growth: float = 1.0,
    edges: Tensor | None = None,
    n_iterations: int,
    tolerance: float,
    on_step: OnStep | None = None,
) -> Solution[Tensor]:
    """Minimise fidelity/2 ||x - known||^2_M + ||R G x||_1, anisotropic, by ADMM from the known map: the trusted frequencies of `known` are kept, or
    nearly, and the others are those of least variation. The arguments are those of `CompletionSolve` and `GrowingPenalty`.

    edges: R [3, x, y, z], small where variation is to be spared (None: 1).
    """
    mu = GrowingPenalty(penalty, growth)
    solve = CompletionSolve(grid, known, trusted, fidelity, mu)

    def prox(v: Tensor) -> Tensor:
        return soft_threshold(v, 1 / mu.value if edges is None else edges / mu.value)

    term = Term(solve.gradient.apply_forward, prox, solve.gradient.apply_forward(known))
    return admm(solve, [term], n_iterations=n_iterations, tolerance=tolerance, penalty=mu, on_step=on_step)


def magnitude_on(grid: WorkingGrid, scan: Scan | None) -> Tensor:
    """The magnitude of all echoes on the working grid; without a scan, the confidence of the field map. Raises InputError for a scan on another
    grid.
    """
    field = grid.field
    if scan is None:
        return grid.place(field.weight)
    if scan.geometry.shape != field.geometry.shape:
        raise InputError(f"The scan has the grid {scan.geometry.shape} and the field map {field.geometry.shape}; edges need both on one grid.")
    return grid.place(combined_magnitude(scan).to(field.field_ppm))


def sphere_mean(grid: WorkingGrid, radius_mm: float) -> Tensor:
    """The half spectrum of the mean over the sphere around each voxel: real, 1 at k = 0."""
    data = grid.field.field_ppm
    distance = torch.zeros((), dtype=torch.float64)
    for axis, (n, size) in enumerate(zip(grid.shape, grid.field.geometry.voxel_size_mm, strict=True)):
        offset = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) * size
        distance = distance + offset.square().reshape([-1 if i == axis else 1 for i in range(3)])
    sphere = (distance <= radius_mm**2).to(data.dtype).to(data.device)
    return rfft3(sphere / sphere.sum()).real
