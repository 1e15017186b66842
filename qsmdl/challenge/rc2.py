"""Dialect "rc2": what the evaluation code released with the QSM Reconstruction Challenge 2.0 computes (Magn Reson Med 2021;86:1241-1255).

Where code and paper differ the code is followed: published scores were made with it.
"""

import numpy as np

from qsmdl.challenge import additional
from qsmdl.challenge.calcification import calcification_metrics
from qsmdl.challenge.kspace import cone_error
from qsmdl.challenge.regions import blood_region, slope_deviation
from qsmdl.challenge.regression import detrended_nrmse, detrended_nrmse_v0, nrmse
from qsmdl.challenge.volumes import CALCIFICATION, DEEP_GREY_MATTER, TISSUE, Scores, Volumes


def official(v: Volumes) -> Scores:
    """The eight official metrics, with rmse_detrend_v0 and CalcMoment."""
    r, t, m, labels = v.recon, v.truth, v.mask, v.labels
    scores: Scores = {
        "rmse": nrmse(r, t, m),
        "rmse_detrend": detrended_nrmse(r, t, m),
        "rmse_detrend_v0": detrended_nrmse_v0(r, t, m),
        "rmse_detrend_Tissue": detrended_nrmse(r, t, m & np.isin(labels, TISSUE)),
        "rmse_detrend_Blood": detrended_nrmse(r, t, blood_region(m, labels)),
        # label 0 counts too, as in the released code
        "rmse_detrend_DGM": detrended_nrmse(r, t, m & (labels <= DEEP_GREY_MATTER[-1])),
        "DeviationFromLinearSlope": slope_deviation(r, t, labels),
    }
    return scores | calcification_metrics(r, t, labels == CALCIFICATION)


def further(v: Volumes) -> Scores:
    """The seven additional metrics, on masked maps over the whole volume, and the error on the cone."""
    masked = v.masked()
    return {
        "SSIM": additional.ssim(masked),
        "XSIM": additional.xsim(masked),
        "HFEN": additional.hfen(masked),
        "CC": additional.correlation(masked.recon, masked.truth),
        "MI": additional.mutual_information(masked.recon, masked.truth),
        "MAD": additional.absolute_difference(masked),
        "GXE": additional.gradient_error(masked),
        "ConeError": cone_error(v),
    }
