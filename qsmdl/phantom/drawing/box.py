"""Where things lie on a grid."""

import torch

from qsmdl.phantom.drawing.ranges import Triple
from qsmdl.phantom.drawing.sampling import Axes
from qsmdl.physics.box import Box


def box_between(axes: Axes, low_mm: Triple, high_mm: Triple) -> Box | None:
    """The voxels that touch the box between two corners, or None where it misses the grid of three axes."""
    spans = []
    for axis, low, high in zip(axes, low_mm, high_mm, strict=True):
        half = float(axis[1] - axis[0]) / 2
        first, last = int(torch.searchsorted(axis, low - half)), int(torch.searchsorted(axis, high + half, right=True))
        if first >= last:
            return None
        spans.append(slice(first, last))
    return spans[0], spans[1], spans[2]
