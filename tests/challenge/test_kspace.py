"""The error on the cone: where in k-space it looks, and what it may not depend on."""

import math

import numpy as np
import pytest

from qsmdl.challenge.kspace import CONE_WIDTH_DEG, MAGIC_ANGLE_DEG, angles_to_b0_deg, cone_error, cone_profile
from qsmdl.challenge.metrics import score
from qsmdl.challenge.regression import nrmse
from qsmdl.challenge.volumes import as_volumes
from qsmdl.errors import InputError
from qsmdl.physics.dipole import dipole_kernel

SHAPE = (30, 24, 27)
OBLIQUE = (0.36, -0.48, 0.8)


def volumes(recon, truth, voxel_size_mm=(1.0, 1.0, 1.0), b0_direction=(0.0, 0.0, 1.0), mask=None):
    mask = np.ones(truth.shape) if mask is None else mask
    return as_volumes(recon, truth, mask, np.full(truth.shape, 8), voxel_size_mm=voxel_size_mm, b0_direction=b0_direction)


@pytest.fixture(scope="module")
def truth():
    return np.random.default_rng(0).standard_normal(SHAPE)


def wave(*cycles):
    """A plane wave with whole numbers of cycles along each axis: two points in k-space."""
    phase = sum(c * np.arange(n).reshape([-1 if a == i else 1 for i in range(3)]) / n for a, (c, n) in enumerate(zip(cycles, SHAPE, strict=True)))
    return np.cos(2 * np.pi * phase)


@pytest.mark.parametrize("shape", [(5, 7, 9), (6, 7, 9), (5, 8, 9), (5, 7, 8)])
def test_angles_are_those_of_the_dipole_kernel(shape):
    kernel = dipole_kernel(shape, (1.0, 2.0, 1.5), OBLIQUE).numpy()
    expected = np.rad2deg(np.arccos(np.sqrt(np.clip(1 / 3 - kernel, 0, 1))))
    found = angles_to_b0_deg(shape, (1.0, 2.0, 1.5), OBLIQUE)
    far = np.abs(expected - 45) < 40  # arccos of single precision is rough at its ends
    far[0, 0, 0] = False
    np.testing.assert_allclose(found[far], expected[far], atol=1e-3)
    assert pytest.approx(54.7356, abs=1e-4) == MAGIC_ANGLE_DEG


def test_all_angles_together_are_the_nrmse(truth):
    mask = np.random.default_rng(1).random(SHAPE) < 0.6
    recon = truth + 0.3 * np.random.default_rng(2).standard_normal(SHAPE) + 5
    v = volumes(recon, truth, (1.0, 2.0, 1.5), OBLIQUE, mask)
    profile = cone_profile(v, n_bins=30)
    assert 100 * math.sqrt(profile.error_energy.sum() / profile.truth_energy.sum()) == pytest.approx(nrmse(v.recon, v.truth, v.mask), rel=1e-12)
    assert profile.truth_energy.sum() == pytest.approx(((truth[mask] - truth[mask].mean()) ** 2).sum())
    # white noise on white noise errs alike at all angles
    assert profile.error_percent[10:] == pytest.approx(np.full(20, 30), rel=0.2)


def test_a_streak_is_found_at_its_angle(truth):
    """A wave with k = (10 / 30, 0, n / 27): its angle to z is that of its cycles per voxel."""
    for cycles_z in (2, 6, 12):
        angle = math.degrees(math.atan2(10 / 30, cycles_z / 27))
        v = volumes(truth + wave(10, 0, cycles_z), truth)
        profile = cone_profile(v, n_bins=45)
        assert profile.angle_deg[np.argmax(profile.error_energy)] == pytest.approx(angle, abs=1)
        near = abs(angle - MAGIC_ANGLE_DEG) < CONE_WIDTH_DEG
        assert (cone_error(v) > 1) is near


def test_voxel_size_and_b0_count(truth):
    v = (truth + wave(10, 0, 6), truth)  # 56 degrees from z in cubes
    assert cone_error(volumes(*v)) > 1
    assert cone_error(volumes(*v, voxel_size_mm=(1.0, 1.0, 2.0))) == pytest.approx(0, abs=1e-9)
    assert cone_error(volumes(*v, b0_direction=(0.0, 1.0, 0.0))) == pytest.approx(0, abs=1e-9)
    assert cone_error(volumes(*v, b0_direction=(0.0, 0.0, -1.0))) == pytest.approx(cone_error(volumes(*v)))


def test_an_empty_map_scores_100_and_the_offset_nothing(truth):
    assert cone_error(volumes(0 * truth, truth)) == pytest.approx(100)
    assert cone_error(volumes(truth + 7, truth)) == pytest.approx(0, abs=1e-9)
    assert cone_error(volumes(truth, 0 * truth + 1)) is None


def test_score_passes_the_geometry_on(truth):
    labels, mask, recon = np.full(SHAPE, 8), np.ones(SHAPE), truth + wave(10, 0, 6)
    cubes = score(recon, truth, mask, labels, additional=True)["ConeError"]
    assert cubes == pytest.approx(cone_error(volumes(recon, truth)))
    assert score(recon, truth, mask, labels, additional=True, voxel_size_mm=(1.0, 1.0, 2.0))["ConeError"] == pytest.approx(0, abs=1e-9)


def test_errors(truth):
    with pytest.raises(InputError, match="n_bins is 1"):
        cone_profile(volumes(truth, truth), n_bins=1)
    with pytest.raises(InputError, match=r"b0_direction is \(0.0, 0.0, 2.0\)"):
        cone_error(volumes(truth, truth, b0_direction=(0.0, 0.0, 2.0)))
