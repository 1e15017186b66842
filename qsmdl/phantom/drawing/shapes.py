"""Solids as depth functions: about the distance in mm to the surface, positive inside.

Positions come as one tensor [3, ...]; results have the shape [...].
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsmdl.phantom.drawing.ranges import Triple

Rotation = tuple[Triple, Triple, Triple]



def rotation(angles_deg: Sequence[float], number: Callable[[float], Any] = float) -> Rotation:
    """The matrix of a rotation about x, then y, then z, as plain numbers.

    number: what it is computed in; `rotation_matrix` keeps the single precision that heads were drawn with from the first.
    """
    (ca, sa), (cb, sb), (cc, sc) = ((number(math.cos(math.radians(a))), number(math.sin(math.radians(a)))) for a in angles_deg)
    return (
        (cc * cb, cc * sb * sa - sc * ca, cc * sb * ca + sc * sa),
        (sc * cb, sc * sb * sa + cc * ca, sc * sb * ca - cc * sa),
        (-sb, cb * sa, cb * ca),
    )


def rotation_matrix(angles_deg: Sequence[float]) -> Tensor:
    """Rotation by three angles about x, then y, then z: [3, 3], computed in float32."""
    return torch.tensor(rotation(angles_deg, np.float32), dtype=torch.float32)


def rotated_extent(semi_axes_mm: Sequence[float], turn: Rotation) -> Triple:
    """Half the width along x, y and z of an ellipsoid that was rotated."""
    x, y, z = (math.sqrt(sum((r * a) ** 2 for r, a in zip(row, semi_axes_mm, strict=True))) for row in turn)
    return x, y, z


def edge_share(depth_mm: Tensor, width_mm: Tensor | float) -> Tensor:
    """The share of a voxel inside a solid whose surface lies depth_mm above its centre: a ramp as wide as the voxel."""
    return (depth_mm / width_mm).add_(0.5).clamp_(0, 1)


def unit_vectors(vectors: Tensor) -> Tensor:
    """Vectors [..., 3] divided by their lengths; 0 stays 0."""
    return torch.nn.functional.normalize(vectors, dim=-1, eps=1e-6)


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """Three numbers shaped to combine with positions [3, ...]."""
    return torch.tensor(tuple(values), dtype=like.dtype).reshape(3, *([1] * (like.ndim - 1)))


def ellipsoid_depth(
    position_mm: Tensor, centre_mm: Triple, radii_mm: Triple, *, rotation_deg: Triple = (0.0, 0.0, 0.0), exponent: float = 2.0
) -> Tensor:
    """Depth in a (super-)ellipsoid, exact to first order at its surface; exponents above 2 are boxier."""
    local = position_mm - column(centre_mm, position_mm)
    if any(rotation_deg):
        turn = rotation_matrix(rotation_deg).T.to(local)
        local = torch.tensordot(turn, local, dims=1)
    radii = column(radii_mm, position_mm)
    unit = (local / radii).abs().clamp_min(1e-4)
    if exponent == 2.0:
        level = (unit * unit).sum(0).sqrt()
        slope = ((unit / radii) ** 2).sum(0).sqrt() / level
    else:
        level = (unit**exponent).sum(0) ** (1 / exponent)
        slope = (((unit / level) ** (exponent - 1) / radii) ** 2).sum(0).sqrt()
    return ((1 - level) / slope).clamp(max=min(radii_mm))


def tube_depth(position_mm: Tensor, points_mm: Sequence[Triple], radii_mm: Sequence[float]) -> Tensor:
    """Depth in a chain of rounded cones through points with one radius each."""
    points = torch.tensor([tuple(map(float, point)) for point in points_mm], dtype=position_mm.dtype)
    flat = position_mm.reshape(3, -1)
    # |p - a - t b|^2 from the products of all segments at once: fewer passes over memory than segment by segment in coordinates.
    square, along_points = flat.square().sum(0), points @ flat
    depth: Tensor | None = None
    for i, (r0, r1) in enumerate(pairwise(radii_mm)):
        start, axis = points[i], points[i + 1] - points[i]
        length = float(axis @ axis)
        projected = along_points[i + 1] - along_points[i] - float(start @ axis)
        t = (projected / length).clamp_(0, 1)
        distance = square - 2 * along_points[i] + float(start @ start) - t * (2 * projected - t * length)
        piece = r0 + (r1 - r0) * t - distance.clamp_min_(0).sqrt_()
        depth = piece if depth is None else torch.maximum(depth, piece)
    assert depth is not None
    return depth.reshape(position_mm.shape[1:])


def smooth_union(a: Tensor, b: Tensor, radius_mm: float) -> Tensor:
    """Union of two depths with the groove between them filled (polynomial smooth maximum)."""
    blend = (radius_mm - (a - b).abs()).clamp_min(0) / radius_mm
    return torch.maximum(a, b) + blend * blend * (radius_mm / 4)


def smooth_intersection(a: Tensor, b: Tensor, radius_mm: float) -> Tensor:
    """Intersection of two depths with a rounded edge."""
    return -smooth_union(-a, -b, radius_mm)
