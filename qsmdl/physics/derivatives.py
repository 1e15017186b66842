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
        for i, size in enumerate(self.voxel_size_mm):
            n, dim = x.shape[i - 3], i - 3
            component = out.select(-4, i)
            torch.sub(x.narrow(dim, 1, n - 1), x.narrow(dim, 0, n - 1), out=component.narrow(dim, 0, n - 1))
            last = component.narrow(dim, n - 1, 1)
            if self.boundary == "periodic":
                torch.sub(x.narrow(dim, 0, 1), x.narrow(dim, n - 1, 1), out=last)
            else:
                last.zero_()
            if size != 1.0:
                component.div_(size)
        return out

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Minus the divergence of y [..., 3, x, y, z]."""
        result = y.new_zeros((*y.shape[:-4], *y.shape[-3:]))
        for i, size in enumerate(self.voxel_size_mm):
            n, dim = y.shape[i - 3], i - 3
            component = y.select(-4, i)
            inner = component.narrow(dim, 0, n - 1)
            result.narrow(dim, 0, n - 1).sub_(inner, alpha=1 / size)
            result.narrow(dim, 1, n - 1).add_(inner, alpha=1 / size)
            if self.boundary == "periodic":
                last = component.narrow(dim, n - 1, 1)
                result.narrow(dim, n - 1, 1).sub_(last, alpha=1 / size)
                result.narrow(dim, 0, 1).add_(last, alpha=1 / size)
        return result


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
        pairs = [out.select(-4, 3 + i) for i in range(3)]
        for pair in pairs:
            pair.zero_()
        for j in range(3):
            rows = self.gradient.apply_forward(x.select(-4, j))
            out.select(-4, j).copy_(rows.select(-4, j))
            for pair, axes in zip(pairs, self.PAIRS, strict=True):
                if j in axes:
                    pair.add_(rows.select(-4, axes[1 - axes.index(j)]), alpha=math.sqrt(0.5))
        return out

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Minus the divergence of a field of symmetric matrices [..., 6, x, y, z]."""
        out = y.new_empty((*y.shape[:-4], 3, *y.shape[-3:]))
        row = torch.empty_like(out)
        for j in range(3):
            row.select(-4, j).copy_(y.select(-4, j))
            for i, axes in enumerate(self.PAIRS):
                if j in axes:
                    torch.mul(y.select(-4, 3 + i), math.sqrt(0.5), out=row.select(-4, axes[1 - axes.index(j)]))
            out.select(-4, j).copy_(self.gradient.apply_adjoint(row))
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
