"""What of the field a finished map leaves unexplained, and corrections of the map inside the mask that explain it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.fourier import irfft3, multiply_spectrum, rfft3
from qsmdl.scan import FieldMap
from qsmdl.solvers.krylov import cg
from qsmdl.solvers.problem import Problem

_ROBUST = 3 * 1.4826
"""Residuals beyond three standard deviations, as their median tells them, pull no harder (Huber 1964): near strong sources the field of a scan is not
that of any susceptibility on its grid."""


def check_same_grid(field: FieldMap, **maps: Tensor | None) -> None:
    """Raises InputError naming the first map that is not on the field map's grid; None is no map."""
    for name, given in maps.items():
        if given is not None and tuple(given.shape) != field.geometry.shape:
            raise InputError(f"{name} is {tuple(given.shape)}, but the field map is {field.geometry.shape}. Give both on one grid.")


@dataclass(frozen=True, eq=False, slots=True)
class Misfit:
    """values: the field in ppm that a map leaves; weight: squared, of each voxel, with Huber's; mask: where a correction may be, all [x, y, z] on the
    problem's grid; dipole: the kernel's spectrum.
    """

    problem: Problem
    values: Tensor
    weight: Tensor
    dipole: Tensor
    mask: Tensor

    @classmethod
    def of(cls, problem: Problem, chi_ppm: Tensor) -> "Misfit":
        """chi_ppm: the map, with everything that the field has, [x, y, z] on the field map's grid."""
        grid, dipole = problem.grid, problem.grid.dipole()
        values = (problem.data - _field_of(grid.place(chi_ppm), dipole)) * (problem.weight > 0)
        return cls(problem, values, problem.weight.square() * _bounded_pull(values, problem.inside), dipole, problem.mask.to(values.dtype))

    @property
    def joined(self) -> Tensor:
        """Which differences to the next voxel are between two voxels of the mask, bool [3, x, y, z]."""
        return (self.problem.gradient.apply_forward(self.mask) == 0) & (self.mask > 0)

    def on_field_map(self, correction: Tensor) -> Tensor:
        """A correction [x, y, z] of this grid on the field map's, 0 outside the mask."""
        grid = self.problem.grid
        whole = correction.new_zeros(grid.field.geometry.shape)
        whole[grid.box] = correction[grid.inner]
        return torch.where(grid.field.mask, whole, 0.0)

    def correct(self, penalty: Callable[[Tensor], Tensor], spectrum: Tensor, *, n_iterations: int, tolerance: float) -> Tensor:
        """The d [x, y, z], 0 outside the mask, that minimises ||w (D d - values)||^2 + <d, penalty(d)>, by preconditioned conjugate gradients.

        penalty: of a d that is 0 outside the mask; it returns a new tensor. spectrum: nearly its transform, [kx, ky, kz], for the preconditioner.
        """

        def normal(v: Tensor) -> Tensor:
            return _field_of(self.weight * _field_of(v, self.dipole), self.dipole).mul_(self.mask).add_(penalty(v))

        inverse = torch.addcmul(spectrum, self.dipole, self.dipole).reciprocal_()

        def precondition(r: Tensor) -> Tensor:
            return irfft3(multiply_spectrum(rfft3(r), inverse), self.problem.grid.shape).mul_(self.mask)

        target = _field_of(self.weight * self.values, self.dipole).mul_(self.mask)
        return cg(normal, target, n_iterations=n_iterations, tolerance=tolerance, precondition=precondition).x

    def correct_within(self, scale: Tensor, damping: float, *, n_iterations: int, tolerance: float) -> Tensor:
        """The d = scale z [x, y, z] that minimises ||w (D d - values)||^2 + damping ||z||^2, by conjugate gradients; 0 where the scale is.

        scale: [x, y, z], a d of what size in ppm costs the damping once, 0 outside the mask; damping: in ppm^2.
        """

        def normal(z: Tensor) -> Tensor:
            return _field_of(self.weight * _field_of(scale * z, self.dipole), self.dipole).mul_(scale).add_(z, alpha=damping)

        target = _field_of(self.weight * self.values, self.dipole).mul_(scale)
        return cg(normal, target, n_iterations=n_iterations, tolerance=tolerance).x.mul_(scale)

    def left(self, correction: Tensor) -> Tensor:
        """The misfit after a correction, [x, y, z]."""
        return self.values - _field_of(correction, self.dipole)


def _field_of(v: Tensor, dipole: Tensor) -> Tensor:
    return irfft3(multiply_spectrum(rfft3(v), dipole), v.shape)


def _bounded_pull(residual: Tensor, inside: Tensor) -> Tensor:
    """Huber's weights for a residual [x, y, z], by the median over the flat indices `inside`."""
    bound = _ROBUST * residual.flatten()[inside].abs().median()
    return bound / residual.abs().clamp(min=bound.clamp(min=torch.finfo(residual.dtype).tiny)) if bound > 0 else torch.ones_like(residual)
