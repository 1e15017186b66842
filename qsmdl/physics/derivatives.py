"""Finite-difference gradient and divergence as an exact adjoint pair, and their symbols in k-space."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.linop import LinearOperator

Boundary = Literal["periodic", "neumann"]


class Gradient(LinearOperator):
    """Forward differences divided by the voxel size, [..., x, y, z] to [..., 3, x, y, z] (ppm to ppm/mm).

    boundary: "periodic" (has a symbol in k-space) or "neumann" (the last difference along each axis is 0). The adjoint is minus the divergence.
    """

    def __init__(self, voxel_size_mm: Sequence[float] = (1.0, 1.0, 1.0), boundary: Boundary = "periodic") -> None:
        super().__init__()
        self.voxel_size_mm = tuple(float(v) for v in voxel_size_mm)
        if len(self.voxel_size_mm) != 3 or min(self.voxel_size_mm) <= 0:
            raise InputError(f"voxel_size_mm is {self.voxel_size_mm}; it needs three positive entries.")
        if boundary not in ("periodic", "neumann"):
            raise InputError(f"boundary is {boundary!r}; it must be 'periodic' or 'neumann'.")
        self.boundary = boundary

    def apply_forward(self, x: Tensor) -> Tensor:
        """The gradient of x."""
        out = x.new_empty((*x.shape[:-3], 3, *x.shape[-3:]))
        for axis, size in enumerate(self.voxel_size_mm):
            component = out.select(-4, axis)
            self.difference(x, axis, component)
            if size != 1.0:
                component.div_(size)
        return out

    def apply_adjoint(self, y: Tensor, out: Tensor | None = None) -> Tensor:
        """Minus the divergence of y [..., 3, x, y, z], written to `out` where one is given."""
        result = y.new_zeros((*y.shape[:-4], *y.shape[-3:])) if out is None else out.zero_()
        for axis, size in enumerate(self.voxel_size_mm):
            self.add_difference_adjoint(y.select(-4, axis), axis, result, 1 / size)
        return result

    def difference(self, x: Tensor, axis: int, out: Tensor) -> None:
        """Differences between neighbours along one axis, not divided by anything, written to out."""
        n, dim = x.shape[axis - 3], axis - 3
        torch.sub(x.narrow(dim, 1, n - 1), x.narrow(dim, 0, n - 1), out=out.narrow(dim, 0, n - 1))
        last = out.narrow(dim, n - 1, 1)
        if self.boundary == "periodic":
            torch.sub(x.narrow(dim, 0, 1), x.narrow(dim, n - 1, 1), out=last)
        else:
            last.zero_()

    def add_difference_adjoint(self, y: Tensor, axis: int, total: Tensor, factor: float) -> None:
        """Add the adjoint of `difference`, times a factor, to the total."""
        n, dim = y.shape[axis - 3], axis - 3
        inner = y.narrow(dim, 0, n - 1)
        total.narrow(dim, 0, n - 1).sub_(inner, alpha=factor)
        total.narrow(dim, 1, n - 1).add_(inner, alpha=factor)
        if self.boundary == "periodic":
            last = y.narrow(dim, n - 1, 1)
            total.narrow(dim, n - 1, 1).sub_(last, alpha=factor)
            total.narrow(dim, 0, 1).add_(last, alpha=factor)


class SymmetricGradient(LinearOperator):
    """The symmetric part (G v + (G v)^T) / 2 of the gradient of a vector field, [..., 3, x, y, z] to [..., 6, x, y, z], by the forward differences of
    `Gradient`.

    Components: xx, yy, zz, and sqrt(2) times xy, xz and yz, so that sums of squares and inner products are those of the 3 x 3 matrices.
    """

    PAIRS = ((0, 1), (0, 2), (1, 2))

    def __init__(self, voxel_size_mm: Sequence[float] = (1.0, 1.0, 1.0), boundary: Boundary = "periodic") -> None:
        super().__init__()
        self.gradient = Gradient(voxel_size_mm, boundary)

    def apply_forward(self, x: Tensor) -> Tensor:
        """The symmetric gradient of a vector field."""
        out = x.new_empty((*x.shape[:-4], 6, *x.shape[-3:]))
        sizes = self.gradient.voxel_size_mm
        for axis in range(3):
            component = out.select(-4, axis)
            self.gradient.difference(x.select(-4, axis), axis, component)
            if sizes[axis] != 1.0:
                component.div_(sizes[axis])
        other = torch.empty_like(x.select(-4, 0))
        for i, (a, b) in enumerate(self.PAIRS):
            component = out.select(-4, 3 + i)
            self.gradient.difference(x.select(-4, b), a, component)
            self.gradient.difference(x.select(-4, a), b, other)
            component.mul_(math.sqrt(0.5) / sizes[a]).add_(other, alpha=math.sqrt(0.5) / sizes[b])
        return out

    def apply_adjoint(self, y: Tensor, out: Tensor | None = None) -> Tensor:
        """Minus the divergence of a field of symmetric matrices [..., 6, x, y, z], written to `out` where one is given."""
        out = y.new_zeros((*y.shape[:-4], 3, *y.shape[-3:])) if out is None else out.zero_()
        sizes = self.gradient.voxel_size_mm
        for axis in range(3):
            self.gradient.add_difference_adjoint(y.select(-4, axis), axis, out.select(-4, axis), 1 / sizes[axis])
        for i, (a, b) in enumerate(self.PAIRS):
            component = y.select(-4, 3 + i)
            self.gradient.add_difference_adjoint(component, a, out.select(-4, b), math.sqrt(0.5) / sizes[a])
            self.gradient.add_difference_adjoint(component, b, out.select(-4, a), math.sqrt(0.5) / sizes[b])
        return out


def gradient_symbols(
    shape: Sequence[int], voxel_size_mm: Sequence[float] = (1.0, 1.0, 1.0), *, half: bool = True, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Symbols (exp(2 pi i n / N) - 1) / h of the periodic forward differences, complex, shaped to broadcast along x, y and z."""
    symbols = []
    for axis, (n, size) in enumerate(zip(shape, voxel_size_mm, strict=True)):
        k = torch.fft.rfftfreq(n, dtype=torch.float64) if half and axis == 2 else torch.fft.fftfreq(n, dtype=torch.float64)
        angle = 2 * torch.pi * k
        symbol = torch.complex(torch.cos(angle) - 1, torch.sin(angle)) / size
        view = [1, 1, 1]
        view[axis] = -1
        symbols.append(symbol.reshape(view).to(torch.complex128 if dtype == torch.float64 else torch.complex64))
    return symbols[0], symbols[1], symbols[2]


def gradient_power(
    shape: Sequence[int], voxel_size_mm: Sequence[float] = (1.0, 1.0, 1.0), *, half: bool = True, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Symbol L = sum_i |E_i|^2 of G^T G for the periodic gradient, real [*shape] (z halved if `half`), in 1/mm^2; L(0) = 0."""
    x, y, z = (s.real.double().square() + s.imag.double().square() for s in gradient_symbols(shape, voxel_size_mm, half=half, dtype=torch.float64))
    return (x + y + z).to(dtype)
