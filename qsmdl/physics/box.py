"""Boxes of voxels, and slabs: volumes piece by piece."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from qsmdl.errors import InputError

Box = tuple[slice, slice, slice]
_SLAB_VOXELS = 1 << 19
"""Small enough for a volume's piece and a few like it to stay in the caches, large enough for several threads."""


def slabs(shape: Sequence[int], device: torch.device) -> Iterator[slice]:
    """Spans of the first axis of a grid, a few MB of voxels each: on a CPU what takes several passes is faster slab by slab, and needs no new volume
    for each pass. On other devices one slab is all.
    """
    n = max(1, _SLAB_VOXELS // max(1, math.prod(shape[1:]))) if device.type == "cpu" else shape[0]
    for start in range(0, shape[0], n):
        yield slice(start, min(start + n, shape[0]))


def mask_box(mask: Tensor, margin: int = 0) -> Box:
    """The bounding box of a mask [x, y, z] (boolean) and a margin of voxels, within the grid. Raises InputError for an empty mask."""
    # Maxima of bytes: torch looks for any true value ten times slower.
    columns = mask.view(torch.uint8).amax(-1)
    if not bool(columns.any()):
        raise InputError("mask is empty: 0 voxels are inside, at least one is needed. Check that the mask file belongs to this scan.")
    x, y = _extent(columns.amax(1)), _extent(columns.amax(0))
    # The last axis is looked at inside the other two alone: a small box in a large grid costs one pass.
    z = _extent(mask.view(torch.uint8)[x, y].amax((0, 1)))
    grown = [slice(max(span.start - margin, 0), min(span.stop + margin, n)) for span, n in zip((x, y, z), mask.shape, strict=True)]
    return grown[0], grown[1], grown[2]


def _extent(line: Tensor) -> slice:
    """From the first to the last entry of a line that is not 0, where there is one."""
    hit = line.nonzero()
    return slice(int(hit[0]), int(hit[-1]) + 1)
