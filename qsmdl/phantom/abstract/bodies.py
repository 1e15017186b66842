"""Bodies of simple shape and the share of each voxel that they fill.

A body's edge is a linear ramp one voxel wide, measured along the surface's normal; that is the exact average over the voxel where a face is flat and
along an axis. A curved surface averaged over voxels moves inwards a little; radii are reduced by that much, so that volumes, and with them magnetic
moments, are kept to 1 %. Bodies thinner than three voxels, sampled too coarsely for that, are scaled to their exact volume; thinner than a voxel,
they fill their share of it.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.phantom.drawing.ranges import Triple
from qsmdl.phantom.drawing.shapes import edge_share, rotated_extent, rotation
from qsmdl.physics.box import Box
from qsmdl.scan import Geometry

BodyKind = Literal["cuboid", "sphere", "ellipsoid", "tube"]
BODY_KINDS: tuple[BodyKind, ...] = get_args(BodyKind)
_THIN_VOXELS = 3.0


@dataclass(frozen=True, slots=True)
class Body:
    """A body: plain numbers, in mm from the middle of the field of view and degrees (rotation about x, then y, then z).

    size_mm: extents along its own axes; of a tube (diameter, length of the centreline, diameter), with ends rounded beyond that length; bend_deg: the
    angle through which a tube bends (towards its own negative x axis), above 0 and up to 180.
    """

    kind: BodyKind
    centre_mm: Triple
    size_mm: Triple
    rotation_deg: Triple = (0.0, 0.0, 0.0)
    bend_deg: float = 0.0

    def __post_init__(self) -> None:
        for name in ("centre_mm", "size_mm", "rotation_deg"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        if self.kind not in BODY_KINDS:
            raise InputError(f"kind is {self.kind!r}; it must be one of {', '.join(map(repr, BODY_KINDS))}.")
        if len(self.size_mm) != 3 or not all(math.isfinite(v) and v > 0 for v in self.size_mm):
            raise InputError(f"size_mm is {self.size_mm}; a body needs three positive extents in mm.")
        if self.kind == "tube" and not 0 < self.bend_deg <= 180:
            raise InputError(f"bend_deg is {self.bend_deg}; a tube bends by more than 0 and up to 180 degrees.")

    @property
    def volume_mm3(self) -> float:
        """The volume; a tube's by Pappus' rule, ends included."""
        x, y, z = self.size_mm
        if self.kind == "cuboid":
            return x * y * z
        if self.kind == "tube":
            return math.pi / 4 * x * x * y + math.pi / 6 * x**3
        return math.pi / 6 * x * y * z

    @property
    def bend_radius_mm(self) -> float:
        """Radius of the circle that a tube's centreline is a part of."""
        return self.size_mm[1] / math.radians(self.bend_deg)

    def reach_mm(self) -> Triple:
        """Half the width along x, y and z of a box around the centre that holds the body."""
        half, turn = [s / 2 for s in self.size_mm], rotation(self.rotation_deg)
        if self.kind == "cuboid":
            x, y, z = (sum(abs(r) * h for r, h in zip(row, half, strict=True)) for row in turn)
            return x, y, z
        if self.kind == "tube":
            half_angle, bend = math.radians(self.bend_deg) / 2, self.bend_radius_mm
            ends = (bend * (1 - math.cos(half_angle)) / 2, bend * min(1.0, math.sin(half_angle)), 0.0)
            x, y, z = (sum(abs(r) * e for r, e in zip(row, ends, strict=True)) + half[0] for row in turn)
            return x, y, z
        return rotated_extent(half, turn)


def _box(geometry: Geometry, centre_mm: Triple, reach_mm: Triple) -> Box | None:
    """The voxels of a box around a point and one more on each side, or None where it misses the grid."""
    spans = []
    for n, v, c, r in zip(geometry.shape, geometry.voxel_size_mm, centre_mm, reach_mm, strict=True):
        low = max(math.floor((c - r) / v + n / 2) - 1, 0)
        high = min(math.ceil((c + r) / v + n / 2) + 2, n)
        if low >= high:
            return None
        spans.append(slice(low, high))
    return spans[0], spans[1], spans[2]


def _local(body: Body, geometry: Geometry, box: Box) -> list[Tensor]:
    """Coordinates along the body's own axes: three volumes of the box."""
    offset = [
        torch.arange(s.start, s.stop, dtype=torch.float32) * v - (n * v / 2 + c)
        for s, n, v, c in zip(box, geometry.shape, geometry.voxel_size_mm, body.centre_mm, strict=True)
    ]
    x, y, z = offset[0][:, None, None], offset[1][:, None], offset[2]
    turn = rotation(body.rotation_deg)
    return [turn[0][i] * x + turn[1][i] * y + turn[2][i] * z for i in range(3)]


def _metric(body: Body, geometry: Geometry) -> list[list[float]]:
    """Q with ramp width^2 = n Q n for a unit normal n in the body's axes: the voxel's variance along n, times 12."""
    turn, squares = rotation(body.rotation_deg), [v * v for v in geometry.voxel_size_mm]
    return [[sum(turn[k][i] * turn[k][j] * squares[k] for k in range(3)) for j in range(3)] for i in range(3)]


