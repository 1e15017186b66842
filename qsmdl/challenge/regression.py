"""The straight line that detrending, the slope error and the streaking metric share, and the relative errors before and after it.

Three ways of detrending are in circulation. With the forward line recon' = s truth' + o (both demeaned) and the correlation c of map and truth:
`detrended_nrmse` multiplies the map by s, as the challenge's released code does, and so depends on the map's scale; QSM-CI (`qsm_ci.py`) divides it
by s, which gives 100 sqrt(1 / c^2 - 1); `detrended_nrmse_v0` fits the truth to the map, the least error that any line can give, 100 sqrt(1 - c^2).
"""

import numpy as np

from qsmdl.challenge.volumes import Mask, Volume, mean_of


def fit_line(x: Volume, y: Volume) -> tuple[float, float]:
    """Least-squares (slope, offset) of y = slope x + offset; a constant x gives slope 0 and the mean of y."""
    x_mean, y_mean = mean_of(x), mean_of(y)
    dx = x - x_mean
    variance = float(dx @ dx)
    slope = float(dx @ (y - y_mean)) / variance if variance > 0 else 0.0
    return slope, y_mean - slope * x_mean


def _relative_norm(difference: Volume, reference: Volume) -> float | None:
    norm = float(np.linalg.norm(reference))
    return 100 * float(np.linalg.norm(difference)) / norm if norm > 0 else None


def demeaned_inside(recon: Volume, truth: Volume, region: Mask) -> tuple[Volume, Volume] | None:
    """The values [voxel] of both maps in the region less their means; None for an empty region."""
    if not region.any():
        return None
    r, t = recon[region], truth[region]
    return r - mean_of(r), t - mean_of(t)


def nrmse(recon: Volume, truth: Volume, region: Mask) -> float | None:
    """100 |r' - t'| / |t'|, both demeaned in the region. None for an empty region or a constant truth."""
    pair = demeaned_inside(recon, truth, region)
    return None if pair is None else _relative_norm(pair[0] - pair[1], pair[1])


def detrended_nrmse(recon: Volume, truth: Volume, region: Mask) -> float | None:
    """The evaluator's detrending: fit r' = s t' + o, then 100 |s r' + o - t'| / |t'|.

    The slope is applied forwards, not inverted; that is what the released code does. None for an empty region or a constant truth.
    """
    pair = demeaned_inside(recon, truth, region)
    if pair is None:
        return None
    r, t = pair
    slope, offset = fit_line(t, r)
    return _relative_norm(slope * r + offset - t, t)


def detrended_nrmse_v0(recon: Volume, truth: Volume, region: Mask) -> float | None:
    """Detrending by the line that fits the truth best: t' = s r' + o. Never larger than `nrmse`. None as there."""
    pair = demeaned_inside(recon, truth, region)
    if pair is None:
        return None
    r, t = pair
    slope, offset = fit_line(r, t)
    return _relative_norm(slope * r + offset - t, t)
