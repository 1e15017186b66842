"""Whether predicted uncertainties are as large as the errors that they predict (Levi et al., arXiv:1905.11659, 2019)."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from qsmdl.errors import InputError


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """The voxels whose predicted standard deviation lies from low_ppm up to high_ppm.

    n_voxels; mean_predicted_ppm: mean of the prediction; rms_error_ppm: root mean square of the error, which should equal it; coverage_1 and
    coverage_2: share of the voxels whose error is at most one and two predicted standard deviations (0.683 and 0.954 for normal errors).
    """

    low_ppm: float
    high_ppm: float
    n_voxels: int
    mean_predicted_ppm: float
    rms_error_ppm: float
    coverage_1: float
    coverage_2: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """bins: by quantiles of the prediction, ascending; whole: all voxels as one bin; factor: what predictions would have to be multiplied by to have
    the errors' size on the whole, sqrt(<error^2> / <prediction^2>).
    """

    bins: tuple[CalibrationBin, ...]
    whole: CalibrationBin
    factor: float


def _bin(error: Tensor, predicted: Tensor) -> CalibrationBin:
    """Of errors and predictions [voxel], the predictions ascending."""
    inside = error.abs()
    return CalibrationBin(
        float(predicted[0]),
        float(predicted[-1]),
        len(error),
        float(predicted.mean()),
        float(error.square().mean().sqrt()),
        float((inside <= predicted).double().mean()),
        float((inside <= 2 * predicted).double().mean()),
    )


def _inside(error_ppm: Tensor, predicted_ppm: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    if not error_ppm.shape == predicted_ppm.shape == mask.shape:
        raise InputError(
            f"error, predicted and mask have the shapes {tuple(error_ppm.shape)}, {tuple(predicted_ppm.shape)} and {tuple(mask.shape)}; all three "
            "must lie on one grid."
        )
    error, predicted = error_ppm[mask].double(), predicted_ppm[mask].double()
    if not bool(torch.isfinite(error).all() & torch.isfinite(predicted).all() & (predicted >= 0).all()):
        raise InputError("error or predicted holds NaN, infinite or negative standard deviations inside the mask. Every voxel needs a value.")
    return error, predicted


def calibrate(maps: Iterable[tuple[Tensor, Tensor, Tensor]], n_bins: int = 10) -> Calibration:
    """The calibration of uncertainties over the voxels of one or more maps taken together.

    maps: of each map error_ppm (reconstruction minus truth), predicted_ppm (its standard deviation) and mask, all [x, y, z]. A susceptibility map has
    no reference: take the mean of the error in the mask off first, as the metrics do. n_bins: with the same number of voxels in each, but for one;
    equal predictions may be spread over two.

    Raises InputError for shapes that differ, values that are not finite, negative predictions, fewer voxels than bins, and predictions that are all
    0.
    """
    parts = [_inside(*one) for one in maps]
    n = sum(len(error) for error, _ in parts)
    if isinstance(n_bins, bool) or not isinstance(n_bins, int) or not 1 <= n_bins <= n:
        raise InputError(f"n_bins is {n_bins!r} for {n} voxels; it must be a whole number from 1 up to the number of voxels.")
    error, predicted = (torch.cat(values) for values in zip(*parts, strict=True))
    predicted, order = predicted.sort()
    error = error[order]
    if not float(predicted[-1]) > 0:
        raise InputError("The predicted standard deviation is 0 in every voxel: nothing was predicted. Give an ensemble of several members.")
    bounds = [round(i * n / n_bins) for i in range(n_bins + 1)]
    bins = tuple(_bin(error[a:b], predicted[a:b]) for a, b in itertools.pairwise(bounds))
    factor = math.sqrt(float(error.square().sum() / predicted.square().sum()))
    return Calibration(bins, _bin(error, predicted), factor)
