"""The field of everything outside the brain, the scanner's shim, and its imperfect removal.

The background is the field of sources outside the brain mask, so it is harmonic inside (its Laplacian is 0), and stays so under every step: the shim
subtracts solid harmonics, the removal a multiple of the background, and what the removal leaves behind is the field of sources outside the mask.
All is made on a grid of about 2 mm, where it is smooth, and interpolated.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from qsmdl.phantom.drawing.ranges import Range, Triple, check_probability, draw_count, draw_direction, draw_uniform
from qsmdl.phantom.drawing.sampling import apply_separable, cubic_matrix, grid_axes
from qsmdl.phantom.scanning.downsample import cell_average, coarse_geometry
from qsmdl.phantom.scanning.switches import Limits, Switch, checked_count
from qsmdl.physics.box import Box
from qsmdl.physics.dipole import point_dipole_field
from qsmdl.scan import LABELS, Geometry, Phantom

SOURCE_GRID_MM = 2.0
"""Voxel size of the grid that carries the background."""
_HULL_MM, _HULL_MM3 = 3.0, 1000.0


@dataclass(frozen=True)
class BackgroundRanges(Switch):
    """Sources outside the brain and what becomes of their field.

    Where a phantom has a skull (label bone outside its mask) its labels are the sources: air_ppm, bone_ppm, fat_ppm relative to water (air 9.4:
    Schenck, Med Phys 1996; bone -2.1: Marques et al., Magn Reson Med 2021; fat 0.6: Hopkins and Wehrli, Magn Reson Med 1997). Elsewhere they are
    random spheres outside the convex hull of the mask: n_sources, source_radius_mm, source_gap_mm from the hull, source_ppm. Their ranges are this
    project's own (BFRnet, Zhu et al. 2022, drew spheres, cylinders and cubes of -2 to 8 ppm).

    shim_order: solid harmonics up to this degree (0 to 2) are fitted to the background in the mask and subtracted, as a shimmed scanner does.
    removal_probability: share of the samples whose background is removed afterwards; the others hand out the total field. removed: share of the
    background subtracted; residual_rms_ppm: rms in the mask of the field of random outer sources that the removal leaves.
    """

    SETTING: ClassVar[str] = "background"
    LIMITS: ClassVar[Limits] = {
        "air_ppm": (0.0, 12.0, "ppm"),
        "bone_ppm": (-6.0, 2.0, "ppm"),
        "fat_ppm": (-2.0, 2.0, "ppm"),
        "n_sources": (1, 200, ""),
        "source_radius_mm": (0.5, 80.0, "mm"),
        "source_gap_mm": (2 * SOURCE_GRID_MM, 200.0, "mm"),
        "source_ppm": (-12.0, 12.0, "ppm"),
        "shim_order": (0, 2, ""),
        "removed": (0.0, 1.0, ""),
        "residual_rms_ppm": (0.0, 1.0, "ppm"),
    }

    air_ppm: Range = (9.2, 9.6)
    bone_ppm: Range = (-2.5, -1.5)
    fat_ppm: Range = (0.4, 0.9)
    n_sources: Range = (4, 30)
    source_radius_mm: Range = (3.0, 40.0)
    source_gap_mm: Range = (4.0, 30.0)
    source_ppm: Range = (-3.0, 9.4)
    shim_order: Range = (1, 2)
    removal_probability: float = 1.0
    removed: Range = (0.95, 1.0)
    residual_rms_ppm: Range = (0.0, 0.01)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_sources", "shim_order"):
            checked_count(f"background.{name}", getattr(self, name))
        check_probability("background.removal_probability", self.removal_probability)


@dataclass(frozen=True, slots=True)
class Source:
    """A sphere outside the mask: unit direction from the mask's centre of mass, gap_mm between it and the mask's hull, radius_mm, chi_ppm."""

    direction: Triple
    gap_mm: float
    radius_mm: float
    chi_ppm: float


@dataclass(frozen=True, slots=True)
class BackgroundParams:
    """What `BackgroundRanges` drew. removed: share of the background subtracted (0: the total field is handed out); residual_rms_ppm and
    residual_sources: the field that the removal leaves (rms 0: none).
    """

    air_ppm: float
    bone_ppm: float
    fat_ppm: float
    sources: tuple[Source, ...]
    shim_order: int
    removed: float
    residual_rms_ppm: float
    residual_sources: tuple[Source, ...]


def _draw_sources(ranges: BackgroundRanges, rng: np.random.Generator) -> tuple[Source, ...]:
    return tuple(
        Source(
            draw_direction(rng),
            draw_uniform(rng, ranges.source_gap_mm),
            draw_uniform(rng, ranges.source_radius_mm),
            draw_uniform(rng, ranges.source_ppm),
        )
        for _ in range(draw_count(rng, ranges.n_sources))
    )


def draw_background(ranges: BackgroundRanges, rng: np.random.Generator) -> BackgroundParams | None:
    """The background of one sample, or None."""
    if not ranges.happens(rng):
        return None
    air, bone, fat = (draw_uniform(rng, ends) for ends in (ranges.air_ppm, ranges.bone_ppm, ranges.fat_ppm))
    sources, residual = _draw_sources(ranges, rng), _draw_sources(ranges, rng)
    is_removed = bool(rng.random() < ranges.removal_probability)
    removed, rms = draw_uniform(rng, ranges.removed), draw_uniform(rng, ranges.residual_rms_ppm)
    return BackgroundParams(
        air, bone, fat, sources, draw_count(rng, ranges.shim_order), removed if is_removed else 0.0, rms if is_removed else 0.0, residual
    )


@dataclass(frozen=True, eq=False, slots=True)
class Background:
    """Maps [x, y, z] in ppm on a coarse grid of the phantom's field of view.

    total_ppm: the shimmed field of all outer sources; removed_ppm: what the removal subtracts. Both harmonic inside the mask.
    """

    geometry: Geometry
    total_ppm: Tensor
    removed_ppm: Tensor

    def total(self, geometry: Geometry, box: Box) -> Tensor:
        """total_ppm in a box of another grid of the same field of view."""
        return self._read(self.total_ppm, geometry, box)

    def removed(self, geometry: Geometry) -> Tensor:
        """removed_ppm on another grid of the same field of view."""
        x, y, z = (slice(0, n) for n in geometry.shape)
        return self._read(self.removed_ppm, geometry, (x, y, z))

    def _read(self, field_ppm: Tensor, geometry: Geometry, box: Box) -> Tensor:
        matrices = [
            cubic_matrix(torch.arange(span.start, span.stop) * (n / m), n).to(field_ppm.device)
            for n, m, span in zip(self.geometry.shape, geometry.shape, box, strict=True)
        ]
        return apply_separable(field_ppm, (matrices[0], matrices[1], matrices[2]))


def source_grid(geometry: Geometry) -> Geometry:
    """The coarse grid that carries the background: voxels of about SOURCE_GRID_MM, or the phantom's where those are larger."""
    x, y, z = (min(n, max(8, round(length / SOURCE_GRID_MM))) for n, length in zip(geometry.shape, geometry.field_of_view_mm, strict=True))
    return coarse_geometry(geometry, (x, y, z))


