"""Dialect "qsm-ci": what `qsm_ci.qsm_eval` of the package qsm-ci 0.6 (and QSM.rs, whose definitions it follows) computes, keyed as in RC2.

Both maps are 0 outside the mask before anything else, and non-finite voxels of the map are 0. Detrending divides by the forward slope; deep grey
matter is labels 1 to 6; blood is dilated beyond the mask, where both maps are 0; the slope needs two regions, not six; the calcification's threshold
may sink to -3.5 ppm, its true moment is the sum over label 16 and the streaks' standard deviation divides by n. XSIM takes a flat window of 5 x 5 x 5
voxels that shrinks at the volume's border; HFEN filters with a Laplacian of Gaussian that mirrors the border, and compares inside the mask; the
correlation is taken inside the mask. SSIM, MI, MAD, GXE, the error on the cone and rmse_detrend_v0 are not defined there: None.
"""

import math

import numpy as np
from scipy.ndimage import gaussian_laplace, uniform_filter

from qsmdl.challenge.calcification import BOX_MARGIN, GUARD_WIDTH, RIM_WIDTH, UNDEFINED, shell
from qsmdl.challenge.regions import blood_region
from qsmdl.challenge.volumes import CALCIFICATION, DEEP_GREY_MATTER, TISSUE, Labels, Mask, Scores, Volume, Volumes, bounding_box

_TINY = 1e-30
"""Below it a norm or a slope counts as 0 there."""
_WINDOW, _SIGMA_VOXELS, _TRUNCATE = 5, 1.5, 5.0
_REACH = int(_TRUNCATE * _SIGMA_VOXELS + 0.5)


def _line(x: Volume, y: Volume) -> tuple[float, float]:
    """(slope, offset) of y over x from plain sums, which for a nearly constant x is what decides the outcome there."""
    n, sum_x, sum_y = x.size, float(x.sum()), float(y.sum())
    spread = n * float((x * x).sum()) - sum_x**2
    if abs(spread) < _TINY:
        return 0.0, 0.0
    slope = (n * float((x * y).sum()) - sum_x * sum_y) / spread
    return slope, (sum_y - slope * sum_x) / n


def _errors(recon: Volume, truth: Volume, region: Mask) -> tuple[float | None, float | None]:
    """NRMSE and detrended NRMSE in %; (None, None) for an empty region or a constant truth."""
    if not region.any():
        return None, None
    r, t = recon[region], truth[region]
    r, t = r - r.mean(), t - t.mean()
    norm = math.sqrt(float((t * t).sum()))
    if norm < _TINY:
        return None, None
    plain = 100 * math.sqrt(float(((r - t) ** 2).sum())) / norm
    slope, offset = _line(t, r)
    if abs(slope) < _TINY:
        return plain, plain
    return plain, 100 * math.sqrt(float((((r - offset) / slope - t) ** 2).sum())) / norm


def _slope_deviation(recon: Volume, truth: Volume, labels: Labels) -> float | None:
    present = [region for label in DEEP_GREY_MATTER if (region := labels == label).any()]
    if len(present) < 2:
        return None
    slope, _ = _line(np.array([truth[r].mean() for r in present]), np.array([recon[r].mean() for r in present]))
    return abs(1 - slope)


def _calcification(recon: Volume, truth: Volume, calcification: Mask) -> Scores:
    if not calcification.any():
        return dict(UNDEFINED)
    box, outer = bounding_box(calcification, BOX_MARGIN), bounding_box(calcification, BOX_MARGIN + GUARD_WIDTH)
    around = recon[shell(recon.shape, outer, box)]
    lowest = float(around.min()) if around.size else 0.0
    threshold = next((t for i in range(351) if lowest >= (t := -i * 0.01)), -3.5)
    values = recon[box][recon[box] < threshold]
    true_moment = float(truth[calcification].sum())
    if values.size == 0:
        return {"CalcStreak": None, "CalcMoment": 0.0, "DeviationFromCalcMoment": abs(true_moment)}
    moment = float(values.sum())
    rim = shell(recon.shape, bounding_box(calcification, BOX_MARGIN + RIM_WIDTH), box)
    return {
        "CalcStreak": _streaking(recon[rim], truth[rim], float(values.mean())),
        "CalcMoment": moment,
        "DeviationFromCalcMoment": abs(true_moment - moment),
    }


def _streaking(recon: Volume, truth: Volume, calcification_ppm: float) -> float | None:
    if recon.size < 2 or abs(calcification_ppm) <= _TINY:
        return None
    slope, offset = _line(truth, recon)
    return float((recon - (slope * truth + offset)).std()) / abs(calcification_ppm)


def official(v: Volumes) -> Scores:
    """The eight official metrics in this dialect, with CalcMoment; rmse_detrend_v0 is None."""
    masked = v.masked()
    r, t, m, labels = masked.recon, masked.truth, v.mask, v.labels
    plain, detrended = _errors(r, t, m)
    scores: Scores = {
        "rmse": plain,
        "rmse_detrend": detrended,
        "rmse_detrend_v0": None,
        "rmse_detrend_Tissue": _errors(r, t, m & np.isin(labels, TISSUE))[1],
        "rmse_detrend_Blood": _errors(r, t, blood_region(m, labels))[1],
        "rmse_detrend_DGM": _errors(r, t, m & np.isin(labels, DEEP_GREY_MATTER))[1],
        "DeviationFromLinearSlope": _slope_deviation(r, t, labels),
    }
    return scores | _calcification(r, t, labels == CALCIFICATION)


def _xsim(v: Volumes) -> float:
    box = v.box(_WINDOW // 2)
    r, t, inside = v.recon[box], v.truth[box], v.mask[box]
    count = uniform_filter(np.ones(r.shape), _WINDOW, mode="constant")

    def mean(volume: Volume) -> Volume:
        """Over the part of the window that lies in the volume."""
        smoothed: Volume = uniform_filter(volume, _WINDOW, mode="constant") / count
        return smoothed

    mean_r, mean_t = mean(r), mean(t)
    variances = mean(r * r) - mean_r**2 + mean(t * t) - mean_t**2
    covariance = mean(r * t) - mean_r * mean_t
    numerator = (2 * mean_r * mean_t + 1e-4) * (2 * covariance + 1e-6)
    denominator = (mean_r**2 + mean_t**2 + 1e-4) * (variances + 1e-6)
    valid = inside & (denominator > 0)
    return float((numerator[valid] / denominator[valid]).mean()) if valid.any() else 0.0


def _hfen(v: Volumes) -> float | None:
    box = v.box(_REACH)
    inside = v.mask[box]
    error, truth = (gaussian_laplace(volume[box], _SIGMA_VOXELS, truncate=_TRUNCATE)[inside] for volume in (v.recon - v.truth, v.truth))
    norm = float(np.linalg.norm(truth))
    return 100 * float(np.linalg.norm(error)) / norm if norm >= _TINY else None


def _correlation(r: Volume, t: Volume) -> float:
    dr, dt = r - r.mean(), t - t.mean()
    norm = float(np.linalg.norm(dr)) * float(np.linalg.norm(dt))
    return float(dr @ dt) / norm if norm > 0 else 0.0


def further(v: Volumes) -> Scores:
    """XSIM, HFEN and CC in this dialect; the others are None."""
    masked = v.masked()
    return {
        "SSIM": None,
        "XSIM": _xsim(masked),
        "HFEN": _hfen(masked),
        "CC": _correlation(masked.recon[v.mask], masked.truth[v.mask]),
        "MI": None,
        "MAD": None,
        "GXE": None,
        "ConeError": None,
    }
