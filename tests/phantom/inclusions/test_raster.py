"""Exact tubes against closed forms and brute force; the first generator's tubes stay what they were."""

import math

import pytest
import torch
from torch import Tensor

from qsmdl.phantom.drawing.sampling import Axes
from qsmdl.phantom.inclusions.raster import tube_fraction
from qsmdl.phantom.inclusions.tubes import Tubes


def _axes(counts: tuple[int, int, int], voxel_mm: tuple[float, float, float]) -> Axes:
    x, y, z = ((torch.arange(n) - n / 2 + 0.5) * v for n, v in zip(counts, voxel_mm, strict=True))
    return x, y, z


def _straight(direction: tuple[float, float, float], through_mm: tuple[float, float, float], radius_mm: float) -> Tubes:
    """A tube that leaves the grid on both sides."""
    run = torch.nn.functional.normalize(torch.tensor(direction), dim=0) * 60
    middle = torch.tensor(through_mm)
    return Tubes(torch.stack((middle - run, middle + run))[None], torch.full((1, 2), radius_mm))


OBLIQUE, STEEP, ALONG = (0.35, 0.2, 1.0), (0.1, -0.6, 1.0), (0.0, 0.0, 1.0)


@pytest.mark.parametrize("voxel_mm", [0.5, 0.64, 1.0, 2.0])
@pytest.mark.parametrize("voxels", [0.03, 0.25, 0.6, 0.95, 1.3, 1.45, 2.1])
def test_volume_at_any_radius_direction_and_offset(voxel_mm: float, voxels: float) -> None:
    """A tube through a slab of height h fills pi r^2 h / cos(angle) of it."""
    n = 24
    for number, direction in enumerate((OBLIQUE, STEEP, ALONG)):
        offset = (0.37 * voxel_mm * (number + 1), -0.21 * voxel_mm * number, 0.0)
        fraction = tube_fraction([_straight(direction, offset, voxels * voxel_mm)], _axes((n, n, n), (voxel_mm,) * 3), exact=True)
        cosine = direction[2] / math.hypot(*direction)
        expected = math.pi * (voxels * voxel_mm) ** 2 * n * voxel_mm / cosine
        assert float(fraction.double().sum()) * voxel_mm**3 == pytest.approx(expected, rel=0.02), direction
        assert 0 <= float(fraction.min()) <= float(fraction.max()) <= 1


def _brute_force(tube: Tubes, counts: tuple[int, int, int], voxel_mm: tuple[float, float, float], k: int = 10) -> Tensor:
    """Share of k^3 points of each voxel that lie in a straight tube."""
    fine = _axes((counts[0] * k, counts[1] * k, counts[2] * k), (voxel_mm[0] / k, voxel_mm[1] / k, voxel_mm[2] / k))
    start, end = tube.points_mm[0]
    direction = torch.nn.functional.normalize(end - start, dim=0)
    away = torch.stack(torch.meshgrid(*fine, indexing="ij"), -1) - start
    distance = (away - (away @ direction)[..., None] * direction).norm(dim=-1)
    inside = (distance < tube.radii_mm[0, 0]).float()
    return inside.reshape(counts[0], k, counts[1], k, counts[2], k).mean((1, 3, 5))


@pytest.mark.parametrize("radius_mm", [0.4, 0.8, 1.3, 2.0])
@pytest.mark.parametrize("voxel_mm", [(1.0, 1.0, 1.0), (0.7, 0.7, 1.8)])
def test_every_voxel_holds_its_share(radius_mm: float, voxel_mm: tuple[float, float, float]) -> None:
    counts = (9, 10, 7)
    for direction in (OBLIQUE, ALONG):
        tube = _straight(direction, (0.3, -0.2, 0.1), radius_mm)
        exact = tube_fraction([tube], _axes(counts, voxel_mm), exact=True)
        assert float((exact - _brute_force(tube, counts, voxel_mm)).abs().max()) < 0.09, direction


def test_a_fine_grid_averages_to_the_coarse_one() -> None:
    turn = torch.linspace(0, 3, 12)
    points = torch.stack((6 * turn.cos(), 6 * turn.sin(), 8 * turn - 12), -1)[None]
    tubes = [Tubes(points, torch.linspace(0.9, 0.3, 12)[None])]
    coarse = tube_fraction(tubes, _axes((18, 18, 18), (1.0, 1.0, 1.0)), exact=True)
    fine = tube_fraction(tubes, _axes((36, 36, 36), (0.5, 0.5, 0.5)), exact=True)
    averaged = fine.reshape(18, 2, 18, 2, 18, 2).mean((1, 3, 5))
    assert float((averaged - coarse).abs().max()) < 0.07
    assert float(averaged.sum()) == pytest.approx(float(coarse.sum()), rel=0.01)


def test_tubes_that_meet_share_the_voxel() -> None:
    axes = _axes((11, 11, 11), (1.0, 1.0, 1.0))
    one, two = _straight(ALONG, (0.0, 0.0, 0.0), 1.5), _straight((1.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0.4)
    both = tube_fraction([one, two], axes, exact=True)
    alone = [tube_fraction([tube], axes, exact=True) for tube in (one, two)]
    assert float(both.max()) <= 1
    assert bool((both >= torch.maximum(*alone) - 1e-6).all())
    assert bool((both <= alone[0] + alone[1] + 1e-6).all())
    assert float(both.sum()) < float(alone[0].sum() + alone[1].sum()) - 0.5


def test_the_same_bits_in_any_order_of_tubes() -> None:
    axes = _axes((13, 12, 11), (0.8, 0.9, 1.0))
    tubes = [_straight((0.3 * i - 1, 0.4, 1.0), (0.2 * i, -0.3 * i, 0.0), 0.15 + 0.3 * i) for i in range(6)]
    assert torch.equal(tube_fraction(tubes, axes, exact=True), tube_fraction(tubes[::-1], axes, exact=True))


def test_no_tubes_and_tubes_beyond_the_grid_leave_nothing() -> None:
    axes = _axes((6, 7, 8), (1.0, 1.0, 1.0))
    far = Tubes(torch.tensor([[[40.0, 0, 0], [60.0, 0, 0]]]), torch.ones(1, 2))
    for tubes in ([], [far]):
        fraction = tube_fraction(tubes, axes, exact=True)
        assert fraction.shape == (6, 7, 8)
        assert not bool(fraction.any())


def test_the_first_generators_tubes_are_kept() -> None:
    """Its fraction at a voxel is the largest over points half a voxel apart of a ramp over the distance, times the thin tube's share."""
    axes = _axes((7, 7, 9), (1.0, 1.0, 1.0))
    for radius in (0.3, 1.2):
        points = torch.tensor([[[0.2, -0.1, -9.0], [0.2, -0.1, 9.0]]])
        fraction = tube_fraction([Tubes(points, torch.full((1, 2), radius))], axes)
        # 18 mm of tube are cut into 37 steps.
        dense = -9 + 18 / 37 * torch.arange(37)
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        line = torch.stack((torch.full((37,), 0.2), torch.full((37,), -0.1), dense), -1)
        distance = (grid[..., None, :] - line).norm(dim=-1).amin(-1)
        expected = (radius - distance + 0.5).clamp(0, 1) * min(1.0, 2 * radius)
        assert torch.allclose(fraction, expected, atol=1e-5)
