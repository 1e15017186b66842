"""The eight official metrics of the QSM Reconstruction Challenge 2.0, as its released evaluation code computes them.

Source: QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021;86:1241-1255, and the evaluation code published with it. Where the two
differ, the
code is followed. Everything is computed in float64 on maps in ppm; NaN and Inf of a reconstruction count as 0.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from qsmdl.challenge.calcification import calcification_metrics
from qsmdl.challenge.regression import fit_line
from qsmdl.errors import InputError
from qsmdl.scan import LABELS

logger = logging.getLogger(__name__)

Volume = NDArray[np.float64]
Mask = NDArray[np.bool_]
Scores = dict[str, float | None]


class Metric(NamedTuple):
    """paper: the name in the paper; short: a column heading; unit: "%", "1", "ppm voxel"; lower_is_better; sim2_only: averages take Sim2 alone."""

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

DEEP_GREY_MATTER = (1, 2, 3, 4, 5, 6)
TISSUE = (LABELS["thalamus"], LABELS["white_matter"], LABELS["grey_matter"])


def _relative_norm(difference: Volume, reference: Volume) -> float | None:
    norm = float(np.linalg.norm(reference))
    return 100 * float(np.linalg.norm(difference)) / norm if norm > 0 else None


def _demeaned(recon: Volume, truth: Volume, region: Mask) -> tuple[Volume, Volume] | None:
    if not region.any():
        return None
    r, t = recon[region], truth[region]
    return r - r.mean(), t - t.mean()


def nrmse(recon: Volume, truth: Volume, region: Mask) -> float | None:
    """100 |r' - t'| / |t'|, both demeaned in the region. None for an empty region or a constant truth."""
    pair = _demeaned(recon, truth, region)
    return None if pair is None else _relative_norm(pair[0] - pair[1], pair[1])


def detrended_nrmse(recon: Volume, truth: Volume, region: Mask) -> float | None:
    """The evaluator's detrending: fit r' = s t' + o, then 100 |s r' + o - t'| / |t'|.

    The slope is applied forwards, not inverted; that is what the released code does. None for an empty region or a constant truth.
    """
    pair = _demeaned(recon, truth, region)
    if pair is None:
        return None
    r, t = pair
    slope, offset = fit_line(t, r)
    return _relative_norm(slope * r + offset - t, t)


def detrended_nrmse_v0(recon: Volume, truth: Volume, region: Mask) -> float | None:
    """The dialect that fits t' on r' and applies that line; never above the NRMSE. None for an empty region or a constant truth."""
    pair = _demeaned(recon, truth, region)
    if pair is None:
        return None
    r, t = pair
    slope, offset = fit_line(r, t)
    return _relative_norm(slope * r + offset - t, t)


def slope_deviation(recon: Volume, truth: Volume, labels: NDArray[np.integer[Any]]) -> float | None:
    """|1 - slope| of the line through the means of the six deep grey matter regions (whole labels, unmasked). None where one of them is missing."""
    regions = [labels == label for label in DEEP_GREY_MATTER]
    if not all(region.any() for region in regions):
        return None
    slope, _ = fit_line(np.array([truth[r].mean() for r in regions]), np.array([recon[r].mean() for r in regions]))
    return abs(1 - slope)


def blood_region(mask: Mask, labels: NDArray[np.integer[Any]]) -> Mask:
    """Blood inside the mask, dilated once by a 3 x 3 x 3 cube and not masked again."""
    region: Mask = binary_dilation(mask & (labels == LABELS["blood"]), structure=np.ones((3, 3, 3), dtype=bool))
    return region


def _check_shapes(arrays: dict[str, NDArray[Any]]) -> None:
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or len(shapes["recon"]) != 3:
        raise InputError(f"The shapes differ or are not 3-D: {shapes}. Scoring compares voxel by voxel: bring all volumes onto the truth's grid.")


def _check_labels(labels: NDArray[np.integer[Any]], mask: Mask) -> None:
    if not np.isin(labels[mask], list(LABELS.values())).any():
        raise InputError(
            f"The segmentation holds none of the labels {min(LABELS.values())} to {max(LABELS.values())} inside the mask "
            f"(found: {np.unique(labels[mask])[:8].tolist()}), so regions cannot be scored. Check that it belongs to this scan."
        )
    present = set(np.unique(labels).tolist())
    needed: Sequence[int] = (*DEEP_GREY_MATTER, LABELS["blood"])
    missing = [name for name, label in LABELS.items() if label in needed and label not in present]
    if missing:
        logger.warning("The segmentation lacks %s: the metrics that need them are undefined.", ", ".join(missing))


def score(recon: Any, truth: Any, mask: Any, segmentation: Any) -> Scores:
    """The official metrics of a reconstruction, keyed as in the released evaluation code (`METRICS`), with rmse_detrend_v0 and CalcMoment besides.

    recon, truth: [x, y, z] in ppm (arrays or CPU tensors); mask: [x, y, z], inside where non-zero; segmentation: [x, y, z], labels as in
    `scan.LABELS`.
    An undefined metric is None: no calcification in the truth (Sim1), or a region without voxels.
    Raises InputError: shapes that differ, an empty mask, NaN or Inf in the truth, a segmentation without any label inside the mask.
    """
    r, t, labels = np.asarray(recon, dtype=np.float64), np.asarray(truth, dtype=np.float64), np.asarray(segmentation)
    m = np.asarray(mask) != 0
    _check_shapes({"recon": r, "truth": t, "mask": m, "segmentation": labels})
    if not m.any():
        raise InputError("The mask is empty, so there is nothing to score. Use the scan's MaskBrainExtracted.")
    if not np.isfinite(t).all():
        raise InputError(f"The truth holds {int((~np.isfinite(t)).sum())} NaN or infinite values. Repair the truth or set them to 0.")
    _check_labels(labels, m)
    r = np.nan_to_num(r, nan=0.0, posinf=0.0, neginf=0.0)
    scores: Scores = {
        "rmse": nrmse(r, t, m),
        "rmse_detrend": detrended_nrmse(r, t, m),
        "rmse_detrend_v0": detrended_nrmse_v0(r, t, m),
        "rmse_detrend_Tissue": detrended_nrmse(r, t, m & np.isin(labels, TISSUE)),
        "rmse_detrend_Blood": detrended_nrmse(r, t, blood_region(m, labels)),
        # label 0 counts too, as in the released code
        "rmse_detrend_DGM": detrended_nrmse(r, t, m & (labels < LABELS["thalamus"])),
        "DeviationFromLinearSlope": slope_deviation(r, t, labels),
    }
    return scores | calcification_metrics(r, t, labels == LABELS["calcification"])
