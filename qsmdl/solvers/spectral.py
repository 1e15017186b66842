"""The least-squares step of splitting methods on a periodic grid, solved exactly in k-space."""

from collections.abc import Sequence

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
