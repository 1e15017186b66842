"""Render a drawn head: labels, susceptibility, relaxation rates and proton density on any grid."""

import math

import torch
from torch import Tensor

from qsmdl.phantom.anatomy.calcification import calcification_fraction
from qsmdl.phantom.anatomy.cerebellum import paint_cerebellum
from qsmdl.phantom.anatomy.cortex import Folding, make_folding, pial_distance
from qsmdl.phantom.anatomy.envelope import LATTICE, Envelope, make_envelope
from qsmdl.phantom.anatomy.nuclei import Painter, paint_inner_brain
from qsmdl.phantom.anatomy.params import HeadParams, draw_head
from qsmdl.phantom.anatomy.skull import paint_outside
from qsmdl.phantom.anatomy.texture import blur, draw_detail, mosaic_maps, per_voxel, tissue_maps
from qsmdl.phantom.anatomy.veins import VeinStyle, grow_vessels
from qsmdl.phantom.drawing.sampling import Axes, head_axes, head_scale
from qsmdl.phantom.inclusions.raster import tube_fraction
from qsmdl.phantom.inclusions.tubes import Tubes
from qsmdl.phantom.tissue.contrast import Contrast
from qsmdl.phantom.tissue.maps import MAP_NAMES, Maps
from qsmdl.phantom.tissue.mosaic import Mosaic
from qsmdl.physics.box import Box, mask_box
from qsmdl.scan import LABELS, Geometry, Phantom

__all__ = ["HeadParams", "draw_head", "render_head"]


def _paint_tissue(painter: Painter, envelope: Envelope, folding: Folding, mask: Tensor) -> None:
    """Paint everything in the brain but vessels and lesions."""
    params, axes, mosaic = painter.params, painter.grid, painter.mosaic
    hemisphere = LATTICE.read(envelope.hemisphere, axes)
    stem = LATTICE.read(envelope.stem, axes)
    mosaic.write(torch.minimum(stem, -hemisphere), LABELS["white_matter"], mask)
    del stem
    paint_cerebellum(painter, envelope, hemisphere, mask)
    pial = pial_distance(params, folding, hemisphere, axes)
    mosaic.write(torch.minimum(pial, hemisphere), LABELS["grey_matter"], mask)
    mosaic.write(torch.minimum(pial.sub_(params.cortex_mm), hemisphere), LABELS["white_matter"], mask)
    del pial
    mosaic.write(torch.minimum(LATTICE.read(envelope.core, axes), hemisphere), LABELS["white_matter"], mask)
    paint_inner_brain(painter)


def _add_vessels(maps: Maps, labels: Tensor, fraction: Tensor, contrast: Contrast, detail: tuple[Tensor, Tensor]) -> None:
    """Blend blood into the maps by its share of each voxel; label it where that is half or more."""
    touched = fraction > 0
    blood = torch.full((int(touched.sum()),), LABELS["blood"], dtype=torch.uint8)
    part = maps.part(touched)
    part.blend(tissue_maps(contrast, blood, (detail[0][touched], detail[1][touched])), fraction[touched])
    for name in MAP_NAMES:
        getattr(maps, name)[touched] = getattr(part, name)
    labels[fraction >= 0.5] = LABELS["blood"]


def _add_calcification(maps: Maps, labels: Tensor, painter: Painter, detail: tuple[Tensor, Tensor], mask: Tensor) -> None:
    box, fraction = calcification_fraction(painter, painter.mosaic.voxel_mm)
    fraction = fraction * mask[box]
    stone = torch.full(fraction.shape, LABELS["calcification"], dtype=torch.uint8)
    maps.part(box).blend(tissue_maps(painter.params.contrast, stone, (detail[0][box], detail[1][box])), fraction)
    labels[box][fraction >= 0.5] = LABELS["calcification"]


def _brain_maps(painter: Painter, mask: Tensor, tubes: list[Tubes], voxel_mm: tuple[float, ...]) -> tuple[Maps, Tensor]:
    """Maps and labels of the painter's (brain) grid, with texture, soft borders, vessels and calcification."""
    params, mosaic = painter.params, painter.mosaic
    detail = draw_detail(params, painter.grid)
    maps, labels = mosaic_maps(params.contrast, mosaic, detail), mosaic.settle()
    if mosaic.share is None:
        sigma = (params.blur_mm / voxel_mm[0], params.blur_mm / voxel_mm[1], params.blur_mm / voxel_mm[2])
        for name in MAP_NAMES:
            setattr(maps, name, blur(getattr(maps, name), sigma))
    _add_vessels(maps, labels, tube_fraction(tubes, painter.grid, exact=mosaic.share is not None) * mask, params.contrast, detail)
    if params.has_calcification:
        _add_calcification(maps, labels, painter, detail, mask)
    maps.chi_ppm.mul_(mask)
    return maps, labels


