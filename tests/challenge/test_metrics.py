import importlib.util
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation

from qsmdl.challenge.calcification import bounding_box, calcification_metrics, segmented_calcification
from qsmdl.challenge.metrics import METRICS, blood_region, detrended_nrmse, detrended_nrmse_v0, nrmse, score
from qsmdl.challenge.regression import fit_line
from qsmdl.errors import InputError

_spec = importlib.util.spec_from_file_location("golden_rc2", Path(__file__).with_name("golden_rc2.py"))
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)


@pytest.fixture(scope="module")
def case():
    return golden.volumes()


@pytest.mark.parametrize("name", golden.GOLDEN)
def test_agrees_with_the_released_evaluation_code(case, name):
    truth, mask, segmentation, recons = case
    found = score(recons[name], truth, mask, segmentation)
    assert found.keys() == golden.GOLDEN[name].keys()
    for key, value in golden.GOLDEN[name].items():
        assert found[key] == pytest.approx(value, rel=1e-6, abs=1e-9), key


def test_metrics_are_the_official_eight_and_all_scored(case):
    truth, mask, segmentation, recons = case
    assert len(METRICS) == 8
    assert set(METRICS) <= set(score(recons["noisy"], truth, mask, segmentation))
    assert [key for key, metric in METRICS.items() if metric.sim2_only] == ["CalcStreak", "DeviationFromCalcMoment"]


def test_tensors_score_like_arrays(case):
    truth, mask, segmentation, recons = case
    arrays = score(recons["noisy"].astype(np.float32), truth, mask, segmentation)
    tensors = score(torch.from_numpy(recons["noisy"]).float(), torch.from_numpy(truth), torch.from_numpy(mask), torch.from_numpy(segmentation))
    assert arrays == tensors


def test_inputs_are_left_as_they_are(case):
    truth, mask, segmentation, recons = case
    before = recons["not_finite"].copy()
    score(recons["not_finite"], truth, mask, segmentation)
    np.testing.assert_array_equal(recons["not_finite"], before)


def test_without_a_calcification_its_metrics_are_undefined_not_zero(case):
    truth, mask, segmentation, recons = case
    plain = np.where(segmentation == 16, 8, segmentation)
    found = score(recons["noisy"], truth, mask, plain)
    assert found["CalcStreak"] is None
    assert found["CalcMoment"] is None
    assert found["DeviationFromCalcMoment"] is None
    assert found["rmse"] == pytest.approx(golden.GOLDEN["noisy"]["rmse"])


@pytest.mark.parametrize(("label", "key"), [(4, "DeviationFromLinearSlope"), (11, "rmse_detrend_Blood")])
def test_a_missing_region_makes_its_metric_undefined_and_is_said(case, caplog, label, key):
    truth, mask, segmentation, recons = case
    with caplog.at_level(logging.WARNING):
        found = score(recons["noisy"], truth, mask, np.where(segmentation == label, 10, segmentation))
    assert found[key] is None
    assert all(value is not None for other, value in found.items() if other != key)
    assert {4: "red_nucleus", 11: "blood"}[label] in caplog.text


def test_label_zero_counts_as_deep_grey_matter(case):
    truth, mask, segmentation, recons = case
    zeroed = np.where(segmentation == 10, 0, segmentation)
    region = mask & (zeroed < 7)
    found = score(recons["noisy"], truth, mask, zeroed)["rmse_detrend_DGM"]
    assert found == pytest.approx(detrended_nrmse(recons["noisy"], truth, region))
    assert found != pytest.approx(golden.GOLDEN["noisy"]["rmse_detrend_DGM"])


def test_blood_is_dilated_beyond_the_mask():
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[2, 2, 2:5] = 11
    mask = np.zeros(labels.shape, bool)
    mask[2, 2, 2] = True
    region = blood_region(mask, labels)
    assert int(region.sum()) == 27
    assert np.array_equal(region, binary_dilation(mask, np.ones((3, 3, 3))))


def test_simple_values_by_hand():
    rng = np.random.default_rng(1)
    truth = rng.standard_normal((5, 4, 3))
    region = np.ones(truth.shape, bool)
    assert nrmse(truth + 3, truth, region) == pytest.approx(0, abs=1e-9)
    assert nrmse(0 * truth, truth, region) == pytest.approx(100)
    assert nrmse(1.5 * truth, truth, region) == pytest.approx(50)
    # the released code multiplies by the forward slope: 0.5 * 0.5 is 75 % away
    assert detrended_nrmse(0.5 * truth + 1, truth, region) == pytest.approx(75)
    assert detrended_nrmse_v0(0.5 * truth + 1, truth, region) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("metric", [nrmse, detrended_nrmse, detrended_nrmse_v0])
