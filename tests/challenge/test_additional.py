"""The additional metrics: golden values, dense oracles on small grids, and where they are undefined."""

import math

import numpy as np
import pytest
from scipy.ndimage import correlate
from scoring_cases import golden, random_case

from qsmdl.challenge import additional
from qsmdl.challenge.metrics import ADDITIONAL_METRICS, score
from qsmdl.challenge.volumes import as_volumes


@pytest.fixture(scope="module")
def volumes():
    return golden.volumes()


@pytest.fixture(scope="module")
def small():
    return as_volumes(*random_case(3, (9, 11, 8))).masked()


@pytest.mark.parametrize("name", golden.GOLDEN_ADDITIONAL)
def test_agrees_with_the_released_evaluation_code(volumes, name):
    truth, mask, segmentation, recons = volumes
    found = score(recons[name], truth, mask, segmentation, additional=True)
    assert set(golden.GOLDEN_ADDITIONAL[name]) == set(ADDITIONAL_METRICS) - {"ConeError"}
    for key, value in (golden.GOLDEN[name] | golden.GOLDEN_ADDITIONAL[name]).items():
        assert found[key] == pytest.approx(value, rel=1e-6, abs=1e-9), key


def window(n):
    x = np.arange(n) - (n - 1) / 2
    squares = x[:, None, None] ** 2 + x[:, None] ** 2 + x**2
    dense = np.exp(-squares / (2 * 1.5**2))
    return dense / dense.sum(), squares


def dense_similarity(a, b, kernel, c1, c2):
    def mean(v):
        return correlate(v, kernel, mode="constant")

    ma, mb = mean(a), mean(b)
    va, vb, cab = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    return (2 * ma * mb + c1) * (2 * cab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))


def test_xsim_against_a_dense_window(small):
    expected = dense_similarity(small.recon, small.truth, window(7)[0], 1e-4, 1e-6)[small.mask].mean()
    assert additional.xsim(small) == pytest.approx(expected, rel=1e-10)


def test_ssim_against_a_dense_window(small):
    low = min(small.recon.min(), small.truth.min())
    r, t = (np.where(v != 0, v - low, 0) for v in (small.recon, small.truth))
    top = max(r.max(), t.max())
    expected = dense_similarity(255 * r / top, 255 * t / top, window(5)[0], 2.55**2, 7.65**2)
    assert additional.ssim(small) == pytest.approx(expected[r != 0].mean(), rel=1e-10)
    assert additional.ssim(small, over_mask=True) == pytest.approx(expected[small.mask].mean(), rel=1e-10)


def test_hfen_against_a_dense_zero_sum_kernel(small):
    gaussian, squares = window(15)
    kernel = gaussian * (squares / 1.5**4 - 3 / 1.5**2)
    kernel -= kernel.mean()
    error, truth = (correlate(v, kernel, mode="constant") for v in (small.recon - small.truth, small.truth))
    assert additional.hfen(small) == pytest.approx(100 * np.linalg.norm(error) / np.linalg.norm(truth), rel=1e-9)
    inside = 100 * np.linalg.norm(error[small.mask]) / np.linalg.norm(truth[small.mask])
    assert additional.hfen(small, over_mask=True) == pytest.approx(inside, rel=1e-9)


def test_gradient_errors_by_hand():
    truth = np.zeros((3, 4, 2))
    truth[0, 0, 0] = 1.0  # two differences of 1 along x (one wraps round), two along y, one along z
    recon = truth.copy()
    recon[2, 2, 1] = 0.5
    mask = np.ones(truth.shape, bool)
    v = as_volumes(recon, truth, mask, np.full(truth.shape, 8))
    assert additional.gradient_error(v) == pytest.approx(100 * math.sqrt(4 * 0.25 / 4))
    # without wrapping: truth 1 + 1 + 1 differences; the error's voxel has one neighbour in x, two in y, one in z
    assert additional.gradient_error_inside(v) == pytest.approx(100 * math.sqrt(4 * 0.25 / 3))
    mask[2, 1:, 1] = False
    assert additional.gradient_error_inside(as_volumes(recon, truth, mask, np.full(truth.shape, 8))) == 0


def test_mutual_information_by_hand():
    """Eight values, two cells per axis: a perfect match shares ln 2, less the bias (2 - 1)^2 / 16."""
    a = np.array([0.0, 0, 0, 0, 1, 1, 1, 1])
    b = np.array([0.0, 0, 1, 1, 0, 0, 1, 1])
    assert additional.mutual_information(a, 5 - 3 * a) == pytest.approx(math.log(2) - 1 / 16)
    assert additional.mutual_information(a, b) == pytest.approx(-1 / 16)


def test_absolute_difference_and_correlation_by_hand():
    truth = np.array([[[1.0, -1.0, 2.0]]])
    v = as_volumes(truth + 0.5, truth, np.ones((1, 1, 3)), np.full((1, 1, 3), 8))
    assert additional.absolute_difference(v) == pytest.approx(100 * 1.5 / 4)
    assert additional.correlation(-2 * truth + 1, truth) == pytest.approx(-1)


def test_undefined_without_contrast():
    zero = as_volumes(np.zeros((6, 5, 4)), np.zeros((6, 5, 4)), np.ones((6, 5, 4)), np.full((6, 5, 4), 8))
    assert additional.xsim(zero) == 1
    for metric in (additional.ssim, additional.hfen, additional.absolute_difference, additional.gradient_error, additional.gradient_error_inside):
        assert metric(zero) is None
    assert additional.correlation(zero.recon, zero.truth) is None
    assert additional.correlation(np.full(50, 0.1), np.arange(50.0)) is None  # 0.1 less its rounded mean is not 0
    assert additional.mutual_information(zero.recon, zero.truth) is None
    assert additional.mutual_information(np.ones(1), np.ones(1)) is None