def _width(normal: list[Tensor], metric: list[list[float]], isotropic_mm: float | None) -> Tensor | float:
    """Width of the ramp for normals of any length: one number where voxels are cubes."""
    if isotropic_mm is not None:
        return isotropic_mm
    a, b, c = normal
    form = metric[0][0] * a * a + metric[1][1] * b * b + metric[2][2] * c * c
    form += 2 * (metric[0][1] * a * b + metric[0][2] * a * c + metric[1][2] * b * c)
    return (form / (a * a + b * b + c * c).clamp_min(1e-12)).clamp_min_(1e-12).sqrt_()


def _shrunk_sphere(radius: float, width: float) -> tuple[float, float]:
    """Radius and height of a ball with a ramp of this width that has the volume of a sharp ball: r^3 + r w^2 / 4 = radius^3."""
    if radius**3 < width**3 / 4:
        return width / 2, radius**3 / (width**3 / 4)
    shrunk = radius
    for _ in range(6):
        shrunk -= (shrunk**3 + shrunk * width * width / 4 - radius**3) / (3 * shrunk * shrunk + width * width / 4)
    return shrunk, 1.0


def _shrunk_circle(radius: float, width: float) -> tuple[float, float]:
    """The same of a disc and its area: r^2 + w^2 / 12 = radius^2."""
    square = radius * radius - width * width / 12
    if square < width * width / 4:
        return width / 2, 3 * radius * radius / (width * width)
    return math.sqrt(square), 1.0


def _cuboid(body: Body, local: list[Tensor], metric: list[list[float]]) -> Tensor:
    fraction: Tensor | None = None
    for axis, position in enumerate(local):
        width, extent = math.sqrt(metric[axis][axis]), body.size_mm[axis]
        overlap = position.abs().neg_().add_((extent + width) / 2).clamp_(0, min(width, extent)).div_(width)
        fraction = overlap if fraction is None else fraction.mul_(overlap)
    assert fraction is not None
    return fraction


def _ellipsoid(body: Body, local: list[Tensor], metric: list[list[float]], isotropic_mm: float | None) -> Tensor:
    mean = math.prod(body.size_mm) ** (1 / 3) / 2
    radius, height = _shrunk_sphere(mean, math.sqrt(sum(metric[i][i] for i in range(3)) / 3))
    radii = [s / 2 * radius / mean for s in body.size_mm]
    a, b, c = normal = [position / (r * r) for position, r in zip(local, radii, strict=True)]
    level = (a * local[0] + b * local[1] + c * local[2]).clamp_min_(1e-8).sqrt_()
    slope = (a * a + b * b + c * c).clamp_min_(1e-12).sqrt_()
    # (1 - level) / |grad level|, as `ellipsoid_depth`: exact to first order at the surface, and never more than the shortest radius. Written out as
    # the normals are needed too, and it takes half the time volume by volume.
    depth = ((1 - level) * level / slope).clamp_(max=min(radii))
    return edge_share(depth, _width(normal, metric, isotropic_mm)).mul_(height)


def _tube(body: Body, local: list[Tensor], metric: list[list[float]], isotropic_mm: float | None) -> Tensor:
    width = math.sqrt(sum(metric[i][i] for i in range(3)) / 3)
    radius, height = _shrunk_circle(body.size_mm[0] / 2, width)
    half_angle, bend = math.radians(body.bend_deg) / 2, body.bend_radius_mm
    # The circle's centre lies on the negative x axis; the middle of the arc at half the arc's height, which centres the tube's box.
    sag = bend * (1 - math.cos(half_angle)) / 2
    x, y, z = local[0] + (bend - sag), local[1], local[2]
    angle = torch.atan2(y, x).clamp_(-half_angle, half_angle)
    normal = [x - bend * torch.cos(angle), y - bend * torch.sin(angle), z]
    distance = (normal[0] * normal[0] + normal[1] * normal[1] + z * z).sqrt_()
    return edge_share(radius - distance, _width(normal, metric, isotropic_mm)).mul_(height)


def body_fraction(body: Body, geometry: Geometry) -> tuple[Box, Tensor] | None:
    """The box of voxels that a body touches and the share [box] of each that it fills; None where it misses the grid."""
    voxel = max(geometry.voxel_size_mm)
    x, y, z = (reach + voxel for reach in body.reach_mm())
    box = _box(geometry, body.centre_mm, (x, y, z))
    if box is None:
        return None
    local, metric = _local(body, geometry, box), _metric(body, geometry)
    isotropic = voxel if voxel - min(geometry.voxel_size_mm) < 1e-6 * voxel else None
    if body.kind == "cuboid":
        fraction = _cuboid(body, local, metric)
    elif body.kind == "tube":
        fraction = _tube(body, local, metric, isotropic)
    else:
        fraction = _ellipsoid(body, local, metric, isotropic)
    is_whole = all(s.start > 0 and s.stop < n for s, n in zip(box, geometry.shape, strict=True))
    if is_whole and min(body.size_mm) < _THIN_VOXELS * voxel:
        fraction.mul_(body.volume_mm3 / math.prod(geometry.voxel_size_mm) / fraction.sum().clamp_min(1e-6)).clamp_(max=1)
    return box, fraction
