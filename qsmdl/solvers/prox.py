"""Proximal maps: argmin_z g(z) + mu/2 ||z - v||^2 for the terms that solvers are made of. All are elementwise."""

import math

import torch
from torch import Tensor


def soft_threshold(v: Tensor, threshold: float) -> Tensor:
    """For g = mu * threshold * ||z||_1: sign(v) max(|v| - threshold, 0)."""
    return v - v.clamp(min=-threshold, max=threshold)


def weighted_quadratic(v: Tensor, data: Tensor, squared_weight: Tensor, penalty: float) -> Tensor:
    """For g = 1/2 ||w (z - data)||^2 with W = w^2: (W data + mu v) / (W + mu)."""
    return torch.lerp(v, data, squared_weight / (squared_weight + penalty))


def weighted_cosine(v: Tensor, data: Tensor, squared_weight: Tensor, penalty: float, rad_per_unit: float, *, n_newton: int = 4) -> Tensor:
    """For g = sum W / c^2 (1 - cos(c (z - data))) with c = rad_per_unit, constant beyond half a turn: the misfit of complex signals, |exp(i c z) -
    exp(i c data)|^2 W / (2 c^2).

    Equal to `weighted_quadratic` to second order where c (z - data) is small. The influence of a misfit is largest at a quarter of a turn and 0 from
    half a turn on: for an unwrapped field a full turn is an error, not a match, so no c can wrap (Milovic et al., Magn Reson Med 2018, wrap). Where g
    has two minima, the one closer to the data is taken. Newton steps from the quadratic solution with the curvature of g cut off at 0 from below: on
    its way to v the slope of g is concave, so no step overshoots, and after any number of steps z lies between the quadratic solution and v.
    """
    distance = v - data
    z = distance * (penalty / (squared_weight + penalty))
    for _ in range(n_newton):
        angle = (z * rad_per_unit).clamp_(-math.pi, math.pi)
        slope = torch.sin(angle).mul_(squared_weight / rad_per_unit).add_(z - distance, alpha=penalty)
        curvature = angle.cos_().clamp_(min=0.0).mul_(squared_weight).add_(penalty)
        z.sub_(slope.div_(curvature))
    return z.add_(data)
