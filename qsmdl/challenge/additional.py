"""The seven additional metrics of the QSM Reconstruction Challenge 2.0: SSIM, XSIM, HFEN, CC, MI, MAD, GXE.

Source: QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021;86:1241-1255, and the evaluation code published with it. All work on maps in ppm
that are 0 outside the mask, in float64, and are None where undefined. Filters run on the mask's bounding box, which changes nothing: beyond it both
maps are 0, and so is what a filter sees beyond the box.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from qsmdl.challenge.volumes import Mask, Volume, Volumes, mean_of

SIGMA_VOXELS = 1.5
"""Of every Gaussian window here."""
_N_THREADS = 2
"""Filters of several volumes at once; scipy releases the interpreter's lock while it filters."""


def _gaussian(n: int) -> Volume:
    x = np.arange(n) - (n - 1) / 2
    window = np.exp(-(x**2) / (2 * SIGMA_VOXELS**2))
    normalised: Volume = window / window.sum()
    return normalised


def _separable(volume: Volume, kernels: Sequence[Volume]) -> Volume:
    """One kernel along each axis; zeros beyond the volume."""
    for axis, kernel in enumerate(kernels):
        volume = correlate1d(volume, kernel, axis=axis, mode="constant")
    return volume


def _smoothed(volumes: Sequence[Volume], kernel: Volume) -> list[Volume]:
    with ThreadPoolExecutor(_N_THREADS) as pool:
        return list(pool.map(lambda v: _separable(v, [kernel] * 3), volumes))


def similarity_map(a: Volume, b: Volume, kernel: Volume, c1: float, c2: float) -> Volume:
    """The structural similarity [x, y, z] of two volumes under a separable window (Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 2004;13:600-612)."""
    mean_a, mean_b, square_a, square_b, product = _smoothed([a, b, a * a, b * b, a * b], kernel)
    covariance = product - mean_a * mean_b
    variances = square_a - mean_a**2 + square_b - mean_b**2
    similarity: Volume = (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))
    return similarity


def ssim(v: Volumes, *, over_mask: bool = False) -> float | None:
    """SSIM: both maps shifted by their joint minimum where they are not 0, scaled to 0-255 by their joint maximum; Gaussian window of 5 x 5 x 5
    voxels, K = (0.01, 0.03), L = 255.

    The mean is taken where the shifted map is not 0, as in the released code, or over the mask. None for two maps without contrast.
    """
    low = min(float(v.recon.min()), float(v.truth.min()))
    box = v.box(0)
    recon, truth = (np.where(m != 0, m - low, 0.0) for m in (v.recon[box], v.truth[box]))
    top = max(float(recon.max()), float(truth.max()))
    where = v.mask[box] if over_mask else recon != 0
    if top <= 0 or not where.any():
        return None
    scaled = (255 / top * recon, 255 / top * truth)
    return float(similarity_map(*scaled, _gaussian(5), (0.01 * 255) ** 2, (0.03 * 255) ** 2)[where].mean())


def xsim(v: Volumes) -> float:
    """XSIM: SSIM of the maps in ppm, not rescaled; Gaussian window of 7 x 7 x 7 voxels, K = (0.01, 0.001), L = 1; mean over the mask (Milovic et al.,
    ISMRM 2019).
    """
    box = v.box(0)
    return float(similarity_map(v.recon[box], v.truth[box], _gaussian(7), 0.01**2, 0.001**2)[v.mask[box]].mean())


def _laplacian_of_gaussian(volume: Volume) -> Volume:
    """Zero-sum kernel of 15 x 15 x 15 voxels, as a sum of separable parts: h (r^2 / s^4 - 3 / s^2) less its mean, h the normalised Gaussian."""
    n, s = 15, SIGMA_VOXELS
    x = np.arange(n) - (n - 1) / 2
    g = _gaussian(n)
    bent = g * (x**2 / s**4 - 1 / s**2)
    flat = np.full(n, np.cbrt(3 * float(bent.sum()) / n**3))  # of three, one along each axis, the product is the kernel's mean
    along_x = correlate1d(volume, g, axis=0, mode="constant")
    both = correlate1d(along_x, g, axis=1, mode="constant")
    first = correlate1d(correlate1d(volume, bent, axis=0, mode="constant"), g, axis=1, mode="constant")
    first += correlate1d(along_x, bent, axis=1, mode="constant")
    result = correlate1d(first, g, axis=2, mode="constant") + correlate1d(both, bent, axis=2, mode="constant")
    filtered: Volume = result - _separable(volume, [flat] * 3)
    return filtered


