"""The two calcification metrics of the QSM Reconstruction Challenge 2.0, which its second simulation defines.

Source: QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021;86:1241-1255, and the evaluation code published with it.
"""

import numpy as np
from numpy.typing import NDArray

from qsmdl.challenge.regression import fit_line

Volume = NDArray[np.float64]
Mask = NDArray[np.bool_]
Box = tuple[slice, slice, slice]

BOX_MARGIN, RIM_WIDTH, GUARD_WIDTH = 3, 4, 8
"""Voxels: the box around the calcification, the rim in which streaks are measured, the guard zone that must stay above the threshold."""
THRESHOLDS_PPM = tuple(-i / 100 for i in range(151))


def bounding_box(region: Mask, margin: int) -> Box:
    """The smallest box around a region that is not empty, grown by a margin on all sides and clipped to the volume."""
    x, y, z = (slice(max(int(i.min()) - margin, 0), min(int(i.max()) + margin + 1, n)) for i, n in zip(np.nonzero(region), region.shape, strict=True))
    return x, y, z


def _shell(shape: tuple[int, ...], outer: Box, inner: Box) -> Mask:
    shell = np.zeros(shape, dtype=bool)
    shell[outer] = True
    shell[inner] = False
    return shell


def segmented_calcification(chi_ppm: Volume, calcification: Mask) -> Volume:
    """The values (ppm) of the calcification as it appears in a map, which need not coincide with its label.

    It is made of the voxels in the box below the first threshold 0, -0.01, ..., -1.5 ppm that no voxel of the guard zone around the box falls
    below; where
    none is such, below the last.
    """
    box = bounding_box(calcification, BOX_MARGIN)
    guard = _shell(calcification.shape, bounding_box(calcification, BOX_MARGIN + GUARD_WIDTH), box)
    lowest = float(chi_ppm[guard].min()) if guard.any() else 0.0
    threshold = next((t for t in THRESHOLDS_PPM if lowest >= t), THRESHOLDS_PPM[-1])
    inside = chi_ppm[box]
    return inside[inside < threshold]


def _moment(values: Volume) -> float:
    """Count times mean, in ppm * voxel; 0 where nothing was segmented."""
    return float(values.sum())


def _streaking(recon: Volume, truth: Volume, calcification: Mask, values: Volume) -> float | None:
    box = bounding_box(calcification, BOX_MARGIN)
    rim = _shell(calcification.shape, bounding_box(calcification, BOX_MARGIN + RIM_WIDTH), box)
    if values.size == 0 or int(rim.sum()) < 2:
        return None
    slope, offset = fit_line(truth[rim], recon[rim])
    residual = recon[rim] - slope * truth[rim] - offset
    return float(residual.std(ddof=1)) / abs(float(values.mean()))


def calcification_metrics(recon: Volume, truth: Volume, calcification: Mask) -> dict[str, float | None]:
    """CalcStreak, CalcMoment (ppm * voxel) and DeviationFromCalcMoment (ppm * voxel); all None where the truth holds no calcification.

    recon, truth: [x, y, z] in ppm; calcification: where the segmentation has label 16. CalcStreak is None too where the map shows no calcification
    at all.
    """
    if not calcification.any():
        return {"CalcStreak": None, "CalcMoment": None, "DeviationFromCalcMoment": None}
    values = segmented_calcification(recon, calcification)
    moment = _moment(values)
    return {
        "CalcStreak": _streaking(recon, truth, calcification, values),
        "CalcMoment": moment,
        "DeviationFromCalcMoment": abs(_moment(segmented_calcification(truth, calcification)) - moment),
    }
