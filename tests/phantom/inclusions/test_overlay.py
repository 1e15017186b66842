"""Layers over maps, and solids as fractions."""

import math

import pytest
import torch
from torch import Tensor

from qsmdl.phantom.drawing.sampling import Axes
from qsmdl.phantom.inclusions.overlay import Layer, lay, solid_fractions
from qsmdl.phantom.tissue.maps import MAP_NAMES, Maps, Tissue

STONE = Tissue(-2.0, 0.9, 200.0, 0.1, 16)


def _axes(counts: tuple[int, int, int], voxel_mm: tuple[float, float, float]) -> Axes:
    """Voxel 0 at minus half the field of view, as in heads."""
    x, y, z = ((torch.arange(n) - n / 2) * v for n, v in zip(counts, voxel_mm, strict=True))
    return x, y, z


def _maps(shape: tuple[int, ...]) -> Maps:
    return Maps(torch.full(shape, 0.05), torch.full(shape, 0.7), torch.full(shape, 40.0), torch.full(shape, 0.8))


@pytest.mark.parametrize("shape", [(6, 7, 8), (44, 42, 40)])
def test_voxels_are_mixed_by_their_shares(shape: tuple[int, int, int]) -> None:
    maps, labels = _maps(shape), torch.full(shape, 8, dtype=torch.uint8)
    box = (slice(1, shape[0]), slice(0, shape[1] - 1), slice(2, shape[2]))
    fraction = torch.zeros(shape)[box]
    fraction[0, 0, 0], fraction[1, 2, 3], fraction[2, 2, 2] = 1.0, 0.25, 0.5
    lay(maps, labels, [Layer(box, fraction, STONE)])
    for name, before in zip(MAP_NAMES, (0.05, 0.7, 40.0, 0.8), strict=True):
        values, inside = getattr(maps, name), getattr(STONE, name)
        assert float(values[1, 0, 2]) == pytest.approx(inside)
        assert float(values[2, 2, 5]) == pytest.approx(before + 0.25 * (inside - before))
        assert float(values[3, 2, 4]) == pytest.approx((before + inside) / 2)
        assert int((values != before).sum()) == 3
    assert labels[1, 0, 2] == labels[3, 2, 4] == 16
    assert int((labels == 16).sum()) == 2


def test_the_mask_and_missing_labels_protect() -> None:
    maps, labels = _maps((5, 5, 5)), torch.full((5, 5, 5), 8, dtype=torch.uint8)
    mask = torch.zeros(5, 5, 5, dtype=torch.bool)
    mask[2, 2, 2] = True
    box = (slice(0, 5), slice(0, 5), slice(0, 5))
    lay(maps, labels, [Layer(box, torch.ones(5, 5, 5), Tissue(1.0, 1.0, 1.0, 1.0))], mask)
    assert float(maps.chi_ppm.sum()) == pytest.approx(1 + 124 * 0.05)
    assert bool((labels == 8).all())


def test_nothing_laid_nothing_changed() -> None:
    maps, labels = _maps((4, 5, 6)), torch.ones(4, 5, 6, dtype=torch.uint8)
    lay(maps, labels, [])
    assert torch.equal(maps.chi_ppm, _maps((4, 5, 6)).chi_ppm)
    assert bool((labels == 1).all())


def _ball(radius_mm: float, centre_mm: tuple[float, float, float], axes: Axes, insets: tuple[float, ...] = (0.0,)) -> tuple[float, ...]:
    """Volumes of the parts of a ball below some depths, from their fractions."""
    x, y, z = centre_mm

    def depth(fine: Axes) -> Tensor:
        square = (fine[0] - x)[:, None, None] ** 2 + (fine[1] - y)[:, None] ** 2 + (fine[2] - z) ** 2
        return radius_mm - square.sqrt()

    low, high = (x - radius_mm, y - radius_mm, z - radius_mm), (x + radius_mm, y + radius_mm, z + radius_mm)
    found = solid_fractions(axes, low, high, depth, radius_mm, insets)
    assert found is not None
    voxel = math.prod(float(a[1] - a[0]) for a in axes)
    return tuple(float(f.double().sum()) * voxel for f in found[1])


@pytest.mark.parametrize("voxel_mm", [(0.5, 0.5, 0.5), (1.0, 1.0, 1.0), (0.6, 0.6, 1.8), (2.0, 2.0, 2.0)])
@pytest.mark.parametrize("radius_mm", [0.5, 1.3, 4.0])
def test_a_ball_keeps_its_volume_wherever_it_lies(voxel_mm: tuple[float, float, float], radius_mm: float) -> None:
    axes = _axes((24, 24, 20), voxel_mm)
    for centre in ((0.0, 0.0, 0.0), (0.31, -0.17, 0.72), (-0.44, 0.5, 0.05)):
        (volume,) = _ball(radius_mm, centre, axes)
        assert volume == pytest.approx(4 / 3 * math.pi * radius_mm**3, rel=0.01), centre


def test_insets_make_shells() -> None:
    outer, inner = _ball(5.0, (0.2, 0.1, -0.3), _axes((16, 16, 16), (1.0, 1.0, 1.0)), (0.0, 1.5))
    assert outer == pytest.approx(4 / 3 * math.pi * 125, rel=0.01)
    assert inner == pytest.approx(4 / 3 * math.pi * 3.5**3, rel=0.03)
