"""Objectives of a susceptibility map for `gauss_newton`: data terms of its field, smoothed total variation, and the k-space preconditioner.

The unknown is the map's half spectrum in coordinates that keep inner products (`FourierCoordinates`): every curvature then costs two real transforms
there and two back, and a preconditioner that is diagonal in k-space costs none.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qsmdl.physics.derivatives import Gradient
from qsmdl.physics.fourier import irfft3, multiply_spectrum, rfft3
from qsmdl.solvers.echoes import VoxelMisfit
from qsmdl.solvers.gauss_newton import Linearised
from qsmdl.solvers.problem import Problem


class FourierCoordinates:
    """A real volume [x, y, z] as a complex half spectrum whose Re sum(conj(a) b) is the inner product of the volumes.

    Columns of the half spectrum that stand for two of the full one are scaled by sqrt(2), all by 1 / sqrt(n).
    """

    def __init__(self, shape: Sequence[int], like: Tensor) -> None:
        self.shape = tuple(shape)
        n_z = self.shape[2]
        scale = torch.full((n_z // 2 + 1,), math.sqrt(2), dtype=torch.float64)
        scale[0] = 1.0
        if n_z % 2 == 0:
            scale[-1] = 1.0
        scale = scale / math.sqrt(math.prod(self.shape))
        self._scale, self._inverse = (v.to(like.dtype).to(like.device) for v in (scale, 1 / scale))

    def pack(self, volume: Tensor) -> Tensor:
        """A volume's coordinates."""
        return multiply_spectrum(rfft3(volume), self._scale)

    def unpack(self, x: Tensor, kernel: Tensor | None = None) -> Tensor:
        """The volume of x, or of kernel times x with a real kernel on the half spectrum."""
        return irfft3(multiply_spectrum(x.clone(), self._inverse if kernel is None else kernel * self._inverse), self.shape)

    def density(self, x: Tensor) -> Tensor:
        """|F volume| on the half spectrum, of coordinates x."""
        return x.abs() * self._inverse

    def filter(self, volume: Tensor, kernel: Tensor) -> Tensor:
        """The coordinates of a volume, times a real kernel."""
        return multiply_spectrum(self.pack(volume), kernel)


class DipoleMisfit:
    """The data term g(H x) of a field H x at the measured voxels of a problem.

    kernel: H on the half spectrum, the dipole kernel (None) or a filtered one. `misfit` may be replaced between steps.
    """

    def __init__(self, problem: Problem, misfit: VoxelMisfit, coordinates: FourierCoordinates, kernel: Tensor | None = None) -> None:
        self._problem, self.misfit, self._coordinates = problem, misfit, coordinates
        self.kernel = problem.grid.dipole() if kernel is None else kernel

    def _place(self, values: Tensor) -> Tensor:
        volume = torch.zeros_like(self._problem.data)
        volume.view(-1).index_copy_(0, self._problem.inside, values)
        return volume

    def field(self, x: Tensor) -> Tensor:
        """H x at the measured voxels."""
        return self._coordinates.unpack(x, self.kernel).flatten()[self._problem.inside]

    def value(self, x: Tensor) -> float:
        """g(H x)."""
        return self.misfit.value(self.field(x))

    def gradient(self, x: Tensor) -> Tensor:
        """H g'(H x)."""
        return self._coordinates.filter(self._place(self.misfit.slope(self.field(x))), self.kernel)

    def linearise(self, x: Tensor) -> Linearised:
        """Value, gradient, and v -> H g'' H v."""
        z = self.field(x)
        weight = self._place(self.misfit.curvature())

        def curvature(v: Tensor) -> Tensor:
            return self._coordinates.filter(self._coordinates.unpack(v, self.kernel).mul_(weight), self.kernel)

        return Linearised(self.misfit.value(z), self._coordinates.filter(self._place(self.misfit.slope(z)), self.kernel), curvature)

    def revise(self, x: Tensor) -> None:
        """Let the misfit follow the map."""
        self.misfit = self.misfit.revised(self.field(x))

    def mean_curvature(self) -> float:
        """Mean of g'' over the whole grid."""
        return float(self.misfit.curvature().sum(dtype=torch.float64)) / self._problem.data.numel()


class SmoothedVariation:
    """alpha sum (sqrt((M G x)^2 + eps^2) - eps), the components of the gradient summed, with its lagged-diffusivity curvature.

    edge_mask: M [3, x, y, z] of 0 and 1, or None for 1; smoothing: eps in ppm/mm. The gradient is that of Neumann ends.
    """

    def __init__(
        self, problem: Problem, coordinates: FourierCoordinates, regularisation: float, smoothing: float, edge_mask: Tensor | None = None
    ) -> None:
        self._gradient = Gradient(problem.grid.field.geometry.voxel_size_mm, "neumann")
        self._coordinates, self._alpha, self._eps, self._mask = coordinates, regularisation, smoothing, edge_mask
        self._strength = 0.0

    def _edges(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """M G x and sqrt((M G x)^2 + eps^2)."""
        edges = self._gradient.apply_forward(self._coordinates.unpack(x))
        if self._mask is not None:
            edges.mul_(self._mask)
        return edges, edges.square().add_(self._eps**2).sqrt_()

    def value(self, x: Tensor) -> float:
        """The smoothed variation."""
        return self._alpha * float(self._edges(x)[1].sub_(self._eps).sum(dtype=torch.float64))

    def linearise(self, x: Tensor) -> Linearised:
        """Value, gradient, and v -> alpha G^T M^2 G v / sqrt((M G x)^2 + eps^2)."""
        edges, length = self._edges(x)
        value = self._alpha * float((length - self._eps).sum(dtype=torch.float64))
        diffusivity = length.reciprocal_().mul_(self._alpha)
        if self._mask is not None:
            diffusivity.mul_(self._mask)
        self._strength = float(diffusivity.mean(dtype=torch.float64))

        def curvature(v: Tensor) -> Tensor:
            return self._coordinates.pack(self._gradient.apply_adjoint(self._gradient.apply_forward(self._coordinates.unpack(v)).mul_(diffusivity)))

        return Linearised(value, self._coordinates.pack(self._gradient.apply_adjoint(edges.mul_(diffusivity))), curvature)

    def mean_strength(self) -> float:
        """Mean of alpha M^2 / sqrt((M G x)^2 + eps^2) where it was last linearised."""
        return self._strength


def inverse_mean_curvature(problem: Problem, data: DipoleMisfit, variation: SmoothedVariation) -> Tensor:
    """1 / (mean(g'') H^2 + mean(strength) L) on the half spectrum, 0 at k = 0: the inverse of the curvature with its weights replaced by their means,
    at the point that was linearised last.
    """
    inverse = problem.grid.gradient_power().mul_(variation.mean_strength())
    inverse.addcmul_(data.kernel, data.kernel, value=data.mean_curvature())
    inverse[0, 0, 0] = math.inf
    return inverse.reciprocal_()
