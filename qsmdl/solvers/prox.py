"""Proximal maps: argmin_z g(z) + mu/2 ||z - v||^2 for the terms that solvers are made of. All are elementwise."""

import torch
from torch import Tensor


def soft_threshold(v: Tensor, threshold: float | Tensor) -> Tensor:
    """For g = mu * threshold * ||z||_1: sign(v) max(|v| - threshold, 0)."""
    return v - v.clamp(min=-threshold, max=threshold)


def weighted_quadratic(v: Tensor, data: Tensor, squared_weight: Tensor, penalty: float) -> Tensor:
    """For g = 1/2 ||w (z - data)||^2 with W = w^2: (W data + mu v) / (W + mu)."""
    return torch.lerp(v, data, squared_weight / (squared_weight + penalty))


def weighted_cosine(v: Tensor, data: Tensor, squared_weight: Tensor, penalty: float, rad_per_unit: float, *, n_newton: int = 4) -> Tensor:
    """For g = sum W / c^2 (1 - cos(c (z - data))), c = rad_per_unit: the misfit of complex signals, |exp(i c z) - exp(i c data)|^2 W / (2 c^2).

    Equal to `weighted_quadratic` to second order where c (z - data) is small; bounded where it is large. Newton steps from the quadratic solution; the curvature
    is kept above a tenth of the penalty, since it vanishes or turns negative at large misfits (Milovic et al., Magn Reson Med 2018, use the bare one).
    """
    distance = v - data
    z = distance * (penalty / (squared_weight + penalty))
    for _ in range(n_newton):
        angle = z * rad_per_unit
        slope = torch.sin(angle).mul_(squared_weight / rad_per_unit).add_(z - distance, alpha=penalty)
        curvature = angle.cos_().mul_(squared_weight).add_(penalty).clamp_(min=0.1 * penalty)
        z.sub_(slope.div_(curvature))
    return z.add_(data)