def has_skull(phantom: Phantom) -> bool:
    """Whether labels outside the mask show what surrounds the brain."""
    return bool(((phantom.labels == LABELS["bone"]) & ~phantom.mask).any())


def label_field(phantom: Phantom, grid: Geometry, air_ppm: float, bone_ppm: float, fat_ppm: float) -> Tensor:
    """Field in ppm on a coarse grid of air, bone and fat outside the mask, the brain taken as water.

    Beyond the field of view lies more of what is most of its faces: air around a whole head, water otherwise. A constant makes no field, so chi is
    counted from there. Cells that the mask touches hold no sources: what lies within about 2 mm of the brain is left out, so that the field is
    harmonic in all of the mask.
    """
    table = torch.zeros(256, device=phantom.labels.device)
    for name, value in (("air", air_ppm), ("bone", bone_ppm), ("fat", fat_ppm)):
        table[LABELS[name]] = value
    chi = table.index_select(0, phantom.labels.reshape(-1).int()).reshape(phantom.labels.shape)
    faces = torch.cat([phantom.labels.select(axis, end).flatten() for axis in range(3) for end in (0, -1)])
    beyond = air_ppm if 2 * int((faces == LABELS["air"]).sum()) > len(faces) else 0.0
    sources = cell_average(chi, grid.shape).masked_fill_(cell_average(phantom.mask, grid.shape) > 0, 0.0)
    return point_dipole_field(sources - beyond, grid)


