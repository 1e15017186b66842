"""R2* from the magnitudes of several echoes."""

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.scan import Scan

MAX_R2STAR_PER_S = 1000.0


def fit_r2star(scan: Scan) -> tuple[Tensor, Tensor]:
    """R2* in 1/s and the magnitude at TE = 0, both [x, y, z] and 0 outside the mask, from a line through the logarithms of the magnitudes,
    weighted by their squares (1 / variance of the logarithm).

    R2* is limited to 0 ... 1000 / s. Voxels without signal get 0. Raises InputError for fewer than two echoes.
    """
    if len(scan.echo_times_s) < 2:
        raise InputError(f"{scan.name} has one echo, at {scan.echo_times_s[0]} s; R2* needs at least two.")
    magnitude = scan.magnitude[:, scan.mask]
    times = torch.tensor(scan.echo_times_s, dtype=magnitude.dtype, device=magnitude.device).reshape(-1, 1)
    floor = 1e-6 * magnitude.max()
    logarithm, weight = magnitude.clamp(min=floor).log(), magnitude.clamp(min=floor).square()
    total = weight.sum(0)
    time, level = (weight * times).sum(0) / total, (weight * logarithm).sum(0) / total
    spread = (weight * (times - time).square()).sum(0)
    rate = (-(weight * (times - time) * (logarithm - level)).sum(0) / spread).clamp(0.0, MAX_R2STAR_PER_S)
    start = torch.exp(level + rate * time)
    signal = magnitude.amax(0) > floor
    maps = [torch.zeros(scan.geometry.shape, dtype=magnitude.dtype, device=magnitude.device) for _ in range(2)]
    maps[0][scan.mask], maps[1][scan.mask] = rate * signal, start * signal
    return maps[0], maps[1]


def combined_magnitude(scan: Scan) -> Tensor:
    """Root of the sum of squares over the echoes [x, y, z], 0 outside the mask."""
    magnitude: Tensor = torch.linalg.vector_norm(scan.magnitude, dim=0) * scan.mask
    return magnitude