def test_undefined_where_the_truth_is_constant_or_the_region_empty(metric):
    recon = np.random.default_rng(1).standard_normal((5, 4, 3))
    assert metric(recon, np.ones_like(recon), np.ones(recon.shape, bool)) is None
    assert metric(recon, recon, np.zeros(recon.shape, bool)) is None
    # the mean of sixty times 0.1 is not 0.1 to the last bit
    assert metric(recon, np.full_like(recon, 0.1), np.ones(recon.shape, bool)) is None


def test_v0_never_exceeds_the_nrmse(case):
    truth, mask, _, recons = case
    for recon in (recons["noisy"], recons["shrunk"], recons["blurred"], np.zeros_like(truth)):
        assert detrended_nrmse_v0(recon, truth, mask) <= nrmse(recon, truth, mask) + 1e-9


def test_line_through_points():
    x = np.array([1.0, 2.0, 4.0])
    assert fit_line(x, 3 * x - 2) == pytest.approx((3, -2))
    assert fit_line(np.ones(3), x) == pytest.approx((0, 7 / 3))


def test_boxes_are_clipped_to_the_volume():
    region = np.zeros((10, 9, 8), bool)
    region[1, 4, 7] = True
    assert bounding_box(region, 3) == (slice(0, 5), slice(1, 8), slice(4, 8))


def test_threshold_rises_with_the_streaks_around():
    calcification = np.zeros((40, 38, 36), bool)
    calcification[19:21, 18:20, 17:19] = True
    chi = np.where(calcification, -1.0, 0.0)
    chi[18, 18, 18] = -0.03
    assert segmented_calcification(chi, calcification).size == 9
    chi[10, 18, 18] = -0.035  # in the guard zone: the threshold goes to -0.04
    assert segmented_calcification(chi, calcification).size == 8
    chi[10, 18, 18] = -2.0  # no threshold will do: the last, -1.5
    assert segmented_calcification(chi, calcification).size == 0
    found = calcification_metrics(chi, np.where(calcification, -1.0, 0.0), calcification)
    assert found == {"CalcStreak": None, "CalcMoment": 0.0, "DeviationFromCalcMoment": 8.0}


@pytest.mark.parametrize("deepest", [-1e-3, -0.01, -1.499, -1e8, -1.234e38])
def test_threshold_of_a_map_that_diverged(deepest):
    """Without a limit it sinks as far as need be, and ends."""
    calcification = np.zeros((30, 29, 31), bool)
    calcification[15, 15, 15] = True
    chi = np.zeros(calcification.shape)
    chi[5, 15, 15], chi[15, 15, 15] = deepest, 2 * deepest
    assert segmented_calcification(chi, calcification, -math.inf).tolist() == ([2 * deepest] if deepest <= -0.01 else [])


def test_calcification_that_fills_the_volume_is_no_crash():
    calcification = np.ones((3, 4, 5), bool)
    found = calcification_metrics(np.full((3, 4, 5), -1.0), np.full((3, 4, 5), -1.0), calcification)
    assert found["CalcStreak"] is None
    assert found["CalcMoment"] == -60


def test_errors_name_what_is_wrong(case):
    truth, mask, segmentation, recons = case
    with pytest.raises(InputError, match=r"shapes differ.*'recon': \(59, 56, 52\)"):
        score(recons["noisy"][1:], truth, mask, segmentation)
    with pytest.raises(InputError, match="not 3-D"):
        score(truth[0], truth[0], mask[0], segmentation[0])
    with pytest.raises(InputError, match="mask is empty"):
        score(truth, truth, np.zeros_like(mask), segmentation)
    with pytest.raises(InputError, match="none of the labels 1 to 16"):
        score(truth, truth, mask, np.zeros_like(segmentation))
    with pytest.raises(InputError, match=r"voxels are .*positive and finite"):
        score(truth, truth, mask, segmentation, voxel_size_mm=(1.0, 1.0, float("nan")))
    spoiled = truth.copy()
    spoiled[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="truth holds 1 NaN"):
        score(truth, spoiled, mask, segmentation)