def _brain_box(brain: Tensor, axes: Axes) -> Box:
    """A box of the grid of three axes that holds the brain for certain, from its depth on the lattice."""
    spans: list[slice] = []
    for axis, lattice, ends in zip(axes, LATTICE.axes, mask_box(brain > 0, margin=2), strict=True):
        first, last = lattice[ends.start].item(), lattice[ends.stop - 1].item()
        spans.append(slice(int(torch.searchsorted(axis, first)), int(torch.searchsorted(axis, last, right=True))))
    return spans[0], spans[1], spans[2]


def _inner_axes(axes: Axes, box: Box) -> Axes:
    return axes[0][box[0]], axes[1][box[1]], axes[2][box[2]]


def render_head(
    params: HeadParams, geometry: Geometry, *, surroundings: bool = True, partial_volume: bool = False, veins: VeinStyle | None = None
) -> Phantom:
    """Render a head on a grid.

    The head fills a field of view of 164 x 205 x 205 mm, or part of a larger one; a smaller field of view holds a smaller head. x points right, y
    anterior, z superior. The anatomy is a function of params and position only: finer grids show the same head. chi is 0 outside the brain mask
    (brain-only sources, as in the QSM challenge 2.0).

    surroundings: also what lies around the brain, which has labels and brightness but neither susceptibility nor signal in a scan; without it only
    the brightness of the scalp is kept, for the peak signal that noise is measured by (`Phantom.brightest`). partial_volume: voxels on a border hold
    both tissues by their shares, borders are as sharp as the grid, and vessels fill just their volume; otherwise hard labels softened by
    params.blur_mm, and vessels by the ramp of `raster`. veins: their style, None for the usual one.
    Same parameters and number of threads, same bits. Raises InputError where voxels are coarser than 8 mm of head.
    """
    axes, voxel_mm = head_axes(geometry), tuple(v / head_scale(geometry) for v in geometry.voxel_size_mm)
    envelope = make_envelope(params)
    folding = make_folding(params, envelope)
    if surroundings:
        labels = torch.full(geometry.shape, LABELS["csf"], dtype=torch.uint8)
        brain = LATTICE.read(envelope.brain, axes)
        paint_outside(params, envelope, axes, brain, labels)
    else:
        labels = torch.full(geometry.shape, LABELS["air"], dtype=torch.uint8)
        near = _brain_box(envelope.brain, axes)
        brain = torch.zeros(geometry.shape)
        brain[near] = LATTICE.read(envelope.brain, _inner_axes(axes, near))
    mask = brain > 0
    del brain
    box = mask_box(mask, margin=1)
    labels[mask] = LABELS["csf"]
    mosaic = Mosaic.of(labels[box], math.prod(voxel_mm) ** (1 / 3), partial_volume=partial_volume)
    painter = Painter.of(params, envelope.frame, _inner_axes(axes, box), mosaic)
    _paint_tissue(painter, envelope, folding, mask[box])
    # Outside the brain nothing is imaged but the scalp's brightness: table values do there.
    whole = {name: per_voxel(getattr(params.contrast, name), labels) for name in ("m0", "r1_per_s", "r2star_per_s")}
    whole["chi_ppm"] = torch.zeros(geometry.shape)
    maps, labels[box] = _brain_maps(painter, mask[box], grow_vessels(params, envelope, folding, veins), voxel_mm)
    for name in MAP_NAMES:
        whole[name][box] = getattr(maps, name)
    fat = None if surroundings else _table_row(params.contrast, "fat")
    return Phantom(geometry=geometry, labels=labels, mask=mask, params=params.as_dict(), brightest=fat, **whole)


def _table_row(contrast: Contrast, tissue: str) -> tuple[float, float, float]:
    label = LABELS[tissue]
    return contrast.m0[label], contrast.r1_per_s[label], contrast.r2star_per_s[label]
