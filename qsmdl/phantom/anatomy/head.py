"""Render a drawn head: labels, susceptibility, relaxation rates and proton density on any grid."""

import math

import torch
from torch import Tensor

from qsmdl.phantom.anatomy.calcification import calcification_fraction
from qsmdl.phantom.anatomy.cerebellum import paint_cerebellum
from qsmdl.phantom.anatomy.cortex import Folding, make_folding, pial_distance
from qsmdl.phantom.anatomy.envelope import LATTICE, Envelope, lattice_box, make_envelope
from qsmdl.phantom.anatomy.nuclei import Painter, paint_inner_brain
from qsmdl.phantom.anatomy.params import HeadParams, draw_head
from qsmdl.phantom.anatomy.skull import paint_outside
from qsmdl.phantom.anatomy.texture import blur, draw_detail, mosaic_maps, per_voxel, tissue_maps
from qsmdl.phantom.anatomy.veins import VeinStyle, grow_vessels
from qsmdl.phantom.drawing.sampling import head_axes, head_scale, inner_axes
from qsmdl.phantom.inclusions.raster import tube_fraction
from qsmdl.phantom.inclusions.tubes import Tubes
from qsmdl.phantom.tissue.contrast import Contrast, Table
from qsmdl.phantom.tissue.maps import MAP_NAMES, Maps
from qsmdl.phantom.tissue.mosaic import Mosaic
from qsmdl.physics.box import Box, mask_box, slabs
from qsmdl.scan import LABELS, Geometry, Phantom

__all__ = ["HeadParams", "draw_head", "render_head"]


_OUTSIDE_MM = 3.0
"""How far beyond a surface the grid is painted: partial volume reaches half a voxel."""


def _paint_tissue(painter: Painter, envelope: Envelope, folding: Folding, mask: Tensor) -> None:
    """Paint everything in the brain but vessels and lesions, each in its box."""
    params, axes, mosaic = painter.params, painter.grid, painter.mosaic

    def read(field: Tensor, box: Box) -> Tensor:
        return LATTICE.read(field, inner_axes(axes, box))

    reach = -_OUTSIDE_MM - mosaic.voxel_mm
    stem, core, folded = (lattice_box(field > reach, axes) for field in (envelope.stem, envelope.core, envelope.hemisphere))
    white = torch.minimum(read(envelope.stem, stem), -read(envelope.hemisphere, stem))
    mosaic.within(stem).write(white, LABELS["white_matter"], mask[stem])
    paint_cerebellum(painter, envelope, mask)
    # Slab by slab, so that what is read and made stays in the caches.
    for span in slabs([axis.stop - axis.start for axis in folded], mask.device):
        slab = slice(folded[0].start + span.start, folded[0].start + span.stop), folded[1], folded[2]
        reader, part, inside = LATTICE.reader(inner_axes(axes, slab)), mosaic.within(slab), mask[slab]
        hemisphere = reader(envelope.hemisphere)
        pial = pial_distance(params, folding, hemisphere, reader)
        part.write(torch.minimum(pial, hemisphere), LABELS["grey_matter"], inside)
        part.write(torch.minimum(pial.sub_(params.cortex_mm), hemisphere), LABELS["white_matter"], inside)
    white = torch.minimum(read(envelope.core, core), read(envelope.hemisphere, core))
    mosaic.within(core).write(white, LABELS["white_matter"], mask[core])
    paint_inner_brain(painter)


def _add_vessels(maps: Maps, labels: Tensor, fraction: Tensor, contrast: Contrast, detail: tuple[Tensor, Tensor]) -> None:
    """Blend blood into the maps by its share of each voxel; label it where that is half or more."""
    touched = fraction.reshape(-1).nonzero().flatten()
    share, *details = (values.reshape(-1).index_select(0, touched) for values in (fraction, *detail))
    blood = tissue_maps(contrast, torch.full(touched.shape, LABELS["blood"], dtype=torch.uint8), (details[0], details[1]))
    for name in MAP_NAMES:
        values = getattr(maps, name).view(-1)
        values[touched] = values.index_select(0, touched).lerp_(getattr(blood, name), share)
    labels.masked_fill_(fraction >= 0.5, LABELS["blood"])


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
    _add_vessels(maps, labels, tube_fraction(tubes, painter.grid, exact=mosaic.share is not None).mul_(mask), params.contrast, detail)
    if params.has_calcification:
        _add_calcification(maps, labels, painter, detail, mask)
    maps.chi_ppm.mul_(mask)
    return maps, labels


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
    labels = torch.full(geometry.shape, LABELS["csf" if surroundings else "air"], dtype=torch.uint8)
    mask = torch.zeros(geometry.shape, dtype=torch.bool)
    near = (slice(None), slice(None), slice(None)) if surroundings else lattice_box(envelope.brain > 0, axes)
    brain = LATTICE.read(envelope.brain, inner_axes(axes, near))
    if surroundings:
        paint_outside(params, envelope, axes, brain, labels)
    mask[near] = brain > 0
    del brain
    box = mask_box(mask, margin=1)
    labels.masked_fill_(mask, LABELS["csf"])
    mosaic = Mosaic.of(labels[box], math.prod(voxel_mm) ** (1 / 3), partial_volume=partial_volume)
    painter = Painter.of(params, envelope.frame, inner_axes(axes, box), mosaic)
    _paint_tissue(painter, envelope, folding, mask[box])
    # Outside the brain nothing is imaged but the scalp's brightness: table values do there.
    whole = {name: _surroundings(getattr(params.contrast, name), labels, surroundings) for name in ("m0", "r1_per_s", "r2star_per_s")}
    whole["chi_ppm"] = torch.zeros(geometry.shape)
    maps, labels[box] = _brain_maps(painter, mask[box], grow_vessels(params, envelope, folding, veins), voxel_mm)
    for name in MAP_NAMES:
        whole[name][box] = getattr(maps, name)
    fat = None if surroundings else _table_row(params.contrast, "fat")
    return Phantom(geometry=geometry, labels=labels, mask=mask, params=params.as_dict(), brightest=fat, **whole)


def _surroundings(table: Table, labels: Tensor, is_painted: bool) -> Tensor:
    """A map of what lies around the brain: air alone where nothing was painted."""
    return per_voxel(table, labels) if is_painted else torch.full(labels.shape, table[LABELS["air"]])


def _table_row(contrast: Contrast, tissue: str) -> tuple[float, float, float]:
    label = LABELS[tissue]
    return contrast.m0[label], contrast.r1_per_s[label], contrast.r2star_per_s[label]
