"""Masks cut down: exact distances, depths in mm, holes in place on every grid, and never more than half of the mask."""

import math

import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.phantom.drawing.sampling import grid_axes
from qsmdl.phantom.scanning.ellipsoids import Ellipsoid
from qsmdl.phantom.scanning.masking import (
    ErosionParams,
    ErosionRanges,
    HoleParams,
    HoleRanges,
    LowSignalParams,
    LowSignalRanges,
    distance_to_outside,
    draw_erosion,
    draw_holes,
    draw_low_signal,
    drop_low_signal,
    erode,
    punch,
)
from qsmdl.scan import Geometry

GRID = Geometry((40, 33, 36), (1.1, 1.4, 1.2))
FINER = Geometry((80, 66, 72), (0.55, 0.7, 0.6))


def ball(geometry: Geometry, radius_mm: float = 15.0, centre: tuple[float, float, float] = (1.0, -0.5, 0.7)) -> torch.Tensor:
    x, y, z = (a - c for a, c in zip(grid_axes(geometry, torch.device("cpu")), centre, strict=True))
    return x[:, None, None] ** 2 + y[:, None] ** 2 + z**2 < radius_mm**2


def volume(mask: torch.Tensor, geometry: Geometry) -> float:
    return float(mask.sum()) * math.prod(geometry.voxel_size_mm)


def test_distances_equal_brute_force() -> None:
    mask = torch.rand((9, 8, 10), generator=torch.Generator().manual_seed(0)) > 0.04
    size = torch.tensor([1.0, 1.5, 0.8])
    every = torch.cartesian_prod(*(torch.arange(n) for n in mask.shape)) * size
    outside = (~mask).nonzero() * size
    expected = torch.cdist(every, outside, compute_mode="donot_use_mm_for_euclid_dist").amin(1).reshape(mask.shape)
    distance = distance_to_outside(mask, (1.0, 1.5, 0.8))
    near = expected <= 3.0
    assert 0.3 < float(near.float().mean()) < 1
    assert torch.allclose(distance[near], expected[near], atol=1e-5)
    assert bool((distance[~near] > 3.0).all())


@pytest.mark.parametrize("depth_mm", [1.0, 2.5])
def test_an_eroded_ball_is_a_smaller_ball(depth_mm: float) -> None:
    kept = erode(ball(FINER), FINER, ErosionParams(depth_mm))
    assert volume(kept, FINER) == pytest.approx(4 / 3 * math.pi * (15 - depth_mm) ** 3, rel=0.04)
    assert bool((ball(FINER, 15.4 - depth_mm) | ~kept).all())


def test_erosion_stops_at_half_of_the_mask() -> None:
    mask = ball(GRID)
    kept = erode(mask, GRID, ErosionParams(14.0))
    assert 0.45 < float(kept.sum() / mask.sum()) < 0.75


def test_a_hole_has_the_volume_of_its_ellipsoid_and_the_same_place_on_a_finer_grid() -> None:
    blob = Ellipsoid((0.45, 0.5, 0.6), (4.0, 6.0, 5.0))
    holes = [ball(g) & ~punch(ball(g), g, HoleParams((blob,))) for g in (GRID, FINER)]
    for hole, geometry in zip(holes, (GRID, FINER), strict=True):
        assert volume(hole, geometry) == pytest.approx(4 / 3 * math.pi * 120, rel=0.08)
    centres = [
        torch.stack([a[i].mean() for a, i in zip(grid_axes(g, hole.device), hole.nonzero().T, strict=True)])
        for hole, g in zip(holes, (GRID, FINER), strict=True)
    ]
    assert float((centres[0] - centres[1]).abs().max()) < 0.35


def test_a_hole_that_would_take_more_than_half_is_left_out() -> None:
    mask = ball(GRID)
    kept = punch(mask, GRID, HoleParams((Ellipsoid((0.5, 0.5, 0.5), (14.0, 14.0, 14.0)), Ellipsoid((0.5, 0.5, 0.5), (3.0, 3.0, 3.0)))))
    assert volume(mask & ~kept, GRID) == pytest.approx(4 / 3 * math.pi * 27, rel=0.12)


def test_voxels_of_low_signal_leave_the_mask() -> None:
    mask, magnitude = ball(GRID), torch.ones(GRID.shape)
    magnitude[:18] = 0.2
    kept = drop_low_signal(mask, magnitude, LowSignalParams(0.3))
    assert torch.equal(kept[18:], mask[18:])
    assert not bool(kept[:18].any())
    assert torch.equal(drop_low_signal(mask, magnitude, LowSignalParams(0.1)), mask)


def test_draws_lie_in_their_ranges_and_off_means_none() -> None:
    erosion = ErosionRanges(probability=0.5, depth_mm=(1.0, 3.0))
    depths = [draw_erosion(erosion, np.random.default_rng(i)) for i in range(300)]
    drawn = [d.depth_mm for d in depths if d is not None]
    assert len(drawn) == pytest.approx(150, abs=30)
    assert 1 <= min(drawn) < 1.1 < 2.9 < max(drawn) <= 3
    holes = [draw_holes(HoleRanges(probability=1.0, count=(2, 4), radius_mm=(2, 5)), np.random.default_rng(i)) for i in range(60)]
    assert {len(h.blobs) for h in holes if h} == {2, 3, 4}
    radii = [r for h in holes if h for b in h.blobs for r in b.radii_mm]
    assert 1.4 <= min(radii) < max(radii) <= 6.5
    assert {b.on_surface for h in holes if h for b in h.blobs} == {True, False}
    low = draw_low_signal(LowSignalRanges(probability=1.0), np.random.default_rng(0))
    assert low is not None
    assert 0.05 <= low.threshold <= 0.3
    for draw, ranges in ((draw_erosion, ErosionRanges()), (draw_holes, HoleRanges()), (draw_low_signal, LowSignalRanges())):
        assert draw(ranges, np.random.default_rng(0)) is None  # type: ignore[operator]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (ErosionRanges, {"probability": 1.2}, "erosion.probability is 1.2"),
        (ErosionRanges, {"depth_mm": (3, 1)}, "erosion.depth_mm is"),
        (ErosionRanges, {"depth_mm": (-1, 1)}, "erosion.depth_mm is"),
        (HoleRanges, {"count": (1.5, 3)}, "holes.count is"),
        (HoleRanges, {"radius_mm": (0, 3)}, "holes.radius_mm is"),
        (HoleRanges, {"surface_share": 2}, "holes.surface_share is 2"),
        (LowSignalRanges, {"threshold": (0.1, 1.0)}, "low_signal.threshold is"),
    ],
)
def test_bad_ranges_are_refused(kind: type, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**settings)


def test_a_mask_that_fills_its_grid_has_no_surface() -> None:
    whole = torch.ones((6, 7, 8), dtype=torch.bool)
    assert bool(torch.isinf(distance_to_outside(whole, (1.0, 1.0, 1.0))).all())
    assert torch.equal(erode(whole, Geometry((6, 7, 8)), ErosionParams(2.0)), whole)
