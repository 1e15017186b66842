"""Lesions and vessels laid over any phantom's maps: a box of voxels, the share of each that is filled, and with what."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsmdl.phantom.drawing.box import box_between
from qsmdl.phantom.drawing.ranges import Triple
from qsmdl.phantom.drawing.sampling import Axes
from qsmdl.phantom.drawing.shapes import edge_share
from qsmdl.phantom.tissue.maps import MAP_NAMES, Maps, Tissue
from qsmdl.physics.box import Box

_SPARSE = 1 << 16
"""Boxes with more voxels are looked through for touched ones first."""
_FINEST = 12
"""Largest number of samples per voxel along an axis."""


@dataclass(frozen=True, eq=False, slots=True)
class Layer:
    """The share 0 ... 1 of each voxel of a box that a tissue fills: fraction [*box]."""

    box: Box
    fraction: Tensor
    tissue: Tissue


def lay(maps: Maps, labels: Tensor, layers: Iterable[Layer], mask: Tensor | None = None) -> None:
    """Blend layers into maps and labels [x, y, z], in place, the first at the bottom.

    Voxels are mixed by the shares of their tissues, so that integrals of chi are kept; a layer's label holds where it fills half a voxel or more.
    mask: voxels that may change, boolean [x, y, z] (None: all).
    """
    for layer in layers:
        part, part_labels, fraction = maps.part(layer.box), labels[layer.box], layer.fraction
        if mask is not None:
            fraction = fraction * mask[layer.box]
        if fraction.numel() > _SPARSE:
            _lay_sparse(part, fraction, layer.tissue)
        else:
            part.blend(_uniform(layer.tissue, fraction), fraction)
        if layer.tissue.label is not None:
            part_labels.masked_fill_(fraction >= 0.5, layer.tissue.label)


def _uniform(tissue: Tissue, like: Tensor) -> Maps:
    return Maps(*(torch.full((), getattr(tissue, name), dtype=like.dtype, device=like.device) for name in MAP_NAMES))


def _lay_sparse(part: Maps, fraction: Tensor, tissue: Tissue) -> None:
    touched = fraction.nonzero(as_tuple=True)
    share = fraction[touched]
    for name in MAP_NAMES:
        values, value = getattr(part, name), torch.full((), getattr(tissue, name), device=fraction.device)
        values[touched] = values[touched].lerp(value, share)


def solid_fractions(
    axes: Axes, low_mm: Triple, high_mm: Triple, depth_mm: Callable[[Axes], Tensor], radius_mm: float, insets_mm: Sequence[float] = (0.0,)
) -> tuple[Box, tuple[Tensor, ...]] | None:
    """The box between two corners that holds a solid, and the share of each of its voxels that lies in it; None where it misses the grid.

    depth_mm: depth below the surface (positive inside, about true to scale near it) on a grid of three axes; radius_mm: smallest radius of curvature;
    insets_mm: one fraction for the part below each of these depths. Voxels are sampled four times per radius and at least as finely as their
    shortest edge; each sample has an edge one sample wide.
    """
    box = box_between(axes, low_mm, high_mm)
    if box is None:
        return None
    voxel = [float(a[1] - a[0]) for a in axes]
    factors = [min(_FINEST, max(round(v / min(voxel)), -int(-4 * v // radius_mm))) for v in voxel]
    fine = tuple(_subdivided(a[b], v, n) for a, b, v, n in zip(axes, box, voxel, factors, strict=True))
    sample = (voxel[0] * voxel[1] * voxel[2] / (factors[0] * factors[1] * factors[2])) ** (1 / 3)
    # A linear edge around a ball holds more outside than it leaves out inside: its radius must be smaller by sample^2 / (12 radius).
    depth = depth_mm((fine[0], fine[1], fine[2])) - sample * sample / (12 * radius_mm)
    fractions = tuple(_averaged(edge_share(depth - inset, sample), factors) for inset in insets_mm)
    return box, fractions


def _subdivided(axis: Tensor, voxel_mm: float, n: int) -> Tensor:
    """Positions of n samples per voxel along an axis."""
    within = ((torch.arange(n, dtype=axis.dtype, device=axis.device) + 0.5) / n - 0.5) * voxel_mm
    return (axis[:, None] + within).reshape(-1)


def _averaged(samples: Tensor, factors: Sequence[int]) -> Tensor:
    if max(factors) == 1:
        return samples
    x, y, z = (n // f for n, f in zip(samples.shape, factors, strict=True))
    return samples.reshape(x, factors[0], y, factors[1], z, factors[2]).mean((1, 3, 5))
