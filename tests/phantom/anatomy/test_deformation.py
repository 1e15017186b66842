"""Deformations of label maps: no folds, as large as said, and where the image of a box lies."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from qsmdl.phantom.anatomy.deformation import Deformation, DeformationRanges, draw_deformation

HALF = (11.0, 13.0, 12.0)


def determinants(deformation: Deformation, half_extent_mm: tuple[float, float, float]) -> torch.Tensor:
    """Of the Jacobian of the map from the grid to the undeformed head, by central differences a twentieth of the warp's scale apart."""
    axes = tuple(torch.arange(-r, r, 0.2 * deformation.warp_scale_mm / 4) for r in half_extent_mm)
    step = float(axes[0][1] - axes[0][0])
    position = torch.stack(deformation.source_mm((axes[0], axes[1], axes[2]), half_extent_mm))
    gradients = torch.stack([torch.stack(torch.gradient(p.double(), spacing=step)) for p in position])
    return torch.linalg.det(gradients.permute(2, 3, 4, 0, 1))


def test_warps_never_fold_even_where_the_largest_is_asked_for() -> None:
    half = (18.0, 20.0, 16.0)
    ranges = DeformationRanges(warp_mm=(30.0, 30.0), warp_scale_mm=(8.0, 8.0), flip_probability=0)
    for seed in range(6):
        drawn_ = draw_deformation(ranges, np.random.default_rng(seed), half)
        assert drawn_.warp_mm < 30  # limited
        assert float(determinants(drawn_, half).min()) > 0.05 / math.prod(drawn_.scale)
        # Parameters written by hand are limited as well.
        assert float(determinants(replace(drawn_, warp_mm=40.0), half).min()) > 0


def test_without_the_limit_warps_would_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qsmdl.phantom.anatomy.deformation._STEEPEST", 100.0)
    half = (18.0, 20.0, 16.0)
    assert float(determinants(Deformation(seed=1, warp_mm=30.0, warp_scale_mm=8.0), half).min()) < 0


def test_the_warp_is_as_large_as_its_parameters_say() -> None:
    half = (70.0, 85.0, 65.0)
    lengths = []
    for seed in range(10):
        deformation = draw_deformation(DeformationRanges(), np.random.default_rng(seed), half)
        longest = float(deformation.warp(half).square().sum(0).sqrt().max())
        assert longest == pytest.approx(deformation.warp_mm, rel=1e-4)
        lengths.append(longest)
    assert min(lengths) < 3
    assert max(lengths) > 5.5


def test_every_place_of_the_head_lies_in_the_box_it_is_looked_for_in() -> None:
    """The image of a box of the head: positions whose source is in the box are in the image's box."""
    deformation = Deformation(3, True, (12.0, -9.0, 14.0), (1.1, 0.9, 1.05), (2.0, -3.0, 1.0), 4.0, 9.0)
    low, high = (-3.0, 2.0, -6.0), (4.0, 7.0, 1.0)
    x, y, z = (torch.arange(-16.0, 16.0, 0.5) for _ in range(3))
    source = deformation.source_mm((x, y, z), HALF)
    hit = torch.stack([(s >= a) & (s <= b) for s, a, b in zip(source, low, high, strict=True)]).all(0)
    assert int(hit.sum()) > 100
    corner, opposite = deformation.image_box_mm(low, high)
    for axis, positions in enumerate((x, y, z)):
        touched = positions[hit.amax([a for a in range(3) if a != axis])]
        assert corner[axis] <= float(touched.min())
        assert float(touched.max()) <= opposite[axis]
        assert opposite[axis] - corner[axis] < 30
