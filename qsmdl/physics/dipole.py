"""The dipole operator: the field that a susceptibility map makes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.fourier import fast_shape, irfft3, multiply_spectrum, rfft3
from qsmdl.physics.linop import LinearOperator
from qsmdl.scan import Geometry

Vectors = Sequence[float] | Tensor


def _frequencies(n: int, size_mm: Tensor, half: bool) -> tuple[Tensor, Tensor]:
    """Frequencies in cycles/mm [..., n] for voxel sizes [...], split into those below Nyquist and the Nyquist one (each 0 where the other is not)."""
    k = torch.fft.rfftfreq(n, dtype=torch.float64) if half else torch.fft.fftfreq(n, dtype=torch.float64)
    at_nyquist = k.abs() == 0.5
    k = k / size_mm.unsqueeze(-1)
    # rfftfreq calls the Nyquist frequency positive, fftfreq negative: one sign for both, since products of two of them matter.
    return k.masked_fill(at_nyquist, 0.0), -k.abs().masked_fill(~at_nyquist, 0.0)


def _axis(values: Tensor, axis: int) -> Tensor:
    """[..., n] to [..., n, 1, 1], [..., 1, n, 1] or [..., 1, 1, n]."""
    return values[(..., *(slice(None) if i == axis else None for i in range(3)))]


def dipole_kernel(
    shape: Sequence[int], voxel_size_mm: Vectors, b0_direction: Vectors, *, half: bool = True, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The dipole kernel D(k) = 1/3 - (k.b)^2 / k^2 with D(0) = 0 (Marques and Bowtell 2005; Salomir et al. 2003): ppm to ppm.

    shape: grid (x, y, z); voxel_size_mm and b0_direction: (x, y, z), or tensors [batch, 3]. Returns [*shape] (z halved to n // 2 + 1 if `half`) or
    [batch, 1, *shape]. D(0) = 0 makes the mean of the field 0 and leaves the mean of chi undefined.
    On the Nyquist planes of even grids D(k) and D(-k) differ for an oblique B0; their mean is used, so that the half and the full spectrum give one
    result.
    """
    voxel, direction = (torch.as_tensor(v, dtype=torch.float64) for v in (voxel_size_mm, b0_direction))
    if not bool((voxel > 0).all() & torch.isfinite(voxel).all()):
        raise InputError(f"voxel_size_mm is {voxel.tolist()}; every entry must be positive and finite.")
    if not bool(((direction.norm(dim=-1) - 1).abs() < 1e-3).all()):
        raise InputError(f"b0_direction is {direction.tolist()}; it must have length 1. Divide it by its length.")
    batched = max(voxel.ndim, direction.ndim) == 2
    if batched:
        voxel, direction = (v.expand(max(len(voxel), len(direction)), 3).unsqueeze(1) if v.ndim == 2 else v for v in (voxel, direction))
    below, nyquist = [], []
    for axis, n in enumerate(shape):
        parts = _frequencies(n, voxel[..., axis], half and axis == 2)
        below.append(_axis(parts[0], axis).to(dtype))
        nyquist.append(_axis(parts[1], axis).to(dtype))
    b = [direction[..., axis, None, None, None].to(dtype) for axis in range(3)]
    # (k.b)^2 averaged over k and -k: products of one Nyquist with one other component cancel, all others stay.
    along = (below[0] * b[0] + below[1] * b[1] + below[2] * b[2]).square_()
    if any(n % 2 == 0 for n in shape):
        along += (nyquist[0] * b[0] + nyquist[1] * b[1] + nyquist[2] * b[2]).square_()
    k2 = sum(((u + v) ** 2 for u, v in zip(below, nyquist, strict=True)), torch.zeros((), dtype=dtype))
    k2[..., 0, 0, 0] = 1.0
    kernel = along.div_(k2).neg_().add_(1 / 3)
    kernel[..., 0, 0, 0] = 0.0
    return kernel


