"""Three dialects: qsm-ci against its own package, corrected against its definitions, all against what no metric may depend on."""

import math

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from qsm_ci.qsm_eval import score_arrays
from scipy.ndimage import binary_dilation
from scoring_cases import cases, golden

from qsmdl.challenge.dialects import DIALECTS, find_dialect, why_they_differ
from qsmdl.challenge.metrics import ADDITIONAL_METRICS, METRICS, score, score_dialects
from qsmdl.challenge.regression import detrended_nrmse_v0
from qsmdl.errors import InputError

QUICK = settings(max_examples=15, deadline=None, derandomize=True, phases=(Phase.generate,))
KEYS_OF_QSM_CI = {
    "nrmse": "rmse",
    "nrmse_detrend": "rmse_detrend",
    "nrmse_tissue": "rmse_detrend_Tissue",
    "nrmse_blood": "rmse_detrend_Blood",
    "nrmse_dgm": "rmse_detrend_DGM",
    "dgm_linearity": "DeviationFromLinearSlope",
    "calc_moment_dev": "DeviationFromCalcMoment",
    "calc_streak": "CalcStreak",
    "correlation": "CC",
    "xsim": "XSIM",
    "hfen": "HFEN",
}
UNSCALED = ("CalcMoment", "DeviationFromCalcMoment")


@pytest.fixture(scope="module")
def volumes():
    return golden.volumes()


def agrees_with_the_package(recon, truth, mask, segmentation):
    expected, _ = score_arrays(np.asarray(recon, np.float64), np.asarray(truth, np.float64), np.asarray(mask), seg=np.asarray(segmentation, np.int32))
    found = score(recon, truth, mask, segmentation, dialect="qsm-ci", additional=True)
    for theirs, ours in KEYS_OF_QSM_CI.items():
        value = expected[theirs]
        assert found[ours] == (None if math.isnan(value) else pytest.approx(value, rel=1e-9, abs=1e-9)), ours
    return found


def same(found, expected, without=()):
    for key in expected:
        if key not in without:
            close = None if expected[key] is None else pytest.approx(expected[key], rel=1e-6, abs=1e-7)
            assert found[key] == close, key


@pytest.mark.parametrize("name", golden.GOLDEN)
def test_qsm_ci_on_the_golden_volumes(volumes, name):
    truth, mask, segmentation, recons = volumes
    found = agrees_with_the_package(recons[name], truth, mask, segmentation)
    assert sum(value is not None for value in found.values()) == len(KEYS_OF_QSM_CI) + 1  # CalcMoment


@QUICK
@given(cases, st.sampled_from([0.0, 0.02]))
def test_qsm_ci_on_random_volumes(case, broken):
    recon, truth, mask, segmentation = case
    recon = np.where(np.random.default_rng(1).random(recon.shape) < broken, np.nan, recon)
    agrees_with_the_package(recon, truth, mask, segmentation)


def test_qsm_ci_on_a_phantom(sample):
    _, truth = sample
    chi, labels, mask = truth.chi_ppm.numpy(), truth.labels.numpy(), truth.mask.numpy()
    rng = np.random.default_rng(0)
    for recon in (0.8 * chi, chi + 0.02 * rng.standard_normal(chi.shape), np.roll(chi, 1, 0), np.zeros_like(chi), chi.clip(-0.05, 0.05)):
        agrees_with_the_package(recon, chi, mask, labels)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: np.where(s == 16, 8, s),  # no calcification
        lambda s: np.where(s < 7, 9, s),  # no nucleus
        lambda s: np.where((s > 1) & (s < 7), 9, s),  # one nucleus: no slope
        lambda s: np.where(s == 3, 9, s),  # five nuclei: a slope there, none in rc2
        lambda s: np.where(s == 11, 9, s),  # no blood
        lambda s: np.where(s == 10, 0, s),  # label 0 in the mask
    ],
)
def test_qsm_ci_with_labels_missing(volumes, change):
    truth, mask, segmentation, recons = volumes
    agrees_with_the_package(recons["noisy"], truth, mask, change(segmentation))


def test_qsm_ci_where_streaks_reach_the_calcification(volumes):
    truth, mask, segmentation, recons = volumes
    for depth in (-0.5, -1.7, -2.9, -5.0):
        streaky = recons["noisy"].copy()
        streaky[20, 37, 36] = depth
        agrees_with_the_package(streaky, truth, mask, segmentation)


