"""Phantoms from a user's label map: values drawn for each label, the head flipped, scaled, turned and warped, borders as partial volume.

Memory: the volumes of the phantom, about ten more of them, and one label at a time in its bounding box.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.io.label_table import QUANTITIES
from qsmdl.phantom.abstract.noise_texture import noise_lattice, power_law_noise
from qsmdl.phantom.anatomy.deformation import Deformation, DeformationRanges, draw_deformation
from qsmdl.phantom.anatomy.label_atlas import LabelAtlas, closest_label
from qsmdl.phantom.drawing.box import box_between
from qsmdl.phantom.drawing.ranges import Range, as_range, draw_seed, draw_uniform
from qsmdl.phantom.drawing.sampling import Axes, apply_separable, grid_axes, seeded
from qsmdl.phantom.tissue.contrast import Contrast, ContrastName, draw_contrast
from qsmdl.physics.box import Box
from qsmdl.scan import LABELS, Geometry, Phantom

_SOFTEN_VOXELS = 0.6
"""Standard deviation in voxels of the label map by which memberships are smoothed: it takes the stairs off borders."""
_HAT = 1 / 6
"""Variance in voxels of linear interpolation."""
_PAD = 3
_LIMIT, _LARGEST_SPREAD = 3.0, 0.3
_STREAM = 230


@dataclass(frozen=True, slots=True)
class LabelMapRanges:
    """What phantoms of a label map are drawn from.

    contrast: "random", "sim1" or "sim2", how values of tissues are drawn (`contrast.draw_contrast`); labels with ranges of their own are drawn
    uniformly from these; label_spread: how far labels of one tissue stray from its values, relative; texture_exponent: of the power law of the
    detail in R2* and R1; texture_correlation: of the two; deformation. Raises InputError naming the setting.
    """

    contrast: ContrastName = "random"
    label_spread: float = 0.1
    texture_exponent: Range = (1.5, 4.0)
    texture_correlation: Range = (0.2, 0.7)
    deformation: DeformationRanges = field(default_factory=DeformationRanges)

    def __post_init__(self) -> None:
        if self.contrast not in get_args(ContrastName):
            raise InputError(f"contrast is {self.contrast!r}; it must be one of {', '.join(map(repr, get_args(ContrastName)))}.")
        if not 0 <= self.label_spread < 1:
            raise InputError(f"label_spread is {self.label_spread}; it must be at least 0 and below 1, or rates turn negative.")
        for name, low, high in (("texture_exponent", 0.0, 6.0), ("texture_correlation", -1.0, 1.0)):
            object.__setattr__(self, name, as_range(name, getattr(self, name), low=low, high=high))


@dataclass(frozen=True, slots=True)
class LabelRow:
    """What one number of the label map was drawn as: its label in `scan.LABELS`, whether it is brain, chi (0 outside the brain), rates, M0 (CSF: 1),
    and its texture as in `contrast.Contrast`: slopes in ppm per 1/s, spreads relative to the rates.
    """

    number: int
    label: int
    is_brain: bool
    chi_ppm: float
    r1_per_s: float
    r2star_per_s: float
    m0: float
    r2star_slope: float = 0.0
    r1_slope: float = 0.0
    r2star_spread: float = 0.0
    r1_spread: float = 0.0

    def __post_init__(self) -> None:
        if min(self.r1_per_s, self.r2star_per_s, self.m0) < 0:
            raise InputError(f"label {self.number}: r1_per_s, r2star_per_s and m0 must not be negative: {self}.")
        if not (0 <= self.r2star_spread <= _LARGEST_SPREAD and 0 <= self.r1_spread <= _LARGEST_SPREAD):
            raise InputError(f"label {self.number}: r2star_spread and r1_spread must lie between 0 and {_LARGEST_SPREAD}: {self}.")


@dataclass(frozen=True, slots=True)
class LabelMapParams:
    """One phantom of a label map: a row for each number that is not background, the deformation, and the texture; seed: of the texture."""

    seed: int
    rows: tuple[LabelRow, ...]
    deformation: Deformation = field(default_factory=Deformation)
    texture_exponent: float = 2.0
    texture_correlation: float = 0.5
    texture_spacing_mm: float = 1.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(self.rows))
        if self.seed < 0 or abs(self.texture_correlation) > 1 or self.texture_spacing_mm <= 0:
            raise InputError(
                f"seed {self.seed} must not be negative, texture_correlation {self.texture_correlation} must lie between -1 and 1 and "
                f"texture_spacing_mm {self.texture_spacing_mm} be positive."
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, tuples and dicts, as kept in `Phantom.params`."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "LabelMapParams":
        """The parameters that `as_dict` wrote, also after JSON turned tuples into lists."""
        rows = tuple(LabelRow(**row) for row in values["rows"])
        return LabelMapParams(**{**values, "rows": rows, "deformation": Deformation(**values["deformation"])})


def _draw_row(ranges: LabelMapRanges, rng: np.random.Generator, atlas: LabelAtlas, number: int, contrast: Contrast) -> LabelRow:
    entry = atlas.table[number]
    label = closest_label(entry)
    values = {}
    for quantity in QUANTITIES:
        own, stray = getattr(entry, quantity), 1 + ranges.label_spread * rng.uniform(-1, 1)
        values[quantity] = getattr(contrast, quantity)[label] * float(stray) if own is None else draw_uniform(rng, own)
    if not entry.is_brain:
        values["chi_ppm"] = 0.0
    slopes = {name: float(getattr(contrast, name)[label]) for name in ("r2star_slope", "r1_slope")}
    spreads = {name: min(float(getattr(contrast, name)[label]), _LARGEST_SPREAD) for name in ("r2star_spread", "r1_spread")}
    return LabelRow(number, label, entry.is_brain, **values, **slopes, **spreads)


def draw_label_map(ranges: LabelMapRanges, rng: np.random.Generator, atlas: LabelAtlas) -> LabelMapParams:
    """Draw a phantom of a label map."""
    contrast = draw_contrast(rng, ranges.contrast)
    return LabelMapParams(
        seed=draw_seed(rng),
        rows=tuple(_draw_row(ranges, rng, atlas, number, contrast) for number in sorted(atlas.boxes)),
        deformation=draw_deformation(ranges.deformation, rng, atlas.half_extent_mm),
        texture_exponent=draw_uniform(rng, ranges.texture_exponent),
        texture_correlation=draw_uniform(rng, ranges.texture_correlation),
    )


@dataclass(frozen=True, eq=False, slots=True)
class _View:
    """The label map as seen from a grid: index [x, y, z, 3] into the label map, its axes z, y, x; soften: standard deviation in voxels of the label
    map; sharpen: the power that makes the ramp between two labels one voxel of the grid wide; axes: of the grid, in head mm.
    """

    atlas: LabelAtlas
    index: Tensor
    soften: float
    sharpen: float
    deformation: Deformation
    axes: Axes

    def box(self, number: int) -> Box | None:
        """The voxels of the grid that a label may touch, or None."""
        atlas = self.atlas
        edges = [
            ((s.start - _PAD - c) * v, (s.stop - 1 + _PAD - c) * v)
            for s, c, v in zip(atlas.boxes[number], atlas.centre, atlas.voxel_size_mm, strict=True)
        ]
        low, high = self.deformation.image_box_mm((edges[0][0], edges[1][0], edges[2][0]), (edges[0][1], edges[1][1], edges[2][1]))
        return box_between(self.axes, low, high)

    def membership(self, number: int, box: Box) -> Tensor:
        """How much a label is there [box], 0 ... 1; all labels together are 1."""
        spans = self.atlas.boxes[number]
        sharp = (self.atlas.labels[spans] == number).to(self.index)
        x, y, z = (_gaussian_matrix(n, self.soften) for n in sharp.shape)
        soft = apply_separable(sharp, (x, y, z))
        first = torch.tensor([s.start - _pad(self.soften) for s in reversed(spans)], dtype=torch.float32)
        last = torch.tensor([n - 1 for n in reversed(soft.shape)], dtype=torch.float32)
        grid = (self.index[box] - first) * (2 / last) - 1
        return torch.nn.functional.grid_sample(soft[None, None], grid[None], align_corners=True)[0, 0]


def _pad(soften: float) -> int:
    return max(_PAD, math.ceil(3 * soften) + 1)


def _gaussian_matrix(n: int, sigma: float) -> Tensor:
    """Matrix [n + 2 pad, n] that smooths an axis, with zeros around it."""
    pad = _pad(sigma)
    distance = torch.arange(-pad, n + pad, dtype=torch.float32)[:, None] - torch.arange(n, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (distance / sigma) ** 2)
    return kernel / sum(math.exp(-0.5 * (i / sigma) ** 2) for i in range(-pad, pad + 1))


def _look_at(atlas: LabelAtlas, params: LabelMapParams, geometry: Geometry) -> _View:
    """The label map as seen from a grid."""
    deformation = params.deformation
    fit = deformation.fit(atlas.half_extent_mm, geometry.field_of_view_mm)
    x, y, z = (a / fit for a in grid_axes(geometry))
    source = deformation.source_mm((x, y, z), atlas.half_extent_mm)
    index = torch.stack([s / v + c for s, v, c in reversed(list(zip(source, atlas.voxel_size_mm, atlas.centre, strict=True)))], -1)
    # Widths in mm of the scanner: of a voxel of the label map as it appears there, and of the grid.
    theirs = fit * math.prod(v * s for v, s in zip(atlas.voxel_size_mm, deformation.scale, strict=True)) ** (1 / 3)
    ours = math.prod(geometry.voxel_size_mm) ** (1 / 3)
    # A Gaussian's ramp is sqrt(2 pi) standard deviations wide; it must not be narrower than a voxel of the grid.
    soften = math.sqrt(max(_SOFTEN_VOXELS**2, (ours / theirs) ** 2 / (2 * math.pi) - _HAT))
    sharpen = math.sqrt(2 * math.pi * (soften**2 + _HAT)) * theirs / ours
    return _View(atlas, index, soften, sharpen, deformation, (x, y, z))


def _detail(atlas: LabelAtlas, params: LabelMapParams, axes: Axes) -> tuple[Tensor, Tensor]:
    """Unit-variance fields for R2* and R1 on the grid of three axes, correlated, clamped at 3 standard deviations; defined over the head."""
    lattice = noise_lattice([2 * r for r in params.deformation.reach_mm(atlas.half_extent_mm)], params.texture_spacing_mm)
    first, second = (
        lattice.read(power_law_noise(lattice, seeded(params.seed, _STREAM + i), params.texture_exponent), axes) for i in range(2)
    )
    c = params.texture_correlation
    return first.clamp(-_LIMIT, _LIMIT), (c * first + math.sqrt(1 - c * c) * second).clamp_(-_LIMIT, _LIMIT)


class _Sums:
    """Running sums over labels of share and share times value, on the grid."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        names = ("membership", "weight", "brain", "best", *QUANTITIES)
        self.maps = {name: torch.zeros(shape) for name in names}
        self.labels = torch.zeros(shape, dtype=torch.uint8)

    def count(self, box: Box, weight: Tensor, row: LabelRow) -> None:
        """A label's share; it names the voxels where its share is the largest so far."""
        self.maps["weight"][box].add_(weight)
        if row.is_brain:
            self.maps["brain"][box].add_(weight)
        best = self.maps["best"][box]
        self.labels[box].masked_fill_(weight > best, row.label)
        torch.maximum(best, weight, out=best)

    def add(self, box: Box, weight: Tensor, row: LabelRow, detail: tuple[Tensor, Tensor]) -> None:
        """A label's values: chi = chi_ref + a (R2* - mean R2*) + b (R1 - mean R1), the means over the label."""
        total = weight.sum().clamp_min(1e-6)
        self.maps["m0"][box].add_(weight, alpha=row.m0)
        chi = self.maps["chi_ppm"][box].add_(weight, alpha=row.chi_ppm)
        rates = (("r2star_per_s", row.r2star_slope, row.r2star_spread), ("r1_per_s", row.r1_slope, row.r1_spread))
        for (name, slope, spread), field_ in zip(rates, detail, strict=True):
            value, weighted = getattr(row, name), weight * field_[box]
            self.maps[name][box].add_(weight, alpha=value).add_(weighted, alpha=value * spread)
            if row.is_brain:
                chi.add_(weighted - weight * (weighted.sum() / total), alpha=slope * value * spread)


