"""Everything around the brain: dura, bone, muscle, fat, air and the air-filled sinuses."""

import torch
from torch import Tensor

from qsmdl.phantom.anatomy.envelope import LATTICE, Envelope
from qsmdl.phantom.anatomy.params import HeadParams
from qsmdl.phantom.drawing.sampling import Axes, seeded, smooth_noise
from qsmdl.phantom.drawing.shapes import ellipsoid_depth, smooth_union, tube_depth
from qsmdl.scan import LABELS

_DURA_MM = 1.2
_SCALP_MM = 4.5


def _head(envelope: Envelope) -> Tensor:
    """Depth below the skin: the brain's hull grown by bone and scalp, a face and a neck."""
    position = envelope.template
    vault = envelope.brain + 11.0
    skull_base = ellipsoid_depth(position, (0.0, -10.0, -20.0), (66.0, 80.0, 45.0))
    face = ellipsoid_depth(position, (0.0, 38.0, -62.0), (58.0, 52.0, 62.0))
    neck = tube_depth(position, ((0, -20, -60), (0, -28, -160)), (58, 56))
    return smooth_union(smooth_union(vault, skull_base, 15.0), smooth_union(face, neck, 20.0), 15.0)


def _sinuses(position_mm: Tensor) -> Tensor:
    """Depth in the air of the frontal, sphenoid and maxillary sinuses, nose and mastoid cells."""
    folded = torch.cat((position_mm[:1].abs(), position_mm[1:]))
    depth = ellipsoid_depth(folded, (8.0, 70.0, -14.0), (9.0, 5.0, 10.0))
    for centre, radii in (
        ((5.0, 22.0, -40.0), (8.0, 10.0, 8.0)),
        ((7.0, 52.0, -46.0), (8.0, 24.0, 18.0)),
        ((30.0, 52.0, -56.0), (11.0, 14.0, 15.0)),
        ((54.0, -34.0, -52.0), (6.0, 8.0, 9.0)),
        ((0.0, 8.0, -85.0), (11.0, 9.0, 28.0)),
    ):
        depth = torch.maximum(depth, ellipsoid_depth(folded, centre, radii))
    return depth


def paint_outside(params: HeadParams, envelope: Envelope, axes: Axes, brain_mm: Tensor, labels: Tensor) -> None:
    """Label every voxel outside the brain (brain_mm <= 0), on the grid of three axes, in place."""
    noise = smooth_noise(LATTICE, seeded(params.seed, 70), 16.0)
    outside = brain_mm <= 0
    labels[outside] = LABELS["muscle"]
    skin = LATTICE.read(_head(envelope) + 0.5 * noise, axes)
    labels[outside & (skin < _SCALP_MM)] = LABELS["fat"]
    bone = LATTICE.read(6.6 + 1.0 * noise, axes)
    labels[outside & (brain_mm > -bone)] = LABELS["bone"]
    labels[outside & (brain_mm > -_DURA_MM)] = LABELS["csf"]
    sinus = LATTICE.read(_sinuses(envelope.template) + 1.5 * noise, axes)
    labels[outside & (brain_mm < -3) & (sinus > 0)] = LABELS["air"]
    labels[outside & (skin < 0)] = LABELS["air"]
