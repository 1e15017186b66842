"""Uncertainties against errors whose size is known."""

import dataclasses
import math

import pytest
import torch

from qsmdl.challenge.calibration import calibrate
from qsmdl.errors import InputError
from qsmdl.report.calibration import calibration_markdown

SHAPE = (60, 70, 50)


def drawn(factor=1.0, seed=0):
    """Normal errors, `factor` times as large as predicted: (error, predicted, mask)."""
    generator = torch.Generator().manual_seed(seed)
    predicted = 0.001 * torch.exp(2 * torch.rand(SHAPE, generator=generator))
    error = factor * predicted * torch.randn(SHAPE, generator=generator)
    mask = torch.rand(SHAPE, generator=generator) > 0.3
    # what lies outside the mask must not count
    return torch.where(mask, error, 1e3), torch.where(mask, predicted, math.nan), mask


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_normal_errors_are_found_at_their_size(factor):
    error, predicted, mask = drawn(factor)
    found = calibrate([(error, predicted, mask)], n_bins=8)
    assert found.factor == pytest.approx(factor, rel=0.02)
    assert found.whole.n_voxels == int(mask.sum()) == sum(one.n_voxels for one in found.bins)
    assert max(one.n_voxels for one in found.bins) - min(one.n_voxels for one in found.bins) <= 1
    for one in (*found.bins, found.whole):
        assert one.coverage_1 == pytest.approx(math.erf(1 / factor / math.sqrt(2)), abs=0.015)
        assert one.coverage_2 == pytest.approx(math.erf(2 / factor / math.sqrt(2)), abs=0.015)
    for one in found.bins:
        assert one.low_ppm <= one.mean_predicted_ppm <= one.high_ppm
        assert one.rms_error_ppm == pytest.approx(factor * one.mean_predicted_ppm, rel=0.04)
    edges = [edge for one in found.bins for edge in (one.low_ppm, one.high_ppm)]
    assert edges == sorted(edges)


def test_an_uncertainty_that_knows_nothing_is_seen_in_the_bins():
    """On the whole the size is right, but large predictions do not mean large errors."""
    _, predicted, mask = drawn()
    size = float(predicted[mask].square().mean().sqrt())
    ignorant = size * torch.randn(SHAPE, generator=torch.Generator().manual_seed(7))
    found = calibrate([(ignorant, predicted, mask)], n_bins=5)
    assert found.factor == pytest.approx(1, abs=0.02)
    first, last = found.bins[0], found.bins[-1]
    assert last.mean_predicted_ppm > 3 * first.mean_predicted_ppm
    assert last.rms_error_ppm == pytest.approx(first.rms_error_ppm, rel=0.05)
    assert first.coverage_1 < 0.5 < 0.8 < last.coverage_1


def test_several_maps_are_one():
    maps = [drawn(seed=1), drawn(factor=2.0, seed=2)]
    together = calibrate(maps)
    joined = calibrate([tuple(torch.cat([a, b]) for a, b in zip(*maps, strict=True))])
    assert together.whole == joined.whole
    assert together.factor == pytest.approx(joined.factor)
    assert together.factor == pytest.approx(math.sqrt((1 + 4) / 2), rel=0.02)


def test_the_table_tells_every_bin():
    found = calibrate([drawn(2.0)], n_bins=4)
    lines = calibration_markdown(found).splitlines()
    assert lines[0].startswith("| predicted (ppb) | voxels |")
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 4 + 1
    assert all(line.count("|") == table[0].count("|") for line in table)
    assert f"| all | {found.whole.n_voxels} |" in lines[6]
    assert f"| {1000 * found.bins[1].rms_error_ppm:.2f} |" in lines[3]
    assert "68.3 % and 95.4 %" in lines[-1]
    assert f"{found.factor:.2f} times" in lines[-1]


def test_what_cannot_be_calibrated_is_named():
    error, predicted, mask = drawn()
    for maps, message in (
        ([(error[:-1], predicted, mask)], "one grid"),
        ([(torch.full(SHAPE, math.nan), predicted, mask)], "NaN"),
        ([(error, -predicted, mask)], "negative"),
        ([(error, torch.zeros(SHAPE), mask)], "0 in every voxel"),
        ([(error, predicted, mask & False)], "for 0 voxels"),
        ([], "for 0 voxels"),
    ):
        with pytest.raises(InputError, match=message):
            calibrate(maps)
    with pytest.raises(InputError, match="n_bins is 0"):
        calibrate([(error, predicted, mask)], n_bins=0)
    assert dataclasses.asdict(calibrate([(error, predicted, mask)], n_bins=1))["bins"][0] == dataclasses.asdict(calibrate([drawn()]).whole)
