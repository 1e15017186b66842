"""Grids in head coordinates, and smooth fields that are defined once and read on any grid.

Everything random or smooth in a phantom lives on a fixed lattice in millimetres and is interpolated, so that one seed gives one anatomy at every
voxel size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import scipy.fft
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.box import Box
from qsmdl.scan import Geometry

Axes = tuple[Tensor, Tensor, Tensor]
NOMINAL_FOV_MM = (164.0, 205.0, 205.0)
"""The field of view that holds the whole head. A larger one leaves air around it, a smaller one shrinks the head."""
COARSEST_VOXEL_MM = 8.0


def head_scale(geometry: Geometry) -> float:
    """Scanner millimetres per millimetre of head: 1, or less where the head must shrink to fit the field of view."""
    return min(1.0, *(have / need for have, need in zip(geometry.field_of_view_mm, NOMINAL_FOV_MM, strict=True)))


def head_axes(geometry: Geometry) -> Axes:
    """Positions of the voxels along x, y, z in head millimetres, 0 at the middle of the field of view.

    Voxel 0 sits at -FOV/2 whatever the voxel size: the convention of the k-space crop, which keeps the fine and the cropped grid in register.
    """
    scale = head_scale(geometry)
    voxel = max(geometry.voxel_size_mm) / scale
    if voxel > COARSEST_VOXEL_MM:
        raise InputError(
            f"the voxels of {geometry} are {voxel:.3g} mm in a head scaled to its field of view; "
            f"heads need {COARSEST_VOXEL_MM:g} mm or less. Use more voxels."
        )
    x, y, z = ((torch.arange(n, dtype=torch.float32) * v - n * v / 2) / scale for n, v in zip(geometry.shape, geometry.voxel_size_mm, strict=True))
    return x, y, z


def grid_axes(geometry: Geometry, device: torch.device | None = None) -> Axes:
    """Positions of the voxels along x, y, z in scanner millimetres, 0 at the middle of the field of view; voxel 0 at -FOV/2 (see `head_axes`)."""
    x, y, z = (
        torch.arange(n, dtype=torch.float32, device=device) * v - n * v / 2 for n, v in zip(geometry.shape, geometry.voxel_size_mm, strict=True)
    )
    return x, y, z


def inner_axes(axes: Axes, box: Box) -> Axes:
    """The axes of a box of a grid."""
    return axes[0][box[0]], axes[1][box[1]], axes[2][box[2]]


def cubic_matrix(positions: Tensor, n_samples: int) -> Tensor:
    """Matrix [positions, n_samples] of Catmull-Rom interpolation at fractional indices (Keys 1981), clamped at the ends."""
    clamped = positions.double().clamp(0, n_samples - 1)
    base = clamped.floor().clamp(max=max(n_samples - 2, 0))
    t = clamped - base
    weights = torch.stack(
        (
            -0.5 * t + t**2 - 0.5 * t**3,
            1 - 2.5 * t**2 + 1.5 * t**3,
            0.5 * t + 2 * t**2 - 1.5 * t**3,
            -0.5 * t**2 + 0.5 * t**3,
        ),
        dim=1,
    )
    index = (base.long()[:, None] + torch.arange(-1, 3, device=positions.device)).clamp(0, n_samples - 1)
    matrix = torch.zeros(len(positions), n_samples, dtype=torch.float64, device=positions.device)
    # One neighbour after the other: clamped ones fall together, and parallel hardware would add them in any order.
    for i in range(4):
        matrix.scatter_add_(1, index[:, i : i + 1], weights[:, i : i + 1])
    return matrix.float()


def apply_separable(volume: Tensor, matrices: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Apply one matrix per axis to a volume [..., x, y, z]."""
    along_x, along_y, along_z = matrices
    out = volume @ along_z.T
    out = torch.matmul(along_x, out.flatten(-2)).reshape(*out.shape[:-3], -1, *out.shape[-2:])
    return torch.matmul(along_y, out)


def _columns(matrix: Tensor) -> slice:
    """From the first to the last column with an entry other than 0."""
    used = matrix.any(0).nonzero()
    return slice(int(used[0]), int(used[-1]) + 1)


