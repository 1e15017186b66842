"""Proximal maps: argmin_z g(z) + mu/2 ||z - v||^2 for the terms that solvers are made of. All are elementwise."""

import math

import torch
from torch import Tensor


def soft_threshold(v: Tensor, threshold: float | Tensor) -> Tensor:
    """For g = mu * ||threshold * z||_1: sign(v) max(|v| - threshold, 0), threshold >= 0 a number or a map that broadcasts to v."""
    if isinstance(threshold, Tensor):
        return v - torch.minimum(torch.maximum(v, -threshold), threshold)
    return v - v.clamp(min=-threshold, max=threshold)


def shrink_vectors(v: Tensor, threshold: float | Tensor, dim: int = 0) -> Tensor:
    """For g = mu * sum threshold * |z|_2 over vectors along `dim`: v max(1 - threshold / |v|, 0)."""
    norm: Tensor = torch.linalg.vector_norm(v, dim=dim, keepdim=True)
    return v * (1 - threshold / norm.clamp(min=torch.finfo(v.dtype).tiny)).clamp(min=0.0)


def box(v: Tensor, low: float, high: float) -> Tensor:
    """For g = 0 within [low, high] and infinity outside."""
    return v.clamp(min=low, max=high)


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


def weighted_absolute(v: Tensor, data: Tensor, weight: Tensor, penalty: float) -> Tensor:
    """For g = w |z - data|: data + soft(v - data, w / mu)."""
    return data + soft_threshold(v - data, weight / penalty)


def weighted_absolute_phase(v: Tensor, data: Tensor, weight: Tensor, penalty: float, rad_per_unit: float, *, n_newton: int = 8) -> Tensor:
    """For g = w / c |exp(i c z) - exp(i c data)| = 2 w / c |sin(c (z - data) / 2)| with c = rad_per_unit, constant beyond half a turn.

    With d = |v - data| and r = |z - data| the term is concave in r, so a minimum is r = 0, a point beyond half a turn (r = d), or a root of
    w cos(c r / 2) + mu (r - d) = 0, found from the right by Newton steps of a convex function; the candidate of least cost is taken.
    """
    distance = v - data
    d = distance.abs()
    half = rad_per_unit / 2
    turn = math.pi / rad_per_unit
    r = d.clamp(max=turn)
    for _ in range(n_newton):
        slope = weight * torch.cos(half * r) + penalty * (r - d)
        curvature = (penalty - weight * half * torch.sin(half * r)).clamp(min=0.05 * penalty)
        r = (r - slope / curvature).clamp_(min=0.0).minimum(d.clamp(max=turn))

    def cost(at: Tensor) -> Tensor:
        return 2 * weight / rad_per_unit * torch.sin(half * at.clamp(max=turn)) + penalty / 2 * (at - d).square()

    best = torch.where(cost(r) < cost(torch.zeros_like(r)), r, 0.0)
    best = torch.where((d > turn) & (cost(d) <= cost(best)), d, best)
    return data + distance.sign() * best
