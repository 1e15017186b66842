"""The straight line that detrending, the slope error and the streaking metric share."""

import numpy as np
from numpy.typing import NDArray


def fit_line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Least-squares (slope, offset) of y = slope x + offset; a constant x gives slope 0 and the mean of y."""
    x_mean, y_mean = float(x.mean()), float(y.mean())
    dx = x - x_mean
    variance = float(dx @ dx)
    slope = float(dx @ (y - y_mean)) / variance if variance > 0 else 0.0
    return slope, y_mean - slope * x_mean