@dataclass(frozen=True, slots=True)
class Lattice:
    """A fixed grid in head millimetres: n samples per axis, spacing_mm apart, around the middle."""

    shape: tuple[int, int, int]
    spacing_mm: float

    @staticmethod
    def of(spacing_mm: float) -> "Lattice":
        """The lattice that covers the nominal field of view."""
        x, y, z = (int(scipy.fft.next_fast_len(int(extent / spacing_mm) + 4, real=True)) for extent in NOMINAL_FOV_MM)
        return Lattice((x, y, z), spacing_mm)

    @property
    def axes(self) -> Axes:
        """Positions of the samples in head millimetres."""
        x, y, z = ((torch.arange(n, dtype=torch.float32) - (n - 1) / 2) * self.spacing_mm for n in self.shape)
        return x, y, z

    def indices(self, axes: Axes) -> Axes:
        """Fractional indices of positions."""
        x, y, z = (a / self.spacing_mm + (n - 1) / 2 for a, n in zip(axes, self.shape, strict=True))
        return x, y, z

    def read(self, field: Tensor, axes: Axes) -> Tensor:
        """A field [..., x, y, z] of this lattice on the grid spanned by three axes, by cubic interpolation."""
        return self.reader(axes)(field)

    def reader(self, axes: Axes) -> Callable[[Tensor], Tensor]:
        """`read` on one grid, for several fields."""
        matrices = [cubic_matrix(i, n) for i, n in zip(self.indices(axes), self.shape, strict=True)]
        spans = [_columns(matrix) for matrix in matrices]
        along_x, along_y, along_z = (matrix[:, span].contiguous() for matrix, span in zip(matrices, spans, strict=True))

        def read(field: Tensor) -> Tensor:
            part = field[..., spans[0], spans[1], spans[2]]
            if along_x.shape[0] >= along_x.shape[1]:
                return apply_separable(part, (along_x, along_y, along_z))
            # A grid with few planes: they come first, and the other two axes work on them alone.
            planes = torch.matmul(along_x, part.flatten(-2)).reshape(*part.shape[:-3], -1, *part.shape[-2:])
            return torch.matmul(along_y, planes @ along_z.T)

        return read

    def read_points(self, field: Tensor, points_mm: Tensor) -> Tensor:
        """A field [x, y, z] or [c, x, y, z] of this lattice at scattered points [..., 3], by linear interpolation: [...] or [c, ...]."""
        counts = torch.tensor(self.shape, dtype=torch.float32)
        unit = points_mm / (self.spacing_mm * (counts - 1) / 2)
        # grid_sample names the last axis of the volume first.
        grid = unit.flip(-1).reshape(1, 1, 1, -1, 3)
        stacked = field.reshape(1, -1, *self.shape)
        values = torch.nn.functional.grid_sample(stacked, grid, align_corners=True, padding_mode="border")
        return values.reshape(*field.shape[:-3], *points_mm.shape[:-1])

    def gradient(self, field: Tensor) -> Tensor:
        """Central differences [3, x, y, z] per mm."""
        return torch.stack(torch.gradient(field, spacing=self.spacing_mm))


def seeded(seed: int, stream: int, device: torch.device | str = "cpu") -> torch.Generator:
    """One generator for each part of a head, so that a change in one part leaves the others alone.

    Of the CPU, unless told otherwise: a phantom is then the same one (but for rounding) on whichever device it is rendered.
    """
    return torch.Generator(device).manual_seed((seed * 1_000_003 + stream * 7919 + 17) % (2**63 - 1))


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers, drawn on the generator's device and moved to the default one."""
    return torch.randn(shape, generator=generator, device=generator.device).to(torch.get_default_device())


def uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Numbers 0 ... 1, drawn likewise."""
    return torch.rand(shape, generator=generator, device=generator.device).to(torch.get_default_device())


def integers(generator: torch.Generator, low: int, high: int, *shape: int) -> Tensor:
    """Whole numbers from low to high - 1, drawn likewise."""
    return torch.randint(low, high, shape, generator=generator, device=generator.device).to(torch.get_default_device())


def band_noise(lattice: Lattice, generator: torch.Generator, response: Callable[[Tensor], Tensor]) -> Tensor:
    """Gaussian noise of unit variance on a lattice whose amplitude spectrum is response(|k| in cycles per mm)."""
    white = normal(generator, *lattice.shape)
    kx, ky = (torch.fft.fftfreq(n, lattice.spacing_mm) for n in lattice.shape[:2])
    kz = torch.fft.rfftfreq(lattice.shape[2], lattice.spacing_mm)
    k = torch.sqrt(kx[:, None, None] ** 2 + ky[None, :, None] ** 2 + kz**2)
    noise: Tensor = torch.fft.irfftn(torch.fft.rfftn(white).mul_(response(k)), s=lattice.shape)
    return noise.sub_(noise.mean()).div_(noise.std())


def gaussian_noise(lattice: Lattice, generator: torch.Generator, sigma_mm: float) -> Tensor:
    """White noise smoothed by a Gaussian of standard deviation sigma_mm, of unit variance."""
    return band_noise(lattice, generator, lambda k: torch.exp(-2 * (math.pi * sigma_mm * k) ** 2))


def smooth_noise(lattice: Lattice, generator: torch.Generator, scale_mm: float) -> Tensor:
    """Unit-variance noise whose details are about scale_mm wide (Gaussian spectrum)."""
    # The spectrum has died away at 1.5 / scale: a third of the scale is fine enough a lattice to make it on.
    coarse = Lattice.of(max(lattice.spacing_mm, scale_mm / 3))
    noise = band_noise(coarse, generator, lambda k: torch.exp(-0.5 * (k * scale_mm * 2) ** 2))
    return noise if coarse == lattice else coarse.read(noise, lattice.axes)


def ring_noise(lattice: Lattice, generator: torch.Generator, wavelength_mm: float, width: float = 0.2) -> Tensor:
    """Unit-variance noise around one wavelength: its zero surfaces form a labyrinth half a wavelength apart."""
    return band_noise(lattice, generator, lambda k: torch.exp(-0.5 * ((k * wavelength_mm - 1) / width) ** 2))
