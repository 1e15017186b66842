"""The calcification: one compact, slightly irregular body of strong negative susceptibility beside the falx."""

from torch import Tensor

from qsmdl.phantom.nuclei import Box, Painter, around
from qsmdl.phantom.shapes import ellipsoid_depth


def calcification_fraction(painter: Painter, voxel_mm: float) -> tuple[Box, Tensor]:
    """The box that holds the calcification and the fraction [box] of each of its voxels that is calcified (edge ramp one voxel wide).

    voxel_mm: voxel size in head millimetres (geometric mean).
    """
    params = painter.params
    centre, radii = params.calcification_centre_mm, params.calcification_radii_mm
    box = around(painter.grid, painter.frame, [centre], max(radii) + 3 + voxel_mm)
    depth = ellipsoid_depth(painter.positions(box, 0.35), centre, radii)
    return box, (depth / voxel_mm + 0.5).clamp(0, 1)
