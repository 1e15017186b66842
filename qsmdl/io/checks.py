"""Checks on volumes as they enter, each naming the file at fault."""

import logging
import math
from pathlib import Path

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.plausible import ABSURD_LOCAL_PPM, LARGEST_LOCAL_PPM, looks_wrapped, upper_percentile

logger = logging.getLogger(__name__)

_PHASE_TOLERANCE_RAD = 0.01
"""Room for phase stored as scaled integers and for a float32 pi."""
_SMALLEST_LOCAL_PPM = 0.005
"""Below this 99.9th percentile a local field of a head is doubtful."""


def check_same_grid(reference: Path, expected: tuple[int, ...], path: Path, shape: tuple[int, ...]) -> None:
    """Raises InputError naming both files where the first three axes differ."""
    if tuple(shape[:3]) != tuple(expected[:3]):
        raise InputError(
            f"{path} has the shape {tuple(shape)}, but {reference} has {tuple(expected)}; all volumes of one scan must lie on one grid. "
            "Check that both belong to the same scan, or resample one."
        )


def as_mask(path: Path, volume: Tensor) -> Tensor:
    """The voxels above 0, as bool. Raises InputError naming the file where no voxel is inside."""
    mask = volume > 0
    if not bool(mask.any()):
        raise InputError(f"The mask {path} is empty: no voxel is above 0. Make a brain mask for this scan, or check that the right file was named.")
    return mask


def finite_inside(path: Path, volume: Tensor, mask: Tensor) -> Tensor:
    """The volume [..., x, y, z] with NaN and Inf outside the mask set to 0. Raises InputError naming the file where one lies inside the mask."""
    finite = torch.isfinite(volume)
    if bool(finite.all()):
        return volume
    bad = ~finite & mask
    if bool(bad.any()):
        where = tuple(int(i) for i in bad.nonzero()[0])
        raise InputError(
            f"{path} holds {int(bad.sum())} NaN or infinite values inside the mask, the first at index {where}. "
            "Every voxel of the mask needs a finite value: shrink the mask or repair the file."
        )
    return torch.where(finite, volume, torch.zeros_like(volume))


def check_phase_range(path: Path, phase_rad: Tensor, mask: Tensor) -> None:
    """Raises InputError naming the file and the range found where phase inside the mask leaves [-pi, pi] by more than rounding."""
    inside = phase_rad[..., mask]
    low, high = float(inside.min()), float(inside.max())
    if low < -math.pi - _PHASE_TOLERANCE_RAD or high > math.pi + _PHASE_TOLERANCE_RAD:
        raise InputError(
            f"{path} ranges from {low:.6g} to {high:.6g} inside the mask, but wrapped phase in rad lies between -pi and pi. "
            "Scanner integers become rad by 2 pi (value - lowest) / (number of levels) - pi, "
            "e.g. value / 4096 * pi for -4096..4095, or value / 4096 * 2 pi - pi for 0..4095; "
            "phase in 0..2 pi and unwrapped phase become so by angle(exp(i phase))."
        )


def check_units(path: Path, field_ppm: Tensor, mask: Tensor, hz_per_ppm: float, units: str) -> None:
    """Looks whether the units of a local field were mistaken: Hz taken as ppm, ppm taken as Hz, a total field taken as a local one.

    Raises InputError, naming the file, where the field is too large for any head; logs a warning where it is only doubtful.
    """
    largest = upper_percentile(field_ppm[mask])
    read = f"{path}, read as {units}: the 99.9th percentile of |field| is"
    if largest > LARGEST_LOCAL_PPM:
        remedy = (
            f"{read} {largest:.4g} ppm, but local fields stay below about {LARGEST_LOCAL_PPM:g} ppm. If the file holds Hz, say so: 1 ppm is "
            f"{hz_per_ppm:.2f} Hz, and it becomes {largest / hz_per_ppm:.4g} ppm. If it holds the total field, remove the background first."
        )
        if largest > ABSURD_LOCAL_PPM:
            raise InputError(remedy)
        logger.warning("%s", remedy)
    elif largest < _SMALLEST_LOCAL_PPM:
        logger.warning(
            "%s only %.4g ppm, but heads reach at least about 0.02 ppm. If the file holds ppm, say so: 1 ppm is %.2f Hz, and it becomes %.4g ppm.",
            read, largest, hz_per_ppm, largest * hz_per_ppm,
        )  # fmt: skip


def check_not_wrapped(path: Path, values: Tensor, mask: Tensor, units: str) -> None:
    """Raises InputError naming the file where a field's values, in whatever units, end at -pi and pi."""
    if looks_wrapped(values[mask]):
        raise InputError(
            f"{path}, read as {units}, runs from -pi to pi and ends there: this looks like a wrapped phase in rad. Unwrap it and remove the "
            "background (then --units rad with its echo time will do), or give the scan with its echoes."
        )
