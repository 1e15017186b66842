"""Boxes of voxels."""

from torch import Tensor

Box = tuple[slice, slice, slice]


def mask_box(mask: Tensor, margin: int = 0) -> Box:
    """The bounding box of a non-empty mask [x, y, z] and a margin of voxels, within the grid."""
    spans = []
    for axis, n in enumerate(mask.shape):
        others = [a for a in range(3) if a != axis]
        hit = mask.amax(others).nonzero()
        spans.append(slice(max(int(hit[0]) - margin, 0), min(int(hit[-1]) + 1 + margin, n)))
    return spans[0], spans[1], spans[2]
