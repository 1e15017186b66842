"""The metrics of the QSM Reconstruction Challenge 2.0 and their companions, in any dialect.

Source: QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021;86:1241-1255, and the evaluation code published with it. Everything is computed
in float64 on maps in ppm; NaN and Inf of a reconstruction count as 0.
"""

import logging
from typing import Any, NamedTuple

import numpy as np

from qsmdl.challenge.dialects import DIALECTS, find_dialect
from qsmdl.challenge.regions import blood_region, slope_deviation
from qsmdl.challenge.regression import detrended_nrmse, detrended_nrmse_v0, nrmse
from qsmdl.challenge.volumes import BLOOD, DEEP_GREY_MATTER, TISSUE, Labels, Scores, Vector, Volumes, as_volumes
from qsmdl.scan import LABELS

__all__ = [
    "ADDITIONAL_METRICS",
    "DEEP_GREY_MATTER",
    "DIALECTS",
    "METRICS",
    "Metric",
    "Scores",
    "TISSUE",
    "blood_region",
    "detrended_nrmse",
    "detrended_nrmse_v0",
    "nrmse",
    "score",
    "score_dialects",
    "slope_deviation",
]

logger = logging.getLogger(__name__)


class Metric(NamedTuple):
    """paper: its name there; short: a column heading; unit: "%", "1", "ppm voxel", "nat"; lower_is_better; sim2_only: averages take Sim2 alone."""

    paper: str
    short: str
    unit: str
    lower_is_better: bool = True
    sim2_only: bool = False


METRICS: dict[str, Metric] = {
    "rmse": Metric("NRMSE", "NRMSE", "%"),
    "rmse_detrend": Metric("dNRMSE", "dNRMSE", "%"),
    "rmse_detrend_Tissue": Metric("dNRMSE Tissue", "Tissue", "%"),
    "rmse_detrend_Blood": Metric("dNRMSE Blood", "Blood", "%"),
    "rmse_detrend_DGM": Metric("dNRMSE DeepGM", "DeepGM", "%"),
    "DeviationFromLinearSlope": Metric("Deviation from linear slope", "Slope", "1"),
    "CalcStreak": Metric("Calcification streaking", "Streak", "1", sim2_only=True),
    "DeviationFromCalcMoment": Metric("Deviation from calcification moment", "Moment", "ppm voxel", sim2_only=True),
}
"""The official eight, in the order of the paper's Table 1; `score` returns two more: rmse_detrend_v0 and CalcMoment."""

ADDITIONAL_METRICS: dict[str, Metric] = {
    "SSIM": Metric("Structural similarity", "SSIM", "1", lower_is_better=False),
    "XSIM": Metric("Structural similarity for QSM", "XSIM", "1", lower_is_better=False),
    "HFEN": Metric("High-frequency error norm", "HFEN", "%"),
    "CC": Metric("Correlation coefficient", "CC", "1", lower_is_better=False),
    "MI": Metric("Mutual information", "MI", "nat", lower_is_better=False),
    "MAD": Metric("Mean absolute difference", "MAD", "%"),
    "GXE": Metric("Gradient error", "GXE", "%"),
    "ConeError": Metric("k-space error on the magic-angle cone", "Cone", "%"),
}
"""The challenge's seven additional metrics, and the error on the cone (`kspace.py`)."""


def _warn_of_missing(labels: Labels) -> None:
    present = set(np.unique(labels).tolist())
    missing = [name for name, label in LABELS.items() if label in (*DEEP_GREY_MATTER, BLOOD) and label not in present]
    if missing:
        logger.warning("The segmentation lacks %s: the metrics that need them are undefined.", ", ".join(missing))


def _scores(volumes: Volumes, dialect: str, additional: bool) -> Scores:
    computing = find_dialect(dialect)
    scores = computing.official(volumes)
    return scores | computing.further(volumes) if additional else scores


def score_dialects(
    recon: Any,
    truth: Any,
    mask: Any,
    segmentation: Any,
    *,
    dialects: tuple[str, ...] = DIALECTS,
    additional: bool = False,
    voxel_size_mm: Vector = (1.0, 1.0, 1.0),
    b0_direction: Vector = (0.0, 0.0, 1.0),
) -> dict[str, Scores]:
    """`score` in several dialects at once, {dialect: scores}; all have the same keys."""
    for dialect in dialects:
        find_dialect(dialect)
    volumes = as_volumes(recon, truth, mask, segmentation, voxel_size_mm=voxel_size_mm, b0_direction=b0_direction)
    _warn_of_missing(volumes.labels)
    return {dialect: _scores(volumes, dialect, additional) for dialect in dialects}


def score(
    recon: Any,
    truth: Any,
    mask: Any,
    segmentation: Any,
    *,
    dialect: str = "rc2",
    additional: bool = False,
    voxel_size_mm: Vector = (1.0, 1.0, 1.0),
    b0_direction: Vector = (0.0, 0.0, 1.0),
) -> Scores:
    """The metrics of a reconstruction, keyed as in the released evaluation code: `METRICS`, rmse_detrend_v0 and CalcMoment, and with `additional`
    those of `ADDITIONAL_METRICS`. The keys are the same in all dialects.

    recon, truth: [x, y, z] in ppm (arrays or CPU tensors); mask: [x, y, z], inside where non-zero; segmentation: [x, y, z], labels as in
    `scan.LABELS`; dialect: one of `DIALECTS`; voxel_size_mm and b0_direction (unit vector in voxel axes): of the grid, for ConeError alone.
    An undefined metric is None: no calcification in the truth (Sim1), a region without voxels, or one that the dialect does not have.
    Any map is scored, a diverged one too; `plausibility.check_units` tells whether maps of strangers are in ppm.
    Raises InputError: shapes that differ, an empty mask, NaN or Inf in the truth, a segmentation without whole numbers or without any label inside
    the mask, an unknown dialect.
    """
    found = score_dialects(
        recon,
        truth,
        mask,
        segmentation,
        dialects=(dialect,),
        additional=additional,
        voxel_size_mm=voxel_size_mm,
        b0_direction=b0_direction,
    )
    return found[dialect]