@pytest.mark.parametrize("additional", [False, True])
def test_all_dialects_have_the_same_keys(volumes, additional):
    truth, mask, segmentation, recons = volumes
    found = score_dialects(recons["shrunk"], truth, mask, segmentation, additional=additional)
    assert tuple(found) == DIALECTS == ("rc2", "qsm-ci", "corrected")
    expected = [*golden.GOLDEN["noisy"], *(ADDITIONAL_METRICS if additional else ())]
    assert all(list(scores) == expected for scores in found.values())
    for dialect, scores in found.items():
        assert scores == score(recons["shrunk"], truth, mask, segmentation, dialect=dialect, additional=additional)
    assert len({scores["rmse_detrend"] for scores in found.values()}) == 3
    assert found["rc2"]["rmse"] == pytest.approx(found["qsm-ci"]["rmse"])


def test_rc2_is_the_default(volumes):
    truth, mask, segmentation, recons = volumes
    assert score(recons["noisy"], truth, mask, segmentation) == score(recons["noisy"], truth, mask, segmentation, dialect="rc2")


def test_what_sets_them_apart_is_said():
    line = why_they_differ()
    assert "\n" not in line
    for name in DIALECTS:
        assert f"{name} {find_dialect(name).differs}" in line


def test_an_unknown_dialect_is_named(volumes):
    truth, mask, segmentation, recons = volumes
    with pytest.raises(InputError, match=r"dialect is 'rc3'.*rc2, qsm-ci, corrected.*did you mean 'rc2'"):
        score(recons["noisy"], truth, mask, segmentation, dialect="rc3")


def test_corrected_regions(volumes):
    truth, mask, segmentation, recons = volumes
    recon = recons["streaky"].copy()
    with_zero = np.where(segmentation == 10, 0, segmentation)
    found = score(recon, truth, mask, with_zero, dialect="corrected")
    blood = binary_dilation(mask & (segmentation == 11), np.ones((3, 3, 3))) & mask
    assert found["rmse_detrend_DGM"] == pytest.approx(detrended_nrmse_v0(recon, truth, mask & (segmentation >= 1) & (segmentation <= 6)))
    assert found["rmse_detrend_Blood"] == pytest.approx(detrended_nrmse_v0(recon, truth, blood))
    assert found["rmse_detrend_Tissue"] == pytest.approx(detrended_nrmse_v0(recon, truth, mask & np.isin(segmentation, (7, 8, 9))))
    assert found["rmse_detrend"] == found["rmse_detrend_v0"]


def test_corrected_scores_a_perfect_map_perfectly(volumes):
    """qsm-ci takes the true moment from the label and so finds an error in the truth itself."""
    truth, mask, segmentation, _ = volumes
    found = score(truth, truth, mask, segmentation, dialect="corrected", additional=True)
    for key, metric in (METRICS | ADDITIONAL_METRICS).items():
        if key != "MI":
            assert found[key] == pytest.approx(0 if metric.lower_is_better else 1, abs=1e-9), key


@QUICK
@given(cases, st.data())
def test_corrected_looks_at_the_mask_alone(case, data):
    recon, truth, mask, segmentation = case
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    other = np.where(mask, recon, rng.standard_normal(recon.shape))
    relabelled = np.where(mask, segmentation, rng.integers(0, 17, recon.shape))
    found = score(recon, truth, mask, segmentation, dialect="corrected", additional=True)
    same(score(other, np.where(mask, truth, 0), mask, relabelled, dialect="corrected", additional=True), found)


@QUICK
@given(cases, st.floats(-0.2, 0.2))
def test_an_offset_changes_nothing_that_is_demeaned(case, offset):
    """The released slope and blood reach beyond the mask but demean there too; the calcification's threshold is absolute."""
    recon, truth, mask, segmentation = case
    absolute = {"CalcStreak", *UNSCALED}
    for dialect in ("rc2", "corrected"):
        moved = score(recon + offset, truth, mask, segmentation, dialect=dialect, additional=dialect == "corrected")
        same(moved, score(recon, truth, mask, segmentation, dialect=dialect, additional=dialect == "corrected"), absolute)


