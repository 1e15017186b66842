"""The two calcification metrics of the QSM Reconstruction Challenge 2.0, which its second simulation defines.

Source: QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021;86:1241-1255, and the evaluation code published with it.
"""

import math

import numpy as np

from qsmdl.challenge.regression import fit_line
from qsmdl.challenge.volumes import Box, Mask, Volume, bounding_box

BOX_MARGIN, RIM_WIDTH, GUARD_WIDTH = 3, 4, 8
"""Voxels: the box around the calcification, the rim in which streaks are measured, the guard zone that must stay above the threshold."""
LOWEST_THRESHOLD_PPM = -1.5
"""Where the released code stops its search."""
_NO_HUNDREDTHS_PPM = -1e9
"""Below it, in maps that diverged, floating-point numbers are too far apart for steps of 0.01 to mean anything."""
UNDEFINED: dict[str, float | None] = {"CalcStreak": None, "CalcMoment": None, "DeviationFromCalcMoment": None}


def shell(shape: tuple[int, ...], outer: Box, inner: Box) -> Mask:
    """The voxels of the outer box that the inner one does not hold."""
    voxels = np.zeros(shape, dtype=bool)
    voxels[outer] = True
    voxels[inner] = False
    return voxels


def _threshold(lowest_ppm: float, limit_ppm: float) -> float:
    """The first of 0, -0.01, -0.02, ... that `lowest_ppm` does not lie below, but not below the limit."""
    if max(lowest_ppm, limit_ppm) < _NO_HUNDREDTHS_PPM:
        return max(lowest_ppm, limit_ppm)
    step = max(0, math.floor(-100 * max(lowest_ppm, limit_ppm)) - 1)
    while lowest_ppm < -step / 100 and -step / 100 > limit_ppm:
        step += 1
    return -step / 100


def segmented_calcification(chi_ppm: Volume, calcification: Mask, limit_ppm: float = LOWEST_THRESHOLD_PPM) -> Volume:
    """The values (ppm) of the calcification as it appears in a map, which need not coincide with its label.

    It is made of the voxels in the box below the first threshold 0, -0.01, ... ppm that no voxel of the guard zone around the box falls below; where
    none down to the limit is such, below the limit.
    """
    box = bounding_box(calcification, BOX_MARGIN)
    guard = shell(calcification.shape, bounding_box(calcification, BOX_MARGIN + GUARD_WIDTH), box)
    lowest = float(chi_ppm[guard].min()) if guard.any() else 0.0
    inside = chi_ppm[box]
    return inside[inside < _threshold(lowest, limit_ppm)]


def _moment(values: Volume) -> float:
    """Count times mean, in ppm * voxel; 0 where nothing was segmented."""
    return float(values.sum())


def _streaking(recon: Volume, truth: Volume, calcification: Mask, values: Volume) -> float | None:
    box = bounding_box(calcification, BOX_MARGIN)
    rim = shell(calcification.shape, bounding_box(calcification, BOX_MARGIN + RIM_WIDTH), box)
    if values.size == 0 or int(rim.sum()) < 2:
        return None
    slope, offset = fit_line(truth[rim], recon[rim])
    residual = recon[rim] - slope * truth[rim] - offset
    return float(residual.std(ddof=1)) / abs(float(values.mean()))


def calcification_metrics(
    recon: Volume, truth: Volume, calcification: Mask, limit_ppm: float = LOWEST_THRESHOLD_PPM
) -> dict[str, float | None]:
    """CalcStreak, CalcMoment (ppm * voxel) and DeviationFromCalcMoment (ppm * voxel); all None where the truth holds no calcification.

    recon, truth: [x, y, z] in ppm; calcification: where the segmentation has label 16; limit_ppm: see `segmented_calcification`. CalcStreak is None
    too where the map shows no calcification at all.
    """
    if not calcification.any():
        return dict(UNDEFINED)
    values = segmented_calcification(recon, calcification, limit_ppm)
    moment = _moment(values)
    return {
        "CalcStreak": _streaking(recon, truth, calcification, values),
        "CalcMoment": moment,
        "DeviationFromCalcMoment": abs(_moment(segmented_calcification(truth, calcification, limit_ppm)) - moment),
    }
