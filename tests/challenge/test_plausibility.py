"""Maps in another unit, upside down or of something else, and segmentations that lack what the metrics need."""

import math

import numpy as np
import pytest
from scoring_cases import golden

from qsmdl.challenge.metrics import score
from qsmdl.challenge.plausibility import check_labels, check_orientation, check_units, compare_to_truth
from qsmdl.errors import InputError

HZ = 42.577 * 7


@pytest.fixture(scope="module")
def case():
    return golden.volumes()


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1000, r"not in ppm.*ppb \(factor 1000\)"),
        (HZ, r"not in ppm.*Hz at 7 T \(factor 298.0"),
        (2 * math.pi * HZ, r"not in ppm.*rad/s at 7 T"),
        (2 * math.pi * HZ * 0.004, r"not in ppm.*rad at an echo time of 4 ms"),
        (2 * math.pi * HZ * 0.028, r"not in ppm.*rad at an echo time of 28 ms"),
        (1e-6, r"not in ppm.*plain numbers"),
        (1e-3, r"not in ppm.*truth in ppb"),
        (-1, r"opposite sign.*slope of its regression on the truth is -"),
    ],
)
@pytest.mark.parametrize("name", ["noisy", "shrunk", "streaky", "blurred", "overestimated"])
def test_other_units_are_named_with_the_factor_found(case, factor, words, name):
    truth, mask, _, recons = case
    slope = compare_to_truth(recons[name], truth, mask).slope * factor
    with pytest.raises(InputError, match=words) as error:
        check_units(factor * recons[name], truth, mask)
    assert f"{slope:.4g}" in str(error.value)


@pytest.mark.parametrize("factor", [-0.3, -0.45, -2.5, -3.5])
def test_the_sign_is_told_whatever_the_scale(case, factor):
    truth, mask, _, recons = case
    with pytest.raises(InputError, match="opposite sign"):
        check_units(factor * recons["noisy"], truth, mask)


@pytest.mark.parametrize("b0_tesla", [0.0, -7.0, math.nan])
def test_a_field_strength_is_positive(case, b0_tesla):
    truth, mask, _, recons = case
    with pytest.raises(InputError, match=r"b0_tesla is .*; the field strength must be positive"):
        check_units(recons["noisy"], truth, mask, b0_tesla=b0_tesla)


def test_a_turned_map_is_told_and_a_lost_affine_forgiven(case, caplog):
    truth, mask, _, recons = case
    las, ras = np.diag([-1.0, 1.0, 1.0, 1.0]), np.eye(4)
    with pytest.raises(InputError, match=r"lies on another grid: .* run to LAS, the truth's to RAS, .*0\.99 instead of 0\.\d\d"):
        check_orientation(recons["noisy"][::-1], truth, mask, (las, ras))
    check_orientation(recons["noisy"], truth, mask, (las, ras), source="chi.nii")
    assert "chi.nii: its affine says that its axes run to LAS" in caplog.text
    caplog.clear()
    swapped = ras[[1, 0, 2, 3]]  # another shape when turned
    check_orientation(recons["noisy"], truth, mask, (swapped, ras))
    assert "ARS" in caplog.text
    caplog.clear()
    for affine in (ras, 2 * ras, np.full((4, 4), np.nan), np.zeros((4, 4))):
        check_orientation(recons["noisy"][::-1], truth, mask, (affine, ras))
    assert not caplog.text


def test_scoring_itself_refuses_no_map(case):
    """A diverged method gets its numbers; units are checked where maps come from strangers."""
    truth, mask, segmentation, recons = case
    assert score(1000 * recons["noisy"], truth, mask, segmentation)["rmse"] > 1e4


def test_the_field_strength_decides_what_hz_are(case):
    truth, mask, _, recons = case
    with pytest.raises(InputError, match=r"chi\.nii is not in ppm.*Hz at 3 T \(factor 127.7"):
        check_units(42.577 * 3 * recons["noisy"], truth, mask, source="chi.nii", b0_tesla=3.0)


def test_a_field_map_is_not_scored(case):
    """It hardly resembles the truth, but nothing in ppm varies a hundred times as much."""
    truth, mask, _, _ = case
    field_hz = 100 * truth.std() * np.random.default_rng(0).standard_normal(truth.shape)
    with pytest.raises(InputError, match=r"no susceptibility map in ppm: it varies \d+\.?\d* times as much.*field map in Hz"):
        check_units(field_hz, truth, mask)


@pytest.mark.parametrize("scale", [0.0, 0.05, 0.3, 0.7, 1.0, 1.5, 2.5, 3.5])
@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_poor_maps_in_ppm_are_no_false_alarm(case, scale, noise):
    truth, mask, _, _ = case
    recon = scale * truth + noise * np.random.default_rng(0).standard_normal(truth.shape)
    check_units(recon, truth, mask)


def test_an_empty_mask_and_constant_maps_pass(case):
    truth, mask, _, _ = case
    check_units(truth, truth, np.zeros_like(mask))
    check_units(np.ones_like(truth), truth, mask)


def test_labels_that_the_metrics_need(case):
    _, mask, segmentation, _ = case
    check_labels(segmentation, mask, scan="Sim2")
    with pytest.raises(InputError, match=r"seg\.nii holds no red nucleus \(4\), blood \(11\) inside the mask"):
        check_labels(np.where(np.isin(segmentation, (4, 11)), 8, segmentation), mask, source="seg.nii")
    with pytest.raises(InputError, match=r"thalamus \(7\), white matter \(8\), grey matter \(9\)"):
        check_labels(np.where(np.isin(segmentation, (7, 8, 9)), 10, segmentation), mask)


def test_small_nuclei_may_drown_in_coarse_voxels(case):
    _, mask, segmentation, _ = case
    fewer = np.where(np.isin(segmentation, (4, 5)), 8, segmentation)
    check_labels(fewer, mask, voxel_size_mm=(1.0, 1.0, 4.0))
    with pytest.raises(InputError, match=r"red nucleus \(4\), dentate nucleus \(5\)"):
        check_labels(fewer, mask, voxel_size_mm=(3.0, 3.0, 3.0))
    with pytest.raises(InputError, match=r"caudate \(1\), globus"):
        check_labels(np.where(segmentation < 7, 8, segmentation), mask, voxel_size_mm=(6.0, 6.0, 6.0))


def test_a_sim2_has_a_calcification(case):
    _, mask, segmentation, _ = case
    plain = np.where(segmentation == 16, 8, segmentation)
    for scan in ("Sim2", "sim2Snr1"):
        with pytest.raises(InputError, match=rf"said to belong to {scan}, but holds no calcification"):
            check_labels(plain, mask, scan=scan)
    for scan in (None, "Sim1", "Sim20", "head"):
        check_labels(plain, mask, scan=scan)


def test_interpolated_labels_are_refused(case):
    truth, mask, segmentation, recons = case
    with pytest.raises(InputError, match="not whole numbers"):
        score(recons["noisy"], truth, mask, segmentation + 0.4)
    assert score(recons["noisy"], truth, mask, segmentation.astype(np.float32)) == score(recons["noisy"], truth, mask, segmentation)
