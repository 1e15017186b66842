"""Render a drawn head: labels, susceptibility, relaxation rates and proton density on any grid."""

import math

import torch
from torch import Tensor

from qsmdl.phantom.cerebellum import paint_cerebellum
from qsmdl.phantom.contrast import Contrast
from qsmdl.phantom.cortex import Folding, make_folding, pial_distance
from qsmdl.phantom.downsample import mask_box
from qsmdl.phantom.envelope import LATTICE, Envelope, make_envelope
from qsmdl.phantom.lesions import calcification_fraction
from qsmdl.phantom.nuclei import Painter, paint_inner_brain
from qsmdl.phantom.params import HeadParams, draw_head
from qsmdl.phantom.raster import tube_fraction
from qsmdl.phantom.sampling import head_axes, head_scale
from qsmdl.phantom.skull import paint_outside
from qsmdl.phantom.texture import MAP_NAMES, Maps, blur, draw_detail, per_voxel, tissue_maps
from qsmdl.phantom.vessels import Tubes, grow_vessels
from qsmdl.scan import LABELS, Geometry, Phantom

__all__ = ["HeadParams", "draw_head", "render_head"]


def _paint_tissue(painter: Painter, envelope: Envelope, folding: Folding) -> Tensor:
    """Label everything but vessels and lesions; returns the brain mask."""
    params, axes, labels = painter.params, painter.grid, painter.labels
    brain = LATTICE.read(envelope.brain, axes)
    mask = brain > 0
    paint_outside(params, envelope, axes, brain, labels)
    del brain
    hemisphere = LATTICE.read(envelope.hemisphere, axes)
    stem = LATTICE.read(envelope.stem, axes)
    labels[mask & (stem > 0) & (hemisphere <= 0)] = LABELS["white_matter"]
    del stem
    paint_cerebellum(painter, envelope, mask & (hemisphere <= -0.5))
    pial = pial_distance(params, folding, hemisphere, axes)
    cerebrum = mask & (hemisphere > 0)
    del hemisphere
    labels[cerebrum & (pial > 0)] = LABELS["grey_matter"]
    labels[cerebrum & (pial > params.cortex_mm)] = LABELS["white_matter"]
    labels[cerebrum & (LATTICE.read(envelope.core, axes) > 0)] = LABELS["white_matter"]
    paint_inner_brain(painter)
    return mask


def _add_vessels(maps: Maps, labels: Tensor, fraction: Tensor, contrast: Contrast, detail: tuple[Tensor, Tensor]) -> None:
    """Blend blood into the maps by its share of each voxel; label it where that is half or more."""
    touched = fraction > 0
    blood = torch.full((int(touched.sum()),), LABELS["blood"], dtype=torch.uint8)
    part = maps.part(touched)
    part.blend(tissue_maps(contrast, blood, (detail[0][touched], detail[1][touched])), fraction[touched])
    for name in MAP_NAMES:
        getattr(maps, name)[touched] = getattr(part, name)
    labels[fraction >= 0.5] = LABELS["blood"]


def _add_calcification(maps: Maps, painter: Painter, detail: tuple[Tensor, Tensor], mask: Tensor, voxel_mm: float) -> None:
    box, fraction = calcification_fraction(painter, voxel_mm)
    fraction = fraction * mask[box]
    stone = torch.full(fraction.shape, LABELS["calcification"], dtype=torch.uint8)
    maps.part(box).blend(tissue_maps(painter.params.contrast, stone, (detail[0][box], detail[1][box])), fraction)
    painter.labels[box][fraction >= 0.5] = LABELS["calcification"]


def _brain_maps(painter: Painter, mask: Tensor, tubes: list[Tubes], voxel_mm: tuple[float, ...]) -> Maps:
    """Maps of the painter's (brain) grid with texture, soft borders, vessels and calcification; adds the last two to the labels."""
    params, labels = painter.params, painter.labels
    detail = draw_detail(params, painter.grid)
    maps = tissue_maps(params.contrast, labels, detail)
    sigma = (params.blur_mm / voxel_mm[0], params.blur_mm / voxel_mm[1], params.blur_mm / voxel_mm[2])
    for name in MAP_NAMES:
        setattr(maps, name, blur(getattr(maps, name), sigma))
    _add_vessels(maps, labels, tube_fraction(tubes, painter.grid) * mask, params.contrast, detail)
    if params.has_calcification:
        _add_calcification(maps, painter, detail, mask, math.prod(voxel_mm) ** (1 / 3))
    maps.chi_ppm.mul_(mask)
    return maps


def render_head(params: HeadParams, geometry: Geometry) -> Phantom:
    """Render a head on a grid.

    The head fills a field of view of 164 x 205 x 205 mm, or part of a larger one; a smaller field of view holds a smaller head. x points right, y
    anterior, z superior. The anatomy is a function of params and position only: finer grids show the same head. chi is 0 outside the brain mask
    (brain-only sources, as in the QSM challenge 2.0). Same parameters and number of threads, same bits. Raises InputError where voxels are coarser
    than 8 mm of head.
    """
    axes, scale = head_axes(geometry), head_scale(geometry)
    envelope = make_envelope(params)
    folding = make_folding(params, envelope)
    labels = torch.full(geometry.shape, LABELS["csf"], dtype=torch.uint8)
    painter = Painter.of(params, envelope.frame, axes, labels)
    mask = _paint_tissue(painter, envelope, folding)
    # Outside the brain nothing is imaged but the scalp's brightness: table values do there.
    whole = {name: per_voxel(getattr(params.contrast, name), labels) for name in ("m0", "r1_per_s", "r2star_per_s")}
    whole["chi_ppm"] = torch.zeros(geometry.shape)
    box = mask_box(mask, margin=1)
    inner = painter.within(box)
    maps = _brain_maps(inner, mask[box], grow_vessels(params, envelope, folding), tuple(v / scale for v in geometry.voxel_size_mm))
    for name in MAP_NAMES:
        whole[name][box] = getattr(maps, name)
    return Phantom(geometry=geometry, labels=labels, mask=mask, params=params.as_dict(), **whole)
