"""The calcification of the first generator's heads."""

from torch import Tensor

from qsmdl.phantom.anatomy.nuclei import Painter, around
from qsmdl.phantom.drawing.shapes import edge_share, ellipsoid_depth
from qsmdl.physics.box import Box


def calcification_fraction(painter: Painter, voxel_mm: float) -> tuple[Box, Tensor]:
    """The first generator's calcification: the box that holds it and the fraction [box] of each voxel that is calcified (edge ramp one voxel wide).

    voxel_mm: voxel size in head millimetres (geometric mean).
    """
    params = painter.params
    centre, radii = params.calcification_centre_mm, params.calcification_radii_mm
    box = around(painter.grid, painter.frame, [centre], max(radii) + 3 + voxel_mm)
    depth = ellipsoid_depth(painter.positions(box, 0.35), centre, radii)
    return box, edge_share(depth, voxel_mm)
