"""What the switchable effects of an acquisition have in common: a probability, checked ranges, and bodies placed in a mask."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.phantom.drawing.box import Box
from qsmdl.phantom.drawing.ranges import Range, as_range, check_probability, draw_log_uniform, draw_uniform
from qsmdl.phantom.drawing.sampling import grid_axes
from qsmdl.phantom.drawing.shapes import ellipsoid_depth
from qsmdl.scan import Geometry

Triple = tuple[float, float, float]
Limits = dict[str, tuple[float, float, str]]


@dataclass(frozen=True)
class Switch:
    """An effect that a share of the samples has. probability: that share, 0 switches the effect off.

    SETTING: how configurations call the effect; LIMITS: lowest and highest value and the unit of every range. Raises InputError for a value outside.
    """

    SETTING: ClassVar[str] = "effect"
    LIMITS: ClassVar[Limits] = {}

    probability: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "probability", check_probability(f"{self.SETTING}.probability", self.probability))
        for name, (low, high, unit) in self.LIMITS.items():
            object.__setattr__(self, name, as_range(f"{self.SETTING}.{name}", getattr(self, name), low=low, high=high, unit=unit))

    def happens(self, rng: np.random.Generator) -> bool:
        """Whether a sample has the effect."""
        return bool(rng.random() < self.probability)


def draw_seed(rng: np.random.Generator) -> int:
    """A seed for the random fields of a renderer."""
    return int(rng.integers(2**31))


def draw_direction(rng: np.random.Generator, max_tilt_deg: float = 180.0) -> Triple:
    """A unit vector uniform on the part of the sphere within an angle of the z axis."""
    cosine = rng.uniform(math.cos(math.radians(max_tilt_deg)), 1.0)
    azimuth = rng.uniform(0, 2 * math.pi)
    sine = math.sqrt(max(0.0, 1 - cosine**2))
    return sine * math.cos(azimuth), sine * math.sin(azimuth), float(cosine)


@dataclass(frozen=True, slots=True)
class Blob:
    """An ellipsoid placed in a mask: rank, three numbers in 0 ... 1 that say where (`inside_point`, or with on_surface `surface_point`); radii_mm:
    semi-axes along x, y, z.
    """

    rank: Triple
    radii_mm: Triple
    on_surface: bool = False


def draw_blob(rng: np.random.Generator, radius_mm: Range, surface_share: float = 0.0) -> Blob:
    """A blob of log-uniform mean radius whose axes differ by up to 30 %; a share of them sits on the surface of the mask."""
    radius, on_surface = draw_log_uniform(rng, radius_mm), bool(rng.random() < surface_share)
    x, y, z = (radius * draw_uniform(rng, (0.7, 1.3)) for _ in range(3))
    return Blob((float(rng.random()), float(rng.random()), float(rng.random())), (x, y, z), on_surface)


def inside_point(mask: Tensor, geometry: Geometry, rank: Triple) -> Triple:
    """The point in mm that three ranks name in a mask: uniform in its volume for uniform ranks, and the same place on every grid.

    The first rank is the share of the mask's volume at smaller x, the second that of the slice at smaller y, the third that of the line.
    """
    rest, point = mask, []
    for share, n, size in zip(rank, geometry.shape, geometry.voxel_size_mm, strict=True):
        profile = rest.reshape(n, -1).sum(1, dtype=torch.float64)
        total = profile.cumsum(0)
        aim = share * float(total[-1])
        index = min(int(torch.searchsorted(total, aim, right=True)), int(profile.nonzero()[-1]))
        within = (aim - float(total[index])) / float(profile[index]) + 1
        point.append((index - 0.5 + within) * size - n * size / 2)
        rest = rest[index]
    return point[0], point[1], point[2]


def surface_point(mask: Tensor, geometry: Geometry, rank: Triple) -> Triple:
    """The last point in mm inside a mask on the ray from its centre of mass in the direction of two ranks (uniform on the sphere)."""
    axes = grid_axes(geometry, mask.device)
    total = float(mask.sum())
    others = ((1, 2), (0, 2), (0, 1))
    centre = [float((mask.sum(o).double() * a).sum()) / total for o, a in zip(others, axes, strict=True)]
    cosine, azimuth = 2 * rank[0] - 1, 2 * math.pi * rank[1]
    sine = math.sqrt(max(0.0, 1 - cosine**2))
    direction = (sine * math.cos(azimuth), sine * math.sin(azimuth), cosine)
    reach = math.hypot(*geometry.field_of_view_mm)
    distance = torch.arange(0.0, reach, 0.5 * min(geometry.voxel_size_mm), device=mask.device)
    inside = torch.ones(len(distance), dtype=torch.bool, device=mask.device)
    index = []
    for c, d, n, size in zip(centre, direction, geometry.shape, geometry.voxel_size_mm, strict=True):
        place = ((c + d * distance + n * size / 2) / size).round().long()
        inside &= (place >= 0) & (place < n)
        index.append(place.clamp(0, n - 1))
    inside &= mask[index[0], index[1], index[2]]
    last = float(distance[inside].max()) if bool(inside.any()) else 0.0
    x, y, z = (c + d * last for c, d in zip(centre, direction, strict=True))
    return x, y, z


def place(blob: Blob, mask: Tensor, geometry: Geometry) -> Triple:
    """Where a blob's centre lies, in mm."""
    return (surface_point if blob.on_surface else inside_point)(mask, geometry, blob.rank)