_AIR = LabelRow(0, LABELS["air"], False, chi_ppm=0.0, r1_per_s=0.5, r2star_per_s=10.0, m0=0.0)
"""What surrounds the labels."""


def _check_rows(atlas: LabelAtlas, params: LabelMapParams) -> None:
    if missing := sorted(set(atlas.boxes) - {row.number for row in params.rows}):
        raise InputError(f"the parameters have no row for the labels {missing} of {atlas.name}. Draw parameters for this label map.")


@torch.no_grad()
def render_label_map(atlas: LabelAtlas, params: LabelMapParams, geometry: Geometry) -> Phantom:
    """Render a label map with drawn values on a grid.

    The head fills the field of view at most: a smaller one holds a smaller head, its brain being centred. Memberships of all labels are interpolated
    and sharpened, so that borders are ramps one voxel wide that add up to 1; maps are means weighted by them. The mask holds the voxels at least half
    filled by labels that the table calls brain; chi is 0 outside it. labels: `label_atlas.closest_label` of the label with the largest share, air for
    background. Same parameters, same bits. Raises InputError: a label without a row, no brain in the field of view.
    """
    _check_rows(atlas, params)
    view = _look_at(atlas, params, geometry)
    detail = _detail(atlas, params, view.axes)
    sums, everywhere = _Sums(geometry.shape), (slice(None), slice(None), slice(None))
    for row in params.rows:
        if row.number not in atlas.boxes or (box := view.box(row.number)) is None:
            continue
        membership = view.membership(row.number, box)
        sums.maps["membership"][box].add_(membership)
        weight = membership.pow_(view.sharpen)
        sums.count(box, weight, row)
        sums.add(box, weight, row, detail)
    rest = (1 - sums.maps.pop("membership")).clamp_(0, 1).pow_(view.sharpen)
    sums.count(everywhere, rest, _AIR)
    sums.add(everywhere, rest, _AIR, detail)
    maps = {name: sums.maps[name].div_(sums.maps["weight"]) for name in QUANTITIES}
    mask = sums.maps["brain"] >= 0.5 * sums.maps["weight"]
    if not bool(mask.any()):
        raise InputError(f"no voxel of {geometry} is at least half brain of {atlas.name}. Use smaller voxels, or a label map with more brain.")
    maps["chi_ppm"].mul_(mask)
    record = {"kind": "label_map", "label_map": atlas.name, **params.as_dict()}
    return Phantom(geometry, maps["chi_ppm"], maps["m0"], maps["r1_per_s"], maps["r2star_per_s"], sums.labels, mask, record)
