"""Dialect "corrected": the metrics that the paper of the QSM Reconstruction Challenge 2.0 names, without the slips of the released code.

What differs from "rc2", and why:

- Detrending fits the truth to the map (v0). The released code fits the map to the truth and then multiplies by the slope where it should divide; the
  paper means an error that a global scale and offset cannot cause, and the line that leaves the least of it is the one fitted to the truth.
- Every region lies inside the brain mask. The released code measures dilated blood and the nuclei's means beyond it, where a map is 0 by agreement
  and where the scan holds no signal.
- Deep grey matter is the six nuclei of the paper, labels 1 to 6. In the released code label 0 counts as well.
- The slope stays the one of the map's means over the truth's: the truth carries no noise, so this direction is the unbiased one.
- The calcification is segmented in map and truth alike, so that a perfect map has no error, and its threshold may sink as low as the streaks around
  it demand; the released code stops at -1.5 ppm and then counts streaks as calcification. The maps are 0 outside the mask.
- The additional metrics are taken inside the mask on maps demeaned there: the mean of a susceptibility map cannot be observed, and the air around a
  head makes correlations look better. The gradient error takes all three axes.
"""

import numpy as np

from qsmdl.challenge import additional
from qsmdl.challenge.calcification import calcification_metrics
from qsmdl.challenge.kspace import cone_error
from qsmdl.challenge.regions import blood_region, slope_deviation
from qsmdl.challenge.regression import detrended_nrmse_v0, nrmse
from qsmdl.challenge.volumes import CALCIFICATION, DEEP_GREY_MATTER, TISSUE, Scores, Volumes


def official(v: Volumes) -> Scores:
    """The eight official metrics, with rmse_detrend_v0 (here the same as rmse_detrend) and CalcMoment."""
    r, t, m = v.recon, v.truth, v.mask
    inside = np.where(m, v.labels, 0)
    detrended = detrended_nrmse_v0(r, t, m)
    scores: Scores = {
        "rmse": nrmse(r, t, m),
        "rmse_detrend": detrended,
        "rmse_detrend_v0": detrended,
        "rmse_detrend_Tissue": detrended_nrmse_v0(r, t, np.isin(inside, TISSUE)),
        "rmse_detrend_Blood": detrended_nrmse_v0(r, t, blood_region(m, inside) & m),
        "rmse_detrend_DGM": detrended_nrmse_v0(r, t, np.isin(inside, DEEP_GREY_MATTER)),
        "DeviationFromLinearSlope": slope_deviation(r, t, inside),
    }
    masked = v.masked()
    return scores | calcification_metrics(masked.recon, masked.truth, inside == CALCIFICATION, limit_ppm=-np.inf)


def further(v: Volumes) -> Scores:
    """The seven additional metrics inside the mask, on demeaned maps, and the error on the cone."""
    demeaned = v.demeaned()
    r, t = demeaned.recon[v.mask], demeaned.truth[v.mask]
    return {
        "SSIM": additional.ssim(demeaned, over_mask=True),
        "XSIM": additional.xsim(demeaned),
        "HFEN": additional.hfen(demeaned, over_mask=True),
        "CC": additional.correlation(r, t),
        "MI": additional.mutual_information(r, t),
        "MAD": additional.absolute_difference(demeaned),
        "GXE": additional.gradient_error_inside(demeaned),
        "ConeError": cone_error(v),
    }