def hfen(v: Volumes, *, over_mask: bool = False) -> float | None:
    """High-frequency error norm in %: 100 |LoG(r - t)| / |LoG(t)| with sigma 1.5 voxels, over the volume as in the released code, or over the mask
    (Ravishankar and Bresler, IEEE TMI 2011;30:1028-1041).
    """
    box = v.box(7)
    with ThreadPoolExecutor(_N_THREADS) as pool:
        error, truth = pool.map(_laplacian_of_gaussian, (v.recon[box] - v.truth[box], v.truth[box]))
    where = v.mask[box] if over_mask else ...
    return _percent(float(np.linalg.norm(error[where])), float(np.linalg.norm(truth[where])))


def _percent(error: float, reference: float) -> float | None:
    return 100 * error / reference if reference > 0 else None


def correlation(a: Volume, b: Volume) -> float | None:
    """Pearson correlation of two arrays of one shape. None where one of them is constant."""
    x, y = (v.ravel() - mean_of(v) for v in (a, b))
    norm = float(np.linalg.norm(x)) * float(np.linalg.norm(y))
    return float(x @ y) / norm if norm > 0 else None


def _cells(values: Volume, n_cells: int) -> NDArray[np.int64]:
    low, high = float(values.min()), float(values.max())
    margin = (high - low) / (values.size - 1) / 2
    return np.floor((values - low + margin) * (n_cells / (high - low + 2 * margin))).astype(np.int64).clip(0, n_cells - 1)


def mutual_information(a: Volume, b: Volume) -> float | None:
    """Mutual information in nats of two arrays of N values: ceil(N^(1/3)) equal cells per axis of the joint histogram, from half a step below the
    minimum to half a step above the maximum (a step: the range / (N - 1)); plug-in estimate less its bias (cells - 1)^2 / (2 N).

    After Moddemeijer, Signal Processing 1989;16:233-248. None where one of the arrays is constant.
    """
    x, y = a.ravel(), b.ravel()
    n = x.size
    if n < 2 or float(np.ptp(x)) == 0 or float(np.ptp(y)) == 0:
        return None
    n_cells = math.ceil(round(n ** (1 / 3), 9))
    joint = np.bincount(_cells(x, n_cells) * n_cells + _cells(y, n_cells), minlength=n_cells**2).reshape(n_cells, n_cells) / n
    i, j = joint.nonzero()
    p = joint[i, j]
    estimate = float((p * np.log(p / joint.sum(1)[i] / joint.sum(0)[j])).sum())
    return estimate - float((n_cells - 1) ** 2) / (2 * n)


def absolute_difference(v: Volumes) -> float | None:
    """MAD in %: 100 sum |r - t| / sum |t|."""
    return _percent(float(np.abs(v.recon - v.truth).sum()), float(np.abs(v.truth).sum()))


def _periodic_gradient_norm(volume: Volume) -> float:
    """Of the first differences along x and y, the last voxel's neighbour being the first."""
    total = 0.0
    for axis in (0, 1):
        wrap = np.take(volume, 0, axis) - np.take(volume, -1, axis)
        total += float((np.diff(volume, axis=axis) ** 2).sum() + (wrap**2).sum())
    return math.sqrt(total)


def gradient_error(v: Volumes) -> float | None:
    """GXE in % as released: 100 |grad(r - t)| / |grad t| with the periodic first differences along x and y; z is left out."""
    return _percent(_periodic_gradient_norm(v.recon - v.truth), _periodic_gradient_norm(v.truth))


def _inner_gradient_norm(volume: Volume, mask: Mask) -> float:
    total = 0.0
    for axis in range(3):
        inner = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        outer = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        total += float((np.diff(volume, axis=axis)[mask[inner] & mask[outer]] ** 2).sum())
    return math.sqrt(total)


def gradient_error_inside(v: Volumes) -> float | None:
    """GXE in % over all three axes, between neighbours that both lie in the mask: blind to the mask's edge and to a turned volume."""
    return _percent(_inner_gradient_norm(v.recon - v.truth, v.mask), _inner_gradient_norm(v.truth, v.mask))
