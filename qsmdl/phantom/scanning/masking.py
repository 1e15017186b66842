"""Brain masks as pipelines make them: eroded, with holes, and without the voxels of low signal.

What is cut away stays a source of the scan's field, as it does in a measurement; only the truth ends at the mask. No effect takes more than half of
the mask's voxels.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from qsmdl.phantom.drawing.placing import Region
from qsmdl.phantom.drawing.ranges import Range, draw_uniform
from qsmdl.phantom.drawing.sampling import grid_axes
from qsmdl.phantom.scanning.ellipsoids import Ellipsoid, EllipsoidRanges, ellipsoid_share
from qsmdl.phantom.scanning.switches import Limits, Switch
from qsmdl.physics.box import mask_box
from qsmdl.scan import Geometry


@dataclass(frozen=True)
class ErosionRanges(Switch):
    """Voxels near the surface cut away. depth_mm: a background removal with spherical mean values loses 1 to 5 mm (Li et al., NeuroImage 2011)."""

    SETTING: ClassVar[str] = "erosion"
    LIMITS: ClassVar[Limits] = {"depth_mm": (0.0, 15.0, "mm")}

    depth_mm: Range = (0.5, 4.0)


@dataclass(frozen=True)
class HoleRanges(EllipsoidRanges):
    """Ellipsoids cut out of the mask, as brain extraction and quality masks leave them."""

    SETTING: ClassVar[str] = "holes"

    radius_mm: Range = (1.5, 8.0)
    surface_share: float = 0.6


@dataclass(frozen=True)
class LowSignalRanges(Switch):
    """Voxels of little signal cut out, as thresholded masks lose them beside air, bleedings and veins. threshold: magnitude of the last echo relative
    to its median in the mask.
    """

    SETTING: ClassVar[str] = "low_signal"
    LIMITS: ClassVar[Limits] = {"threshold": (0.0, 0.9, "")}

    threshold: Range = (0.05, 0.3)


@dataclass(frozen=True, slots=True)
class ErosionParams:
    """depth_mm cut away from the surface."""

    depth_mm: float


@dataclass(frozen=True, slots=True)
class HoleParams:
    """The ellipsoids cut out."""

    blobs: tuple[Ellipsoid, ...]


@dataclass(frozen=True, slots=True)
class LowSignalParams:
    """threshold: least magnitude of the last echo relative to its median."""

    threshold: float


def draw_erosion(ranges: ErosionRanges, rng: np.random.Generator) -> ErosionParams | None:
    """The erosion of one sample, or None."""
    return ErosionParams(draw_uniform(rng, ranges.depth_mm)) if ranges.happens(rng) else None


def draw_holes(ranges: HoleRanges, rng: np.random.Generator) -> HoleParams | None:
    """The holes of one sample, or None."""
    return HoleParams(ranges.draw(rng)) if ranges.happens(rng) else None


def draw_low_signal(ranges: LowSignalRanges, rng: np.random.Generator) -> LowSignalParams | None:
    """The signal threshold of one sample, or None."""
    return LowSignalParams(draw_uniform(rng, ranges.threshold)) if ranges.happens(rng) else None


def distance_to_outside(mask: Tensor, voxel_size_mm: tuple[float, float, float]) -> Tensor:
    """Distance in mm from each voxel's centre to that of the nearest one outside the mask: [x, y, z], 0 outside. Voxels beyond the grid do not
    count; infinite where the mask fills it.
    """
    if bool(mask.all()):
        return torch.full(mask.shape, math.inf, device=mask.device)
    distance = torch.zeros(mask.shape, device=mask.device)
    if bool(mask.any()):
        # The voxels next to the mask's box are outside, and nearer than those beyond.
        box = mask_box(mask, margin=1)
        found = ndimage.distance_transform_edt(mask[box].cpu().numpy(), sampling=voxel_size_mm)
        distance[box] = torch.from_numpy(found).to(mask.device, torch.float32)
    return distance


def erode(mask: Tensor, geometry: Geometry, params: ErosionParams) -> Tensor:
    """The mask without the voxels less than depth_mm from its surface, which lies half a voxel before the nearest voxel outside; the depth is reduced
    where less than half of the voxels would remain.
    """
    half = 0.5 * math.prod(geometry.voxel_size_mm) ** (1 / 3)
    distance = distance_to_outside(mask, geometry.voxel_size_mm)
    inside = distance[mask]
    kept = mask & (distance >= params.depth_mm + half)
    if 2 * int(kept.sum()) < len(inside):
        kept = mask & (distance >= inside.median())
    return kept


def punch(mask: Tensor, geometry: Geometry, params: HoleParams) -> Tensor:
    """The mask without the ellipsoids, which are placed in the whole mask; one that would leave less than half of it is left out."""
    kept, least = mask.clone(), int(mask.sum()) / 2
    region = Region.of(mask, grid_axes(geometry, mask.device))
    for blob in params.blobs:
        box, share = ellipsoid_share(blob, region)
        before = kept[box].clone()
        kept[box] &= share < 0.5
        if int(kept.sum()) < least:
            kept[box] = before
    return kept


def drop_low_signal(mask: Tensor, magnitude: Tensor, params: LowSignalParams) -> Tensor:
    """The mask without voxels whose magnitude [x, y, z] is below threshold times its median in the mask (never more than half of them)."""
    return mask & (magnitude >= params.threshold * magnitude[mask].median())