@QUICK
@given(cases, st.floats(0.4, 2.0))
def test_a_scale_changes_no_properly_detrended_error(case, scale):
    recon, truth, mask, segmentation = case
    before, after = (score(r, truth, mask, segmentation, dialect="corrected", additional=True) for r in (recon, scale * recon))
    detrended = {"rmse_detrend", "rmse_detrend_v0", "rmse_detrend_Tissue", "rmse_detrend_Blood", "rmse_detrend_DGM", "CC", "MI"}
    same(after, before, set(before) - detrended)
    inverse = [score(r, truth, mask, segmentation, dialect="qsm-ci")["rmse_detrend"] for r in (recon, scale * recon)]
    assert inverse[0] == pytest.approx(inverse[1], rel=1e-7)


@QUICK
@given(cases, st.floats(0.25, 4.0))
def test_units_that_both_maps_share_change_no_ratio(case, scale):
    recon, truth, mask, segmentation = case
    for dialect in DIALECTS:
        before, after = (score(s * recon, s * truth, mask, segmentation, dialect=dialect) for s in (1.0, scale))
        same(after, before, {"CalcStreak", *UNSCALED})


@QUICK
@given(cases, st.permutations([0, 1, 2]), st.tuples(st.booleans(), st.booleans(), st.booleans()), st.sampled_from(DIALECTS))
def test_turning_all_volumes_changes_nothing(case, axes, flips, dialect):
    """Axes exchanged and mirrored; the released gradient error alone knows x and y from z."""
    b0, voxel = np.array([0.36, -0.48, 0.8]), np.array([1.0, 2.0, 1.5])
    flipped = tuple(i for i in range(3) if flips[i])
    turned = [np.flip(v.transpose(axes), flipped) for v in case]
    signs = np.where(flips, -1, 1)
    before = score(*case, dialect=dialect, additional=True, voxel_size_mm=tuple(voxel), b0_direction=tuple(b0))
    found = score(*turned, dialect=dialect, additional=True, voxel_size_mm=tuple(voxel[axes]), b0_direction=tuple(b0[axes] * signs))
    same(found, before, {"GXE"} if dialect == "rc2" and axes[2] != 2 else ())


@QUICK
@given(cases)
def test_no_line_does_better_than_v0(case):
    recon, truth, mask, segmentation = case
    found = score_dialects(recon, truth, mask, segmentation)
    least = found["corrected"]["rmse_detrend"]
    assert least == pytest.approx(found["rc2"]["rmse_detrend_v0"], rel=1e-9)
    for scores in found.values():
        assert least <= scores["rmse"] + 1e-9
        assert least <= scores["rmse_detrend"] + 1e-9
    correlation = score(recon, truth, mask, segmentation, dialect="corrected", additional=True)["CC"]
    assert least == pytest.approx(100 * math.sqrt(1 - correlation**2), rel=1e-6)
    assert found["qsm-ci"]["rmse_detrend"] == pytest.approx(100 * math.sqrt(1 / correlation**2 - 1), rel=1e-6)


@QUICK
@given(cases)
def test_voxels_in_another_order_change_no_plain_error(case):
    order = np.random.default_rng(0).permutation(case[0].size)
    shuffled = [v.ravel()[order].reshape(v.shape) for v in case]
    for dialect in DIALECTS:
        before, after = score(*case, dialect=dialect, additional=True), score(*shuffled, dialect=dialect, additional=True)
        for key in ("rmse", "rmse_detrend", "rmse_detrend_Tissue", "rmse_detrend_DGM", "DeviationFromLinearSlope", "CC", "MI", "MAD"):
            assert after[key] == (None if before[key] is None else pytest.approx(before[key], rel=1e-7, abs=1e-9)), (dialect, key)


def test_a_map_without_contrast_is_scored(volumes):
    """All that divides by the map's contrast is undefined, in every dialect without a warning."""
    truth, mask, segmentation, _ = volumes
    for dialect in DIALECTS:
        found = score(np.zeros_like(truth), truth, mask, segmentation, dialect=dialect, additional=True)
        assert found["rmse"] == pytest.approx(100)
        assert found["CalcStreak"] is None
        assert found["CalcMoment"] == 0
        assert found["MI"] is None
