"""A mask about as large as a brain: an ellipsoid with a bumpy surface, for samples that have no anatomy.

Positions are millimetres of the scanner from the middle of the field of view.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.phantom.drawing.ranges import Range, Triple, as_range, draw_log_uniform, draw_seed, draw_uniform
from qsmdl.phantom.drawing.sampling import Axes, Lattice, gaussian_noise, grid_axes, seeded
from qsmdl.phantom.drawing.shapes import rotated_extent, rotation
from qsmdl.scan import LABELS, Geometry

_FILL = 0.96
"""Share of the field of view that the mask may fill, so that it stays clear of the last voxels."""
_BUMP_LIMIT = 2.5
"""The surface's noise is clamped at this many standard deviations."""
_STREAM = 200


def draw_rotation(rng: np.random.Generator) -> Triple:
    """Angles in degrees about x, then y, then z of a rotation drawn uniformly from all rotations."""
    return float(rng.uniform(-180, 180)), math.degrees(math.asin(rng.uniform(-1, 1))), float(rng.uniform(-180, 180))


@dataclass(frozen=True, slots=True)
class OutlineRanges:
    """What outlines are drawn from.

    semi_axis_mm: of each of the three semi-axes; tilt_deg: of the rotation about each axis; bump_mm: standard deviation of the surface's bumps;
    bump_scale_mm: standard deviation of the Gaussian that smooths them. Raises InputError naming the setting.
    """

    semi_axis_mm: Range = (50.0, 90.0)
    tilt_deg: Range = (-30.0, 30.0)
    bump_mm: Range = (0.0, 4.0)
    bump_scale_mm: Range = (8.0, 20.0)

    def __post_init__(self) -> None:
        for name, low, high in (("semi_axis_mm", 5.0, 200.0), ("tilt_deg", -180.0, 180.0), ("bump_mm", 0.0, 20.0), ("bump_scale_mm", 2.0, 100.0)):
            object.__setattr__(self, name, as_range(name, getattr(self, name), low=low, high=high, unit=name.rsplit("_", 1)[1]))


