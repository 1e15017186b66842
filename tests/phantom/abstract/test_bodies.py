"""Shares of voxels of simple bodies, against brute force and their volumes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from qsmdl.phantom.abstract.bodies import BODY_KINDS, Body, BodyKind, body_fraction
from qsmdl.phantom.abstract.outline import draw_rotation
from qsmdl.phantom.drawing.sampling import grid_axes
from qsmdl.phantom.drawing.shapes import rotation
from qsmdl.scan import Geometry

ROOM = Geometry((40, 36, 30), (0.6, 0.6, 0.6))
BOXY = Geometry((40, 36, 20), (0.5, 0.6, 1.1))
TURN = (25.0, -40.0, 70.0)


def whole(body: Body, geometry: Geometry) -> torch.Tensor:
    """The share of every voxel of the grid."""
    found = body_fraction(body, geometry)
    assert found is not None
    box, fraction = found
    volume = torch.zeros(geometry.shape)
    volume[box] = fraction
    return volume


def inside(body: Body, points: np.ndarray) -> np.ndarray:
    """Whether points [..., 3] lie in a body, written down once more: points of the centreline for tubes."""
    local = (points - np.asarray(body.centre_mm)) @ np.asarray(rotation(body.rotation_deg))
    half = np.asarray(body.size_mm) / 2
    if body.kind == "cuboid":
        return (np.abs(local) <= half).all(-1)
    if body.kind != "tube":
        return ((local / half) ** 2).sum(-1) <= 1
    angle, bend = math.radians(body.bend_deg) / 2, body.size_mm[1] / math.radians(body.bend_deg)
    t = np.linspace(-angle, angle, 60)
    local = local.astype(np.float32)
    line = np.stack((bend * np.cos(t) - bend + bend * (1 - math.cos(angle)) / 2, bend * np.sin(t), 0 * t), -1).astype(np.float32)
    distance = np.full(local.shape[:-1], np.inf)
    for point in line:
        distance = np.minimum(distance, ((local - point) ** 2).sum(-1))
    return distance <= half[0] ** 2


def brute_force(body: Body, geometry: Geometry, n: int = 5) -> torch.Tensor:
    """Mean over n^3 points in each voxel."""
    sub = (np.arange(n) + 0.5) / n - 0.5
    axes = [(np.arange(m)[:, None] + sub).ravel() * v - m * v / 2 for m, v in zip(geometry.shape, geometry.voxel_size_mm, strict=True)]
    hit = inside(body, np.stack(np.meshgrid(*axes, indexing="ij"), -1)).astype(np.float32)
    x, y, z = geometry.shape
    return torch.from_numpy(hit.reshape(x, n, y, n, z, n).mean((1, 3, 5)))


BODIES = {
    "cuboid": Body("cuboid", (0.3, -0.2, 0.1), (6.0, 4.0, 3.0), TURN),
    "sphere": Body("sphere", (0.31, 0.17, -0.22), (5.0, 5.0, 5.0)),
    "ellipsoid": Body("ellipsoid", (-0.3, 0.2, 0.4), (8.0, 5.0, 4.0), TURN),
    "tube": Body("tube", (0.2, 0.1, -0.3), (2.4, 9.0, 2.4), TURN, 80.0),
}


@pytest.mark.parametrize("kind", BODY_KINDS)
def test_shares_of_voxels_are_those_of_brute_force(kind: BodyKind) -> None:
    geometry = Geometry((20, 22, 24), (0.7, 0.6, 0.5))
    difference = whole(BODIES[kind], geometry) - brute_force(BODIES[kind], geometry)
    # A ramp along the normal differs from the exact average where faces are oblique, edges sharp or curved, by a fraction of a border voxel.
    assert float(difference.abs().max()) < (0.28 if kind == "cuboid" else 0.2)
    assert float(difference.square().mean().sqrt()) < 0.015
    assert abs(float(difference.mean())) < 2e-4


def test_an_upright_cuboid_is_exact() -> None:
    body = Body("cuboid", (0.13, -0.41, 0.22), (3.3, 0.35, 5.1))
    expected = torch.ones(1)
    for axis, centre, size, n, v in zip(grid_axes(BOXY), body.centre_mm, body.size_mm, BOXY.shape, BOXY.voxel_size_mm, strict=True):
        low, high = (axis - v / 2).clamp(min=centre - size / 2), (axis + v / 2).clamp(max=centre + size / 2)
        assert len(axis) == n
        expected = expected[..., None] * ((high - low).clamp(min=0) / v)
    assert torch.allclose(whole(body, BOXY), expected[0], atol=1e-5)


@pytest.mark.parametrize("geometry", [ROOM, BOXY], ids=["cubes", "boxes"])
@pytest.mark.parametrize(
    ("kind", "size", "bend"),
    [
        ("sphere", (0.4, 0.4, 0.4), 0),
        ("sphere", (1, 1, 1), 0),
        ("sphere", (6, 6, 6), 0),
        ("ellipsoid", (9, 1, 1), 0),
        ("ellipsoid", (8, 7, 4), 0),
        ("cuboid", (0.3, 5, 5), 0),
        ("cuboid", (7, 3, 4), 0),
        ("tube", (0.5, 8, 0.5), 90),
        ("tube", (2.6, 9, 2.6), 120),
    ],
)
def test_volumes_are_kept_at_every_place(geometry: Geometry, kind: BodyKind, size: tuple[float, float, float], bend: float) -> None:
    rng = np.random.default_rng(1)
    for _ in range(4):
        x, y, z = (float(v) for v in rng.uniform(-0.6, 0.6, 3))
        body = Body(kind, (x, y, z), size, draw_rotation(rng), bend)
        fraction = whole(body, geometry)
        assert float(fraction.sum()) * math.prod(geometry.voxel_size_mm) == pytest.approx(body.volume_mm3, rel=0.012)
        assert 0 <= float(fraction.min()) <= float(fraction.max()) <= 1


def test_the_volume_of_a_bent_tube_is_that_of_brute_force() -> None:
    body = BODIES["tube"]
    small = Geometry((18, 20, 22), (0.7, 0.7, 0.6))
    volume = float(brute_force(body, small, 3).sum()) * math.prod(small.voxel_size_mm)
    assert body.volume_mm3 == pytest.approx(volume, rel=0.01)
    for turn in ((0.0, 0.0, 0.0), TURN):
        turned = replace(body, rotation_deg=turn)
        found = body_fraction(turned, ROOM)
        assert found is not None
        # Its box holds all of it.
        assert all(float(face.sum()) == 0 for axis in range(3) for face in (found[1].select(axis, 0), found[1].select(axis, -1)))


@pytest.mark.parametrize("kind", BODY_KINDS)
def test_centres_are_exact_below_a_voxel(kind: BodyKind) -> None:
    for shift in (0.0, 0.13, 0.37):
        body = replace(BODIES[kind], centre_mm=(shift, -shift, 2 * shift))
        reference = replace(BODIES[kind], centre_mm=(0.0, 0.0, 0.0))
        place, start = (centroid(whole(b, ROOM)) for b in (body, reference))
        assert place - start == pytest.approx(np.asarray(body.centre_mm), abs=0.02)


def centroid(fraction: torch.Tensor) -> np.ndarray:
    axes, total = grid_axes(ROOM), float(fraction.sum())
    sums = [float((fraction.sum([a for a in range(3) if a != i]) * axis).sum()) for i, axis in enumerate(axes)]
    return np.asarray(sums) / total


def test_bodies_beyond_the_grid_are_cut_or_left_out() -> None:
    assert body_fraction(Body("sphere", (100.0, 0.0, 0.0), (5.0, 5.0, 5.0)), ROOM) is None
    edge = -ROOM.field_of_view_mm[0] / 2 - ROOM.voxel_size_mm[0] / 2
    half = Body("sphere", (edge, 0.0, 0.0), (6.0, 6.0, 6.0))
    assert float(whole(half, ROOM).sum()) * 0.6**3 == pytest.approx(half.volume_mm3 / 2, rel=0.02)
