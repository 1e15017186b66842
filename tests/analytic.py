"""Fields in closed form: a sphere and a long cylinder of susceptibility chi in vacuum, with the sphere of Lorentz (Salomir et al. 2003)."""

import math

import torch
from torch import Tensor


def positions(shape: tuple[int, int, int], voxel_size_mm: tuple[float, float, float], centre: tuple[float, float, float]) -> Tensor:
    """Voxel centres in mm relative to a centre given in voxels, [x, y, z, 3]."""
    axes = [(torch.arange(n, dtype=torch.float64) - c) * v for n, v, c in zip(shape, voxel_size_mm, centre, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def sphere_field(position: Tensor, radius_mm: float, b0_direction: tuple[float, float, float]) -> Tensor:
    """Field in ppm of a sphere of 1 ppm: 0 inside, (R / r)^3 (3 cos^2 - 1) / 3 outside."""
    r = position.norm(dim=-1).clamp(min=1e-6)
    cosine = (position @ torch.tensor(b0_direction, dtype=torch.float64)) / r
    return torch.where(r < radius_mm, 0.0, (radius_mm / r) ** 3 * (3 * cosine**2 - 1) / 3)


def cylinder_field(position: Tensor, radius_mm: float, axis: int, b0_direction: tuple[float, float, float]) -> Tensor:
    """Field in ppm of an infinite cylinder of 1 ppm along a coordinate axis: (3 cos^2 t - 1) / 6 inside, sin^2 t (R / r)^2 cos(2 phi) / 2 outside, t
    the angle between axis and B0, phi that between the radial vector and B0's projection."""
    b = torch.tensor(b0_direction, dtype=torch.float64)
    cos_t = float(b[axis])
    sin2_t = 1 - cos_t**2
    radial = position.clone()
    radial[..., axis] = 0
    r = radial.norm(dim=-1).clamp(min=1e-6)
    across = b.clone()
    across[axis] = 0
    cos_phi = (radial @ across) / (r * math.sqrt(max(sin2_t, 1e-30)))
    outside = sin2_t / 2 * (radius_mm / r) ** 2 * (2 * cos_phi**2 - 1)
    return torch.where(r < radius_mm, (3 * cos_t**2 - 1) / 6, outside)
