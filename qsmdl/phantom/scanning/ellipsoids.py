"""Ellipsoids placed in a mask: where masks have holes, where signal is lost, where unwrapping fails."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from qsmdl.phantom.drawing.box import box_between
from qsmdl.phantom.drawing.placing import Region
from qsmdl.phantom.drawing.ranges import Range, Triple, as_triple, check_probability, draw_count, draw_log_uniform, draw_uniform
from qsmdl.phantom.drawing.shapes import edge_share, ellipsoid_depth
from qsmdl.phantom.scanning.switches import Limits, Switch, checked_count
from qsmdl.physics.box import Box


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """An ellipsoid in a mask: rank, three numbers in 0 ... 1 that say where (`Region.at_ranks`, or with on_surface `Region.on_surface`); radii_mm:
    semi-axes along x, y, z.
    """

    rank: Triple
    radii_mm: Triple
    on_surface: bool = False


@dataclass(frozen=True)
class EllipsoidRanges(Switch):
    """What ellipsoids are drawn from. count; radius_mm: mean semi-axis, log-uniform; surface_share: how many of them lie on the mask's surface."""

    LIMITS: ClassVar[Limits] = {"count": (1, 50, ""), "radius_mm": (0.5, 30.0, "mm")}

    count: Range = (1, 6)
    radius_mm: Range = (1.0, 6.0)
    surface_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_count(f"{self.SETTING}.count", self.count)
        check_probability(f"{self.SETTING}.surface_share", self.surface_share)

    def draw(self, rng: np.random.Generator) -> tuple[Ellipsoid, ...]:
        """The ellipsoids of one sample that has the effect."""
        return tuple(draw_ellipsoid(rng, self.radius_mm, self.surface_share) for _ in range(draw_count(rng, self.count)))


def draw_ellipsoid(rng: np.random.Generator, radius_mm: Range, surface_share: float = 0.0) -> Ellipsoid:
    """An ellipsoid of log-uniform mean radius whose axes differ by up to 30 %; a share of them lies on the surface of the mask."""
    radius, on_surface = draw_log_uniform(rng, radius_mm), bool(rng.random() < surface_share)
    radii = as_triple(radius * draw_uniform(rng, (0.7, 1.3)) for _ in range(3))
    return Ellipsoid(as_triple(rng.random(3)), radii, on_surface)


def ellipsoid_share(ellipsoid: Ellipsoid, region: Region) -> tuple[Box, Tensor]:
    """The box that holds an ellipsoid placed in a region and the share [box] of each of its voxels inside (edge ramp one voxel wide)."""
    centre = (region.on_surface if ellipsoid.on_surface else region.at_ranks)(ellipsoid.rank)
    voxel_mm = math.prod(region.voxel_size_mm) ** (1 / 3)
    low, high = (as_triple(c + sign * (r + voxel_mm) for c, r in zip(centre, ellipsoid.radii_mm, strict=True)) for sign in (-1, 1))
    box = box_between(region.axes, low, high)
    assert box is not None, "a place in the mask lies on the grid"
    position = torch.stack(torch.meshgrid(*(axis[span] for axis, span in zip(region.axes, box, strict=True)), indexing="ij"))
    return box, edge_share(ellipsoid_depth(position, centre, ellipsoid.radii_mm), voxel_mm)
