"""Boxes and places in masks: inside, spread evenly, the same in mm on every grid."""

import numpy as np
import pytest
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.phantom.drawing.box import box_between
from qsmdl.phantom.drawing.placing import Region
from qsmdl.phantom.drawing.sampling import Axes, grid_axes
from qsmdl.scan import Geometry

GRID = Geometry((40, 33, 36), (1.1, 1.4, 1.2))
FINER = Geometry((80, 66, 72), (0.55, 0.7, 0.6))


def ball(geometry: Geometry, radius_mm: float = 15.0, centre: tuple[float, float, float] = (1.0, -0.5, 0.7)) -> torch.Tensor:
    x, y, z = (a - c for a, c in zip(grid_axes(geometry, torch.device("cpu")), centre, strict=True))
    return x[:, None, None] ** 2 + y[:, None] ** 2 + z**2 < radius_mm**2


def _axes(counts: tuple[int, int, int], voxel_mm: tuple[float, float, float]) -> Axes:
    """Voxel 0 at minus half the field of view, as in heads."""
    x, y, z = ((torch.arange(n) - n / 2) * v for n, v in zip(counts, voxel_mm, strict=True))
    return x, y, z


def test_boxes_hold_what_touches_them() -> None:
    axes = _axes((10, 10, 10), (1.0, 1.0, 1.0))
    assert box_between(axes, (-1.2, 0.0, 3.4), (1.2, 0.4, 30.0)) == (slice(4, 7), slice(5, 6), slice(8, 10))
    assert box_between(axes, (20.0, 0.0, 0.0), (22.0, 1.0, 1.0)) is None


def _bean(axes: Axes) -> Tensor:
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return ((x / 14) ** 2 + (y / 18) ** 2 + (z / 10) ** 2 < 1) & ((x - 9) ** 2 + y**2 + z**2 > 30)


def test_a_place_is_one_point_on_every_grid_and_lies_in_the_mask() -> None:
    grids = [_axes((n, n, n), (v, v, v)) for n, v in ((80, 0.5), (40, 1.0), (27, 1.5))]
    regions = [Region.of(_bean(axes), axes) for axes in grids]
    starts = torch.rand(40, 3, generator=torch.Generator().manual_seed(1)).tolist()
    points = torch.tensor([[region.locate((x, y, z)) for x, y, z in starts] for region in regions])
    apart = (points - points[:1]).norm(dim=-1)
    # A start next to the mask's border may be in for one grid and out for the next.
    assert float((apart < 0.2).float().mean()) > 0.9
    for region, located in zip(regions, points, strict=True):
        index = [((located[:, i] - axis[0]) / (axis[1] - axis[0])).round().long() for i, axis in enumerate(region.axes)]
        assert float(region.mask[index[0], index[1], index[2]].float().mean()) > 0.95


def test_places_are_spread_evenly_over_the_mask() -> None:
    axes = _axes((40, 40, 40), (1.0, 1.0, 1.0))
    mask = _bean(axes)
    region = Region.of(mask, axes)
    generator = torch.Generator().manual_seed(2)
    points = torch.tensor([region.locate(tuple(torch.rand(3, generator=generator).tolist())) for _ in range(400)])
    voxels = torch.stack([axis[i] for axis, i in zip(axes, mask.nonzero().T, strict=True)], 1)
    assert torch.allclose(points.mean(0), voxels.mean(0), atol=1.2)
    assert torch.allclose(points.std(0), voxels.std(0), rtol=0.15)


def test_a_mask_of_one_voxel_is_found_and_an_empty_one_refused() -> None:
    axes = _axes((12, 12, 12), (1.0, 1.0, 1.0))
    mask = torch.zeros(12, 12, 12, dtype=torch.bool)
    mask[1, 1, 1] = mask[10, 10, 10] = True
    assert Region.of(mask, axes).locate((0.5, 0.1, 0.9)) in ((-5.0, -5.0, -5.0), (4.0, 4.0, 4.0))
    with pytest.raises(InputError, match="mask is empty"):
        Region.of(torch.zeros(12, 12, 12, dtype=torch.bool), axes)


def test_points_of_uniform_ranks_are_uniform_in_the_mask() -> None:
    mask = ball(GRID, 14.0)
    ranks = np.random.default_rng(0).random((300, 3))
    region = Region.of(mask, grid_axes(GRID))
    points = np.array([region.at_ranks(tuple(rank)) for rank in ranks])
    assert np.abs(points.mean(0) - (1.0, -0.5, 0.7)).max() < 1.2
    radius = np.linalg.norm(points - (1.0, -0.5, 0.7), axis=1)
    assert radius.max() < 15
    # In a ball the cube of the radius is uniform.
    assert np.mean((radius / 14) ** 3) == pytest.approx(0.5, abs=0.06)


def test_surface_points_lie_on_the_surface() -> None:
    for rank in ((0.1, 0.2, 0.3), (0.5, 0.9, 0.1), (0.95, 0.4, 0.0)):
        points = [np.array(Region.of(ball(g), grid_axes(g)).on_surface(rank)) for g in (GRID, FINER)]
        for point in points:
            assert np.linalg.norm(point - (1.0, -0.5, 0.7)) == pytest.approx(15, abs=1.0)
        assert np.abs(points[0] - points[1]).max() < 1.1
