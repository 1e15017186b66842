"""The least-squares step of splitting methods on a periodic grid, solved exactly in k-space."""

from collections.abc import Sequence

import torch
from torch import Tensor

from qsmdl.physics.derivatives import Gradient
from qsmdl.physics.fourier import irfft3, multiply_spectrum, rfft3
from qsmdl.solvers.grid import WorkingGrid


class GradientDipoleSolve:
    """argmin_x mu_g/2 ||G x - t_g||^2 + mu_d/2 ||D x - t_d||^2, G the periodic gradient and D the dipole operator.

    Two transforms to k-space and one back; `field` needs one more. The k = 0 component, which neither term sees, is set to exactly 0.
    """

    def __init__(self, grid: WorkingGrid, gradient_penalty: float, data_penalty: float) -> None:
        self._shape = grid.shape
        self.gradient = Gradient(grid.field.geometry.voxel_size_mm)
        self._dipole = grid.dipole()
        inverse = grid.gradient_power().mul_(gradient_penalty).addcmul_(self._dipole, self._dipole, value=data_penalty)
        inverse[0, 0, 0] = 1.0
        inverse.reciprocal_()
        inverse[0, 0, 0] = 0.0
        self._of_data = inverse * self._dipole * data_penalty
        self._of_gradient = inverse.mul_(gradient_penalty)
        self._last: tuple[Tensor, Tensor] | None = None

    def __call__(self, targets: Sequence[Tensor]) -> Tensor:
        """targets: t_g [3, x, y, z] and t_d [x, y, z]."""
        gradient_target, data_target = targets
        spectrum = multiply_spectrum(rfft3(self.gradient.apply_adjoint(gradient_target)), self._of_gradient)
        spectrum += multiply_spectrum(rfft3(data_target), self._of_data)
        x = irfft3(spectrum, self._shape)
        self._last = (x, spectrum)
        return x

    def field(self, x: Tensor) -> Tensor:
        """D x. For the x that the last call returned its spectrum is reused, once."""
        last, self._last = self._last, None
        spectrum = last[1] if last is not None and last[0] is x else rfft3(x)
        return irfft3(multiply_spectrum(spectrum, self._dipole), self._shape)


class WeakHarmonicSolve:
    """argmin over x and h of mu_g/2 ||G x - t_g||^2 + mu_d/2 ||D x + h - t_d||^2 + mu_h/2 ||L h - t_h||^2, with L = G^T G, minus the Laplacian.

    Two equations for every frequency, solved together; their determinant is written as a sum of positive terms, so nothing cancels in float32. Three
    transforms to k-space and two back; `field` needs one more. The k = 0 component of x, which no term sees, is set to exactly 0; that of h is not.
    """

    def __init__(self, grid: WorkingGrid, gradient_penalty: float, data_penalty: float, harmonic_penalty: float) -> None:
        self._shape = grid.shape
        self.gradient = Gradient(grid.field.geometry.voxel_size_mm)
        self._dipole = grid.dipole()
        power, square = grid.gradient_power(), self._dipole.square()
        mixed = data_penalty * harmonic_penalty
        determinant = power * (mixed * square * power + gradient_penalty * (data_penalty + harmonic_penalty * power.square()))
        determinant[0, 0, 0] = 1.0
        inverse = determinant.reciprocal_()
        inverse[0, 0, 0] = 0.0
        self._to_x = (
            gradient_penalty * inverse * (data_penalty + harmonic_penalty * power.square()),
            mixed * inverse * self._dipole * power.square(),
            -mixed * inverse * self._dipole * power,
        )
        self._to_h = (
            -gradient_penalty * data_penalty * inverse * self._dipole,
            gradient_penalty * data_penalty * inverse * power,
            harmonic_penalty * inverse * power * (data_penalty * square + gradient_penalty * power),
        )
        self._to_h[1][0, 0, 0] = 1.0
        self._last: tuple[Tensor, Tensor] | None = None

    def __call__(self, targets: Sequence[Tensor]) -> Tensor:
        """targets: t_g [3, x, y, z], t_d and t_h [x, y, z]. Returns x and h, [2, x, y, z]."""
        spectra = [torch.view_as_real(rfft3(t)) for t in (self.gradient.apply_adjoint(targets[0]), targets[1], targets[2])]
        both = []
        for kernels in (self._to_x, self._to_h):
            total = spectra[0] * kernels[0].unsqueeze(-1)
            for spectrum, kernel in zip(spectra[1:], kernels[1:], strict=True):
                total.addcmul_(spectrum, kernel.unsqueeze(-1))
            both.append(torch.view_as_complex(total))
        found = torch.stack([irfft3(spectrum, self._shape) for spectrum in both])
        self._last = (found, multiply_spectrum(both[0], self._dipole).add_(both[1]))
        return found

    def field(self, both: Tensor) -> Tensor:
        """D x + h. For the maps that the last call returned the spectrum is reused, once."""
        last, self._last = self._last, None
        if last is not None and last[0] is both:
            return irfft3(last[1], self._shape)
        return irfft3(multiply_spectrum(rfft3(both[0]), self._dipole), self._shape) + both[1]

    def laplacian(self, both: Tensor) -> Tensor:
        """L h."""
        return self.gradient.apply_adjoint(self.gradient.apply_forward(both[1]))
