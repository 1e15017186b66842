import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from qsmdl.physics.dipole import Dipole
from qsmdl.scan import ChiMap, FieldMap, Geometry

Case = tuple[FieldMap, Tensor]


@pytest.fixture(scope="session")
def check_phantom() -> Case:
    """A 48^3 phantom with two deep nuclei, a vein and a calcification, and strong noise (field 0.0027 ppm): its field map, weighted by the magnitude,
    and its truth.
    """
    return _phantom(0.02)


@pytest.fixture(scope="session")
def quiet_phantom() -> Case:
    """The same with a fifth of the noise, as the challenge has it."""
    return _phantom(0.004)


def _phantom(noise_level: float) -> Case:
    index = np.arange(48) - 24
    i, j, k = np.meshgrid(index, index, index, indexing="ij")
    mask = (i / 20) ** 2 + (j / 18) ** 2 + (k / 19) ** 2 < 1
    chi = 0.02 * np.sin(2 * np.pi * i / 24) * np.cos(2 * np.pi * k / 32)
    magnitude = np.ones_like(chi)
    sources = (
        ((i + 7) ** 2 + j**2 + k**2 < 25, 0.10, 0.8),
        ((i - 8) ** 2 + j**2 + k**2 < 16, 0.15, 0.7),
        ((i - 0.3 * j) ** 2 + (k - 9) ** 2 < 2.3, 0.40, 0.5),
        (i**2 + (j - 9) ** 2 + (k + 6) ** 2 < 6.3, -1.0, 0.05),
    )
    for where, value, signal in sources:
        chi[where], magnitude[where] = value, signal
    chi, magnitude = chi * mask, magnitude * mask
    generator = np.random.default_rng(0)
    noise = noise_level * (generator.standard_normal(chi.shape) + 1j * generator.standard_normal(chi.shape))
    rad_per_ppm = 2 * math.pi * 42.58 * 7 * 0.004
    field = Dipole(chi.shape, (1, 1, 1), (0, 0, 1), fft_shape=chi.shape, dtype=torch.float64)(torch.from_numpy(chi)).numpy()
    field = mask * (field + np.angle(1 + noise / np.maximum(magnitude, 1e-3)) / rad_per_ppm)
    whole = [torch.from_numpy(a).float() for a in (field, magnitude, chi)]
    return FieldMap(Geometry((48, 48, 48)), whole[0], torch.from_numpy(mask), whole[1], name="check phantom"), whole[2]


@pytest.fixture(scope="session")
def nrmse() -> Callable[[ChiMap, Tensor], tuple[float, float]]:
    """100 ||x' - t'|| / ||t'|| and the slope x't' / t't' in the mask, both after removing means."""

    def measure(found: ChiMap, truth: Tensor) -> tuple[float, float]:
        x, t = (v[found.mask].double() for v in (found.chi_ppm, truth))
        x, t = x - x.mean(), t - t.mean()
        return 100 * float((x - t).norm() / t.norm()), float(x @ t / (t @ t))

    return measure


@pytest.fixture
def tiny() -> Callable[..., FieldMap]:
    """A random field with random weights on an anisotropic 5 x 3 x 4 grid under an oblique B0, in float64, all voxels in the mask."""

    def make(seed: int = 0, scale: float = 1.0, b0_tesla: float = 7.0, uniform: bool = False) -> FieldMap:
        generator = torch.Generator().manual_seed(seed)
        geometry = Geometry((5, 3, 4), (1.0, 1.5, 0.8), (0.0, 0.6, 0.8), b0_tesla)
        field = scale * 0.1 * torch.randn(geometry.shape, generator=generator, dtype=torch.float64)
        weight = torch.rand(geometry.shape, generator=generator, dtype=torch.float64) + 0.3
        mask = torch.ones(geometry.shape, dtype=torch.bool)
        return FieldMap(geometry, field, mask, torch.ones_like(weight) if uniform else weight)

    return make


@pytest.fixture
def dense() -> Callable[[FieldMap], tuple[np.ndarray, np.ndarray]]:
    """The dipole operator and the gradient as matrices on the field map's own periodic grid, column by column from full FFTs."""

    def matrices(field: FieldMap) -> tuple[np.ndarray, np.ndarray]:
        shape, size, b0 = field.geometry.shape, field.geometry.voxel_size_mm, field.geometry.b0_direction
        k = np.meshgrid(*(np.fft.fftfreq(n, h) for n, h in zip(shape, size, strict=True)), indexing="ij")
        with np.errstate(invalid="ignore"):
            kernel = 1 / 3 - sum(b * c for b, c in zip(b0, k, strict=True)) ** 2 / sum(c**2 for c in k)
        kernel[0, 0, 0] = 0.0
        units = np.eye(math.prod(shape)).reshape(-1, *shape)
        # Taking the real part averages D(k) and D(-k).
        dipole = np.stack([np.fft.ifftn(kernel * np.fft.fftn(u)).real.ravel() for u in units], axis=1)
        gradient = [np.stack([(np.roll(u, -1, axis) - u).ravel() / size[axis] for u in units], axis=1) for axis in range(3)]
        return dipole, np.concatenate(gradient)

    return matrices