def blob_fraction(blob: Blob, centre_mm: Triple, geometry: Geometry, device: torch.device) -> tuple[Box, Tensor]:
    """The box that holds a blob and the share [box] of each of its voxels inside (edge ramp one voxel wide)."""
    voxel_mm = math.prod(geometry.voxel_size_mm) ** (1 / 3)
    spans, axes = [], []
    for axis, c, radius, n, size in zip(grid_axes(geometry, device), centre_mm, blob.radii_mm, geometry.shape, geometry.voxel_size_mm, strict=True):
        low, high = ((c + sign * (radius + voxel_mm) + n * size / 2) / size for sign in (-1, 1))
        # At least one voxel, also for a blob beyond the edge: its share there is 0.
        start = min(max(math.floor(low), 0), n - 1)
        spans.append(slice(start, max(min(math.ceil(high) + 1, n), start + 1)))
        axes.append(axis[spans[-1]])
    position = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    depth = ellipsoid_depth(position, centre_mm, blob.radii_mm)
    return (spans[0], spans[1], spans[2]), (depth / voxel_mm + 0.5).clamp_(0, 1)


def checked_count(setting: str, ends: Range) -> None:
    """Raises InputError for a range of counts that are not whole numbers."""
    if any(v != round(v) for v in ends):
        raise InputError(f"{setting} is {list(ends)}; counts are whole numbers.")


def plane_waves(points_mm: Tensor, scale_mm: float, generator: torch.Generator, n_waves: int = 24) -> Tensor:
    """A smooth random field of unit variance at points [n, 3]: waves of random directions and phases about scale_mm long."""
    waves = torch.randn(n_waves, 3, generator=generator, device=generator.device).div_(scale_mm * math.sqrt(3)).to(points_mm)
    start = torch.rand(n_waves, generator=generator, device=generator.device).to(points_mm)
    return ((points_mm @ waves.T + start) * (2 * math.pi)).cos_().sum(1) * math.sqrt(2 / n_waves)


def evaluate_polynomial(coefficients: Sequence[tuple[tuple[int, int, int], float]], axes: Sequence[Tensor]) -> Tensor:
    """Sum of coefficient x^i y^j z^k on the grid [x, y, z] of three axes."""
    x, y, z = axes
    total = torch.zeros(len(x), len(y), len(z), device=x.device)
    for (i, j, k), value in coefficients:
        total += (x**i * value)[:, None, None] * ((y**j)[:, None] * z**k)
    return total
