"""What every metric works on: a map, its truth, the mask and the labels as float64, bool and whole numbers on one grid."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsmdl.errors import InputError
from qsmdl.scan import DEEP_GREY_MATTER as DEEP_GREY_MATTER
from qsmdl.scan import LABELS

Volume = NDArray[np.float64]
Mask = NDArray[np.bool_]
Labels = NDArray[np.integer[Any]]
Vector = tuple[float, float, float]
Box = tuple[slice, slice, slice]
Scores = dict[str, float | None]

TISSUE = (LABELS["thalamus"], LABELS["white_matter"], LABELS["grey_matter"])
BLOOD, CALCIFICATION = LABELS["blood"], LABELS["calcification"]


def mean_of(values: Volume) -> float:
    """The mean, exactly the value where all are equal: rounding there would otherwise pass for contrast, in maps and truths that have none."""
    low = float(values.min())
    return low if low == float(values.max()) else float(values.mean())


@dataclass(frozen=True, eq=False, slots=True)
class Volumes:
    """recon, truth [x, y, z] in ppm, float64 and finite; mask bool with at least one voxel; labels whole (`scan.LABELS`, 0 nowhere).

    voxel_size_mm and b0_direction (a unit vector in voxel axes) matter to the metrics in k-space alone.
    """

    recon: Volume
    truth: Volume
    mask: Mask
    labels: Labels
    voxel_size_mm: Vector = (1.0, 1.0, 1.0)
    b0_direction: Vector = (0.0, 0.0, 1.0)

    def masked(self) -> "Volumes":
        """The same with both maps 0 outside the mask."""
        return replace(self, recon=self.recon * self.mask, truth=self.truth * self.mask)

    def demeaned(self) -> "Volumes":
        """The same with both maps' means inside the mask removed, and 0 outside."""
        recon, truth = ((v - mean_of(v[self.mask])) * self.mask for v in (self.recon, self.truth))
        return replace(self, recon=recon, truth=truth)

    def box(self, margin: int) -> Box:
        """The mask's bounding box, grown by a margin and clipped to the volume: beyond it masked maps are 0."""
        return bounding_box(self.mask, margin)


def bounding_box(region: Mask, margin: int) -> Box:
    """The smallest box around a region that is not empty, grown by a margin on all sides and clipped to the volume."""
    spans = []
    for axis, n in enumerate(region.shape):
        hit = np.flatnonzero(region.any(axis=tuple(a for a in range(3) if a != axis)))
        spans.append(slice(max(int(hit[0]) - margin, 0), min(int(hit[-1]) + margin + 1, n)))
    return spans[0], spans[1], spans[2]


def _check_shapes(arrays: dict[str, NDArray[Any]]) -> None:
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or len(shapes["recon"]) != 3:
        raise InputError(f"The shapes differ or are not 3-D: {shapes}. Scoring compares voxel by voxel: bring all volumes onto the truth's grid.")


def _as_labels(segmentation: NDArray[Any], mask: Mask) -> Labels:
    if segmentation.dtype.kind == "f":
        whole = np.rint(segmentation)
        if not np.isfinite(segmentation).all() or float(np.abs(whole - segmentation).max()) > 0.01:
            raise InputError(
                "The segmentation holds values that are not whole numbers, so it was interpolated or is no segmentation. "
                "Resample labels with nearest neighbours."
            )
        segmentation = whole.astype(np.int32)
    found = np.unique(segmentation[mask])
    if not np.isin(found, list(LABELS.values())).any():
        raise InputError(
            f"The segmentation holds none of the labels {min(LABELS.values())} to {max(LABELS.values())} inside the mask "
            f"(found: {found[:8].tolist()}), so regions cannot be scored. Check that it belongs to this scan."
        )
    return segmentation


def as_volumes(
    recon: Any, truth: Any, mask: Any, segmentation: Any, *, voxel_size_mm: Vector = (1.0, 1.0, 1.0), b0_direction: Vector = (0.0, 0.0, 1.0)
) -> Volumes:
    """Arrays or CPU tensors as `Volumes`; NaN and Inf of the reconstruction become 0, as in the challenge.

    Raises InputError: shapes that differ, an empty mask, NaN or Inf in the truth, a segmentation without whole numbers or without any label inside
    the mask, voxel sizes that are not positive.
    """
    if not all(math.isfinite(size) and size > 0 for size in voxel_size_mm):
        raise InputError(f"The voxels are {voxel_size_mm} mm; every entry must be positive and finite. Repair pixdim in the truth's header.")
    r, t, labels = np.asarray(recon, dtype=np.float64), np.asarray(truth, dtype=np.float64), np.asarray(segmentation)
    m = np.asarray(mask) != 0
    _check_shapes({"recon": r, "truth": t, "mask": m, "segmentation": labels})
    if not m.any():
        raise InputError("The mask is empty, so there is nothing to score. Use the scan's MaskBrainExtracted.")
    if not np.isfinite(t).all():
        raise InputError(f"The truth holds {int((~np.isfinite(t)).sum())} NaN or infinite values. Repair the truth or set them to 0.")
    if not np.isfinite(r).all():
        r = np.nan_to_num(r, nan=0.0, posinf=0.0, neginf=0.0)
    return Volumes(r, t, m, _as_labels(labels, m), voxel_size_mm, b0_direction)
