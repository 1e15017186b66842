"""The cerebellum: folia as thin leaves around a branching white core (arbor vitae), in fans about the fourth ventricle."""

import torch
from torch import Tensor

from qsmdl.phantom.anatomy.envelope import LATTICE, Envelope
from qsmdl.phantom.anatomy.nuclei import Painter, around
from qsmdl.phantom.drawing.sampling import inner_axes
from qsmdl.scan import LABELS

_HUB_MM = (0.0, -46.0, -35.0)
_CORNERS_MM = ((-56.0, -94.0, -62.0), (56.0, -94.0, -62.0), (-56.0, -28.0, -62.0), (56.0, -28.0, -4.0), (-56.0, -94.0, -4.0))
_MEAN_RADIUS_MM = 26.0
_FISSURES = ((9.5, 13.0), (4.0, 5.0))
"""Spacing and depth in mm of the fissures between lobules and between folia."""
_LEAF_MM = 1.5
_CLEFT_MM = 0.35
_BELOW_MM = 0.5
"""Gap to the hemispheres, half of the tentorium."""


def _fissure(fan_mm: Tensor, radius_mm: Tensor, depth_mm: Tensor, spacing_mm: float, reach_mm: float) -> Tensor:
    """Distance in mm to the nearest fissure of one order."""
    phase = fan_mm / spacing_mm
    across = (phase - phase.round()).abs() * spacing_mm * (radius_mm / _MEAN_RADIUS_MM)
    return torch.hypot(across, (depth_mm - reach_mm).clamp_min(0))


def paint_cerebellum(painter: Painter, envelope: Envelope, mask: Tensor) -> None:
    """Paint the grey and white matter of the cerebellum on the painter's grid, below the hemispheres and inside the mask [x, y, z]."""
    axes = painter.grid
    box = around(axes, envelope.frame, _CORNERS_MM, 4.0)
    inner = inner_axes(axes, box)
    depth = LATTICE.read(envelope.cerebellum, inner)
    x, y, z = painter.positions(box, 0.8)
    back, up = y - _HUB_MM[1], z - _HUB_MM[2]
    radius = torch.hypot(back, up)
    # The fan's lines curve forward towards the sides, as the folia of the hemispheres do.
    fan = torch.atan2(up, -back) * _MEAN_RADIUS_MM + 0.006 * x.square()
    pial = depth - _CLEFT_MM
    for spacing, reach in _FISSURES:
        pial = torch.minimum(pial, _fissure(fan, radius, depth, spacing, reach) - _CLEFT_MM)
    mosaic, inside = painter.mosaic.within(box), mask[box]
    free = torch.minimum(depth, -_BELOW_MM - LATTICE.read(envelope.hemisphere, inner))
    mosaic.write(free, LABELS["csf"], inside)
    mosaic.write(torch.minimum(free, pial), LABELS["grey_matter"], inside)
    core = torch.maximum(pial - _LEAF_MM, LATTICE.read(envelope.stem, inner))
    mosaic.write(torch.minimum(free, core), LABELS["white_matter"], inside)