@dataclass(frozen=True, slots=True)
class OutlineParams:
    """One outline: plain numbers in mm and degrees; seed: of the bumps."""

    seed: int
    semi_axes_mm: Triple
    rotation_deg: Triple = (0.0, 0.0, 0.0)
    centre_mm: Triple = (0.0, 0.0, 0.0)
    bump_mm: float = 0.0
    bump_scale_mm: float = 12.0

    def __post_init__(self) -> None:
        for name in ("semi_axes_mm", "rotation_deg", "centre_mm"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        if self.seed < 0 or min(self.semi_axes_mm) <= 0 or self.bump_mm < 0 or self.bump_scale_mm <= 0:
            raise InputError(
                f"seed {self.seed} and bump_mm {self.bump_mm} must not be negative, semi_axes_mm {self.semi_axes_mm} and bump_scale_mm "
                f"{self.bump_scale_mm} must be positive."
            )

    @property
    def reach_mm(self) -> Triple:
        """Half the width along x, y and z beyond which the outline never reaches."""
        bump = 1 + _BUMP_LIMIT * self.bump_mm / self.mean_radius_mm
        x, y, z = (bump * extent for extent in rotated_extent(self.semi_axes_mm, rotation(self.rotation_deg)))
        return x, y, z

    @property
    def mean_radius_mm(self) -> float:
        """The radius of the sphere of the same volume."""
        return math.prod(self.semi_axes_mm) ** (1 / 3)


def check_field_of_view(field_of_view_mm: Sequence[float]) -> Triple:
    """Three edge lengths in mm as floats. Raises InputError where there are not three of them or one is not positive."""
    lengths = tuple(float(v) for v in field_of_view_mm)
    if len(lengths) != 3 or not all(math.isfinite(v) and v > 0 for v in lengths):
        raise InputError(f"field_of_view_mm is {lengths}; it needs three positive lengths in mm, in the order x, y, z.")
    return lengths


def draw_outline(ranges: OutlineRanges, rng: np.random.Generator, field_of_view_mm: Sequence[float]) -> OutlineParams:
    """Draw an outline that lies within the field of view (x, y, z); where it would not fit, all its lengths shrink alike."""
    view = check_field_of_view(field_of_view_mm)
    wide = OutlineParams(
        seed=draw_seed(rng),
        semi_axes_mm=(draw_uniform(rng, ranges.semi_axis_mm), draw_uniform(rng, ranges.semi_axis_mm), draw_uniform(rng, ranges.semi_axis_mm)),
        rotation_deg=(draw_uniform(rng, ranges.tilt_deg), draw_uniform(rng, ranges.tilt_deg), draw_uniform(rng, ranges.tilt_deg)),
        bump_mm=draw_uniform(rng, ranges.bump_mm),
        bump_scale_mm=draw_log_uniform(rng, ranges.bump_scale_mm),
    )
    shrink = min(1.0, *(_FILL * v / 2 / reach for v, reach in zip(view, wide.reach_mm, strict=True)))
    x, y, z = (
        float(rng.uniform(-1, 1)) * min(10.0, max(0.0, _FILL * v / 2 - shrink * reach)) for v, reach in zip(view, wide.reach_mm, strict=True)
    )
    a, b, c = (shrink * semi for semi in wide.semi_axes_mm)
    return OutlineParams(wide.seed, (a, b, c), wide.rotation_deg, (x, y, z), shrink * wide.bump_mm, shrink * wide.bump_scale_mm)


def _level(params: OutlineParams, axes: Axes) -> Tensor:
    """1 on the ellipsoid's surface, growing linearly outwards: [x, y, z]."""
    turn = rotation(params.rotation_deg)
    form = [[sum(turn[i][k] * turn[j][k] / params.semi_axes_mm[k] ** 2 for k in range(3)) for j in range(3)] for i in range(3)]
    x, y, z = (a - c for a, c in zip(axes, params.centre_mm, strict=True))
    # One pass over the volume for each term in z: a stack of positions would take three volumes more.
    flat = form[0][0] * x[:, None] ** 2 + form[1][1] * y**2 + 2 * form[0][1] * x[:, None] * y
    slope = 2 * (form[0][2] * x[:, None] + form[1][2] * y)
    return torch.addcmul(flat[:, :, None] + form[2][2] * z**2, slope[:, :, None], z).clamp_min_(0).sqrt_()


def render_outline(params: OutlineParams, geometry: Geometry) -> Tensor:
    """The mask [x, y, z], bool: voxels whose centre lies inside. Raises InputError where none does."""
    axes = grid_axes(geometry)
    level = _level(params, axes)
    if params.bump_mm > 0:
        spacing = params.bump_scale_mm / 2
        x, y, z = (2 * math.ceil(reach / spacing) + 7 for reach in params.reach_mm)
        lattice = Lattice((x, y, z), spacing)
        noise = gaussian_noise(lattice, seeded(params.seed, _STREAM), params.bump_scale_mm)
        x_mm, y_mm, z_mm = (a - c for a, c in zip(axes, params.centre_mm, strict=True))
        bumps = lattice.read(noise, (x_mm, y_mm, z_mm)).clamp_(-_BUMP_LIMIT, _BUMP_LIMIT)
        level.sub_(bumps, alpha=params.bump_mm / params.mean_radius_mm)
    mask = level < 1
    if not bool(mask.any()):
        raise InputError(f"no voxel of {geometry} lies inside an outline of semi-axes {params.semi_axes_mm} mm. Use more voxels or a larger outline.")
    return mask


def plain_labels(mask: Tensor) -> Tensor:
    """Labels [x, y, z] of a sample without anatomy: white matter in its mask, CSF around."""
    return torch.where(mask, LABELS["white_matter"], LABELS["csf"]).to(torch.uint8)