def sphere_centres(sources: tuple[Source, ...], grid: Geometry, share: Tensor) -> Tensor:
    """Centres [n, 3] in mm of spheres outside the hull of a mask that fills a share [x, y, z] of each voxel.

    The hull's distance from the centre of mass is a soft maximum, which a single voxel hardly moves: s log(sum of dV exp(p / s) / V0) over the mask,
    p the place along the direction. With these s and V0 it is 4 mm outside the surface of a ball of 70 mm radius, and 1 mm outside of one of 22 mm.
    """
    axes, points = grid_axes(grid, share.device), share.nonzero()
    where = torch.stack([axis[index] for axis, index in zip(axes, points.T, strict=True)], -1)
    volume = share[share > 0] * math.prod(grid.voxel_size_mm)
    middle = (where * volume[:, None]).sum(0) / volume.sum()
    centres = []
    for source in sources:
        direction = torch.tensor(source.direction, device=share.device)
        hull = _HULL_MM * torch.logsumexp((where - middle) @ direction / _HULL_MM + (volume / _HULL_MM3).log(), 0)
        centres.append(middle + direction * (hull + source.gap_mm + source.radius_mm))
    return torch.stack(centres)


def _sphere_fields(sources: tuple[Source, ...], grid: Geometry, share: Tensor) -> Tensor:
    """Field in ppm [x, y, z] of spheres outside a mask: chi / 3 (R / r)^3 (3 cos^2 - 1) (Salomir et al. 2003).

    Within a sphere, where no one looks, the value at its surface's radius is kept, so that the map is bounded.
    """
    x, y, z = grid_axes(grid, share.device)
    field = torch.zeros(grid.shape, device=share.device)
    b = grid.b0_direction
    for source, (cx, cy, cz) in zip(sources, sphere_centres(sources, grid, share).tolist(), strict=True):
        dx, dy, dz = (x - cx)[:, None, None], (y - cy)[:, None], z - cz
        square = dx * dx + dy * dy + dz * dz
        cos2 = (b[0] * dx + b[1] * dy + b[2] * dz).square_() / square.clamp_min(1e-6)
        field += (3 * cos2 - 1).mul_(square.clamp_min_(source.radius_mm**2).pow_(-1.5)).mul_(source.chi_ppm * source.radius_mm**3 / 3)
    return field


def solid_harmonics(position: tuple[Tensor, Tensor, Tensor], order: int) -> Tensor:
    """Solid harmonics up to degree `order` (0 to 2) at points [...]: [..., 1, 4 or 9]."""
    x, y, z = position
    terms = [torch.ones_like(x)]
    if order >= 1:
        terms += [x, y, z]
    if order == 2:
        terms += [x * y, y * z, x * z, x * x - y * y, 2 * z * z - x * x - y * y]
    return torch.stack(terms, -1)


def shimmed(field_ppm: Tensor, grid: Geometry, inside: Tensor, order: int) -> Tensor:
    """A field [x, y, z] minus its least-squares fit in a mask by solid harmonics up to a degree: what shim coils can do."""
    axes = [axis.double() for axis in grid_axes(grid, field_ppm.device)]
    scale = max(grid.field_of_view_mm) / 2
    x, y, z = (a / scale for a in torch.meshgrid(*axes, indexing="ij"))
    basis = solid_harmonics((x, y, z), order)
    chosen = basis[inside]
    coefficients = torch.linalg.solve(chosen.T @ chosen, chosen.T @ field_ppm[inside].double())
    fit: Tensor = (basis @ coefficients).float()
    return field_ppm - fit


def render_background(params: BackgroundParams, phantom: Phantom) -> Background:
    """The background of a phantom and what its removal subtracts."""
    grid = source_grid(phantom.geometry)
    share = cell_average(phantom.mask, grid.shape)
    inside = share >= 0.5 * share.max()
    if has_skull(phantom):
        field = label_field(phantom, grid, params.air_ppm, params.bone_ppm, params.fat_ppm)
    else:
        field = _sphere_fields(params.sources, grid, share)
    total = shimmed(field, grid, inside, params.shim_order)
    removed = total * params.removed
    if params.residual_rms_ppm > 0:
        residual = _sphere_fields(params.residual_sources, grid, share)
        residual -= residual[inside].mean()
        removed -= residual * (params.residual_rms_ppm / float(residual[inside].square().mean().sqrt()))
    return Background(grid, total, removed)
