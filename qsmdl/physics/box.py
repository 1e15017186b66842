"""Boxes of voxels."""

from torch import Tensor

from qsmdl.errors import InputError

Box = tuple[slice, slice, slice]


def mask_box(mask: Tensor, margin: int = 0) -> Box:
    """The bounding box of a mask [x, y, z] (boolean) and a margin of voxels, within the grid. Raises InputError for an empty mask."""
    spans = []
    for axis, n in enumerate(mask.shape):
        others = [a for a in range(3) if a != axis]
        hit = mask.amax(others).nonzero()
        if not len(hit):
            raise InputError("mask is empty: 0 voxels are inside, at least one is needed. Check that the mask file belongs to this scan.")
        spans.append(slice(max(int(hit[0]) - margin, 0), min(int(hit[-1]) + 1 + margin, n)))
    return spans[0], spans[1], spans[2]
