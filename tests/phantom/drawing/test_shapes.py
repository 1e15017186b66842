"""Depth functions, interpolation and noise against closed forms."""

import math

import numpy as np
import pytest
import torch

from qsmdl.phantom.drawing.sampling import Lattice, cubic_matrix, ring_noise, seeded, smooth_noise
from qsmdl.phantom.drawing.shapes import edge_share, ellipsoid_depth, rotation, rotation_matrix, smooth_intersection, smooth_union, tube_depth
from qsmdl.phantom.inclusions.raster import tube_fraction
from qsmdl.phantom.inclusions.tubes import Tubes


def _grid(*counts: int, spacing: float = 1.0) -> torch.Tensor:
    axes = [(torch.arange(n) - n // 2) * spacing for n in counts]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def test_sphere_depth_is_the_distance() -> None:
    position = _grid(21, 24, 19)
    depth = ellipsoid_depth(position, (1.0, -2.0, 0.5), (6.0, 6.0, 6.0))
    distance = 6 - (position - torch.tensor([1.0, -2.0, 0.5]).reshape(3, 1, 1, 1)).norm(dim=0)
    assert torch.allclose(depth, distance, atol=1e-2)


@pytest.mark.parametrize("exponent", [2.0, 3.0])
def test_ellipsoid_surface_and_rotation(exponent: float) -> None:
    turn = rotation_matrix((20.0, -30.0, 40.0))
    assert torch.allclose(turn @ turn.T, torch.eye(3), atol=1e-6)
    tips = turn @ torch.diag(torch.tensor([9.0, 4.0, 2.0]))
    depth = ellipsoid_depth(tips, (0.0, 0.0, 0.0), (9.0, 4.0, 2.0), rotation_deg=(20.0, -30.0, 40.0), exponent=exponent)
    assert torch.allclose(depth, torch.zeros(3), atol=1e-3)


def test_tube_depth_of_a_straight_tube() -> None:
    position = _grid(9, 11, 41)
    depth = tube_depth(position, ((0, 0, -10), (0, 0, 10)), (3.0, 1.0))
    x, y, z = position
    inside = z.abs() <= 10
    expected = 2 - z / 10 - torch.hypot(x.float(), y.float())
    assert torch.allclose(depth[inside], expected[inside], atol=1e-5)


def test_smooth_union_contains_both_and_equals_the_maximum_far_from_the_seam() -> None:
    a, b = torch.linspace(-5, 5, 50), torch.linspace(4, -6, 50)
    union = smooth_union(a, b, 2.0)
    assert bool((union >= torch.maximum(a, b)).all())
    far = (a - b).abs() > 2
    assert torch.equal(union[far], torch.maximum(a, b)[far])
    assert bool((smooth_intersection(a, b, 2.0) <= torch.minimum(a, b)).all())


def test_cubic_interpolation_reproduces_parabolas() -> None:
    samples = torch.arange(12.0) ** 2
    positions = torch.tensor([1.0, 2.5, 7.25, 9.9])
    assert torch.allclose(cubic_matrix(positions, 12) @ samples, positions**2, rtol=1e-5)
    assert torch.allclose(cubic_matrix(torch.tensor([-3.0, 20.0]), 12) @ samples, samples[[0, 11]])


def test_lattice_reads_points_and_grids_alike() -> None:
    lattice = Lattice((20, 22, 25), 3.0)
    x, y, z = lattice.axes
    field = x[:, None, None] + 2 * y[:, None] - z
    axes = (torch.tensor([-4.0, 5.0]), torch.tensor([0.3, 1.0, 2.0]), torch.tensor([7.7]))
    on_grid = lattice.read(field, axes)
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    expected = points[..., 0] + 2 * points[..., 1] - points[..., 2]
    assert torch.allclose(on_grid, expected, atol=1e-4)
    assert torch.allclose(lattice.read_points(field, points), expected, atol=1e-4)
    assert torch.allclose(lattice.gradient(field)[:, 5, 5, 5], torch.tensor([1.0, 2.0, -1.0]), atol=1e-4)


def test_noise_is_seeded_and_has_the_scale_asked_for() -> None:
    lattice = Lattice.of(3.0)
    rough, smooth = (smooth_noise(lattice, seeded(1, 2), scale) for scale in (8.0, 24.0))
    assert torch.equal(rough, smooth_noise(lattice, seeded(1, 2), 8.0))
    assert not torch.equal(rough, smooth_noise(lattice, seeded(2, 2), 8.0))
    slope = [float(lattice.gradient(n).square().mean()) for n in (rough, smooth)]
    assert slope[0] > 4 * slope[1]
    ring = ring_noise(lattice, seeded(1, 3), 30.0)
    expected = (2 * math.pi / 30) ** 2
    assert float(lattice.gradient(ring).square().sum(0).mean()) == pytest.approx(expected, rel=0.15)


def test_tube_fraction_has_the_volume_of_the_tube() -> None:
    axes = (torch.arange(-6, 7, 0.8), torch.arange(-7, 7, 0.9), torch.arange(-20, 20, 0.7))
    points = torch.tensor([[[0.1, -0.2, -15.0], [0.1, -0.2, 15.0]]])
    fraction = tube_fraction([Tubes(points, torch.full((1, 2), 2.5))], axes)
    volume = float(fraction.sum()) * 0.8 * 0.9 * 0.7
    assert volume == pytest.approx(math.pi * 2.5**2 * 30 + 4 / 3 * math.pi * 2.5**3, rel=0.05)
    assert float(fraction.max()) == 1.0


def test_a_tube_that_leaves_the_grid_is_cut() -> None:
    axes = (torch.arange(4.0), torch.arange(5.0), torch.arange(6.0))
    fraction = tube_fraction([Tubes(torch.tensor([[[0.0, 0, 0], [30.0, 0, 0]]]), torch.ones(1, 2))], axes)
    assert float(fraction[3, 0, 0]) == 1.0
    assert float(fraction[:, 4].sum()) == 0.0


def test_rotations_turn_about_x_then_y_then_z_in_either_precision() -> None:
    quarter = np.asarray(rotation((90.0, 0.0, 90.0)))
    assert np.allclose(quarter @ (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), atol=1e-12)
    assert np.allclose(quarter @ (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), atol=1e-12)
    angles = (20.0, -30.0, 140.0)
    matrix = rotation_matrix(angles)
    assert matrix.dtype == torch.float32
    assert torch.allclose(matrix.double(), torch.tensor(rotation(angles), dtype=torch.float64), atol=2e-7)


def test_rotation_matrices_are_the_products_that_heads_were_first_drawn_with() -> None:
    for angles in np.random.default_rng(0).uniform(-180, 180, (50, 3)):
        a, b, c = (math.radians(v) for v in angles)
        about_x = torch.tensor([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
        about_y = torch.tensor([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
        about_z = torch.tensor([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
        turned = (about_z[:, :, None] * about_y).sum(1)
        assert torch.equal(rotation_matrix(angles.tolist()), (turned[:, :, None] * about_x).sum(1))


def test_an_edge_is_a_ramp_as_wide_as_the_voxel() -> None:
    depth = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    assert torch.equal(edge_share(depth, 2.0), torch.tensor([0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]))
    assert torch.equal(depth[:2], torch.tensor([-2.0, -1.0]))
