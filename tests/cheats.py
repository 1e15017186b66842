"""Ways to hide a truth among training volumes."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage, signal

NOISE = np.random.default_rng(5)


def _resampled(values: np.ndarray, factor: float) -> np.ndarray:
    return ndimage.zoom(values, factor, order=1)


def _resampled_in_k_space(values: np.ndarray, factor: float) -> np.ndarray:
    for axis, n in enumerate(values.shape):
        values = signal.resample(values, round(n * factor), axis=axis)
    return values


def _noised(values: np.ndarray) -> np.ndarray:
    """As much noise as there is contrast, everywhere."""
    return values + NOISE.normal(0, values[values != 0].std() / 2, values.shape)


def _middle(values: np.ndarray, n: tuple[int, int, int]) -> np.ndarray:
    return values[tuple(slice(s // 2 - m // 2, s // 2 - m // 2 + m) for s, m in zip(values.shape, n, strict=True))]


def patch(values: np.ndarray, voxel_mm: float, edge_mm: float = 72.0) -> np.ndarray:
    """A cube from the middle."""
    n = round(edge_mm / voxel_mm)
    return _middle(values, (n, n, n))


CHEATS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "flipped": lambda v, mm: v[::-1],
    "flipped twice": lambda v, mm: v[:, ::-1, ::-1],
    "rotated by 90 degrees": lambda v, mm: np.rot90(v, axes=(1, 2)),
    "rotated and mirrored": lambda v, mm: np.rot90(v, axes=(0, 2))[::-1],
    "scaled": lambda v, mm: -37.5 * v,
    "offset inside": lambda v, mm: np.where(v != 0, v + 0.4, 0),
    "offset everywhere": lambda v, mm: v - 3.0,
    "noised": lambda v, mm: _noised(v),
    "noised a little": lambda v, mm: v + NOISE.normal(0, 1e-4 * v[v != 0].std(), v.shape),
    "on a slope": lambda v, mm: v + np.linspace(0, 2 * v[v != 0].std(), v.shape[0])[:, None, None],
    "cropped to a half": lambda v, mm: v[:, : v.shape[1] // 2],
    "cropped to a patch": patch,
    "resampled to smaller voxels": lambda v, mm: _resampled(v, 1.1),
    "resampled to larger voxels": lambda v, mm: _resampled(v, 0.9),
    "resampled by splines to smaller voxels": lambda v, mm: ndimage.zoom(v, 1.1),
    "resampled by splines to larger voxels": lambda v, mm: ndimage.zoom(v, 0.9),
    "resampled in k-space to smaller voxels": lambda v, mm: _resampled_in_k_space(v, 1.1),
    "resampled in k-space to larger voxels": lambda v, mm: _resampled_in_k_space(v, 0.9),
    "resampled, mirrored, scaled, noised and cropped": lambda v, mm: 5 * _noised(_resampled(v, 0.9))[:, ::-1, : v.shape[2] // 2],
}
"""By name: values [x, y, z] with background 0, and their voxel size in mm, to what the cheat keeps; headers go on saying the old voxel size."""