class Dipole(LinearOperator):
    """Susceptibility in ppm [..., *shape] to field in ppm [..., *shape]; self-adjoint.

    The map is zero-padded to `fft_shape` (default: 1.5 times the shape, rounded up to fast sizes) to remove wrap-around, multiplied in k-space by
    the half spectrum of the kernel, and cropped. With batched voxel sizes or directions [batch, 3] the input is [batch, channel, *shape]. float32
    even under autocast.
    """

    kernel: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        voxel_size_mm: Vectors,
        b0_direction: Vectors,
        *,
        fft_shape: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.shape = tuple(int(n) for n in shape)
        self.fft_shape = fast_shape(self.shape, 1.5) if fft_shape is None else tuple(int(n) for n in fft_shape)
        if len(self.shape) != 3 or any(p < n for n, p in zip(self.shape, self.fft_shape, strict=True)):
            raise InputError(f"fft_shape {self.fft_shape} must have three entries, each at least that of the shape {self.shape}.")
        self.register_buffer("kernel", dipole_kernel(self.fft_shape, voxel_size_mm, b0_direction, dtype=dtype), persistent=False)

    @classmethod
    def of(cls, geometry: Geometry, padding: float = 1.5, *, dtype: torch.dtype = torch.float32) -> "Dipole":
        """The operator of a geometry, padded by a factor (2 makes the wrap-around of the farthest voxel leave the grid)."""
        return cls(geometry.shape, geometry.voxel_size_mm, geometry.b0_direction, fft_shape=fast_shape(geometry.shape, padding), dtype=dtype)

    def apply_forward(self, x: Tensor) -> Tensor:
        """The field of x."""
        if tuple(x.shape[-3:]) != self.shape:
            raise InputError(f"The dipole operator was made for volumes of {self.shape}, but got {tuple(x.shape[-3:])}.")
        with torch.autocast(x.device.type, enabled=False):
            spectrum = multiply_spectrum(rfft3(x, self.fft_shape), self.kernel)
            padded = irfft3(spectrum, self.fft_shape)
        return padded[..., : self.shape[0], : self.shape[1], : self.shape[2]].contiguous()

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """The same as the operator itself."""
        return self.apply_forward(y)

    @property
    def H(self) -> LinearOperator:  # noqa: N802
        """The operator itself: its kernel is real and even, and cropping is the adjoint of padding."""
        return self


def point_dipole_field(chi_ppm: Tensor, geometry: Geometry) -> Tensor:
    """Field in ppm at the voxel centres of a grid when each voxel acts as a point dipole at its own: chi V (3 cos^2 - 1) / (4 pi r^3).

    Unlike the kernel that is exact in k-space it does not ring beside edges, so it is harmonic right up to the sources; nothing wraps around. A
    constant chi makes a field from its outer faces alone.
    """
    padded = fast_shape([2 * n - 1 for n in geometry.shape])
    offsets = []
    for n, size in zip(padded, geometry.voxel_size_mm, strict=True):
        index = torch.arange(n, dtype=torch.float32, device=chi_ppm.device)
        offsets.append(torch.where(index < n / 2, index, index - n) * size)
    x, y, z = offsets[0][:, None, None], offsets[1][:, None], offsets[2]
    b = geometry.b0_direction
    square = x * x + y * y + z * z
    square[0, 0, 0] = 1.0
    kernel = (b[0] * x + b[1] * y + b[2] * z).square_().div_(square).mul_(3).sub_(1).div_(square.pow_(1.5))
    kernel[0, 0, 0] = 0.0
    spectrum = rfft3(kernel.mul_(math.prod(geometry.voxel_size_mm) / (4 * math.pi))).mul_(rfft3(chi_ppm, padded))
    field = irfft3(spectrum, padded)
    return field[: geometry.shape[0], : geometry.shape[1], : geometry.shape[2]].contiguous()
