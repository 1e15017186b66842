"""Proximal maps: argmin_z g(z) + mu/2 ||z - v||^2 for the terms that solvers are made of, voxel by voxel."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_STILL_RAD = 1e-4
"""Newton steps below this, in rad, end the search for a phase."""


Threshold = float | Tensor | Sequence[float]
"""A number, a map that broadcasts to what it cuts, or one number for each v[i]; not negative."""


def soft_threshold(v: Tensor, threshold: Threshold) -> Tensor:
    """For g = mu * ||threshold * z||_1: sign(v) max(|v| - threshold, 0)."""
    kept = clip(v, threshold, torch.empty_like(v))
    return torch.sub(v, kept, out=kept)


def clip(v: Tensor, threshold: Threshold, out: Tensor) -> Tensor:
    """What `soft_threshold` takes off: v cut to [-threshold, threshold], written to `out`, which is returned."""
    if isinstance(threshold, Tensor):
        return torch.clamp(v, -threshold, threshold, out=out)
    if isinstance(threshold, Sequence):
        # Numbers one by one: bounds that broadcast take twice as long.
        for component, bound, place in zip(v, threshold, out, strict=True):
            torch.clamp(component, -bound, bound, out=place)
        return out
    return torch.clamp(v, -threshold, threshold, out=out)


def shrink_vectors(v: Tensor, threshold: float | Tensor, dim: int = 0) -> Tensor:
    """For g = mu * sum threshold * |z|_2 over vectors along `dim`: v max(1 - threshold / |v|, 0)."""
    # torch.linalg.vector_norm takes ten times as long along a leading dimension.
    norm = v.square().sum(dim=dim, keepdim=True).sqrt_()
    return v * (1 - threshold / norm.clamp(min=torch.finfo(v.dtype).tiny)).clamp(min=0.0)


def box(v: Tensor, low: float, high: float) -> Tensor:
    """For g = 0 within [low, high] and infinity outside."""
    return v.clamp(min=low, max=high)


def weighted_quadratic(v: Tensor, data: Tensor, squared_weight: Tensor, penalty: float) -> Tensor:
    """For g = 1/2 ||w (z - data)||^2 with W = w^2: (W data + mu v) / (W + mu)."""
    return torch.lerp(v, data, squared_weight / (squared_weight + penalty))


def weighted_cosine(v: Tensor, data: Tensor, squared_weight: Tensor, penalty: float, rad_per_unit: float, *, n_newton: int = 30) -> Tensor:
    """For g = sum W / c^2 (1 - cos(c (z - data))) with c = rad_per_unit, constant beyond half a turn: the misfit of complex signals, |exp(i c z) -
    exp(i c data)|^2 W / (2 c^2). v, data and W have one shape.

    Equal to `weighted_quadratic` to second order where c (z - data) is small. The influence of a misfit is largest at a quarter of a turn and 0 from
    half a turn on: for an unwrapped field a full turn is an error, not a match, so no c can wrap (Milovic et al., Magn Reson Med 2018, wrap). Where g
    has two minima, the one closer to the data is taken. Newton steps from the quadratic solution with the curvature of g cut off at 0 from below: on
    its way to v the slope of g is concave, so no step overshoots, and after any number of steps z lies between the quadratic solution and v. Two
    steps are enough for nearly all voxels of a head; only those that still move go on.
    """
    distance = v - data
    z = distance * (penalty / (squared_weight + penalty))
    moved = z
    for _ in range(min(n_newton, 2)):
        moved = _cosine_step(z, distance, squared_weight, penalty, rad_per_unit)
    rest = (moved.abs() > _STILL_RAD / rad_per_unit).nonzero(as_tuple=True)
    if n_newton > 2 and len(rest[0]) > 0:
        moving, far, weight = z[rest], distance[rest], squared_weight[rest]
        for _ in range(n_newton - 2):
            _cosine_step(moving, far, weight, penalty, rad_per_unit)
        z[rest] = moving
    return z.add_(data)


def _cosine_step(z: Tensor, distance: Tensor, squared_weight: Tensor, penalty: float, rad_per_unit: float) -> Tensor:
    """One Newton step of `weighted_cosine`, in place on z, the distance to the data; returns how far it went."""
    angle = (z * rad_per_unit).clamp_(-math.pi, math.pi)
    slope = torch.sin(angle).mul_(squared_weight / rad_per_unit).add_(z - distance, alpha=penalty)
    curvature = angle.cos_().clamp_(min=0.0).mul_(squared_weight).add_(penalty)
    z.sub_(slope.div_(curvature))
    return slope


def weighted_absolute(v: Tensor, data: Tensor, weight: Tensor, penalty: float) -> Tensor:
    """For g = w |z - data|: data + soft(v - data, w / mu)."""
    return data + soft_threshold(v - data, weight / penalty)


class PhaseSplit:
    """For g = w / c |exp(i c z) - exp(i c data)| with c = rad_per_unit, constant beyond half a turn: not the argmin, but one pass of an inner ADMM
    towards it, with the complex misfit split off (Milovic et al., Magn Reson Med 2022, nonlinear L1-QSM).

    With u = c (z - data) in rad, relative to the data's phase, the complex misfit is q = exp(i u) - 1. A call takes v to the z of the pass: q is
    shrunk by w / mu3, u follows by Newton steps on mu3/2 |exp(i u) - 1 - q + s|^2 + mu2/2 (u - c (v - data))^2, and the dual s of q moves on. u and s
    are kept from call to call, so an object serves one run; v, data and w are [voxel]. phase_penalty: mu3, in units of w; penalty: mu of z, of which
    mu2 = mu / c is the same in rad. The curvature is cut off at 0 from below, as in `weighted_cosine`, and an unwrapped field does not wrap.
    """

    def __init__(self, data: Tensor, weight: Tensor, penalty: float, phase_penalty: float, rad_per_unit: float, *, n_newton: int = 12) -> None:
        self._data, self._shrinkage = data, weight / phase_penalty
        self._ratio, self._rad_per_unit, self._n_newton = penalty / rad_per_unit / phase_penalty, rad_per_unit, n_newton
        self._angle, self._dual = torch.zeros_like(data), data.new_zeros((2, *data.shape))
        self._phasor = _phasor(self._angle)

    def __call__(self, v: Tensor) -> Tensor:
        """The z of the next pass."""
        target = (v - self._data) * self._rad_per_unit
        with_dual = self._phasor + self._dual
        with_dual[0].sub_(1.0)
        q = shrink_vectors(with_dual, self._shrinkage)
        goal = q - self._dual
        goal[0].add_(1.0)
        u = self._angle
        self._step(u, self._phasor, goal, target)
        moved = self._step(u, _phasor(u), goal, target)
        # As in `weighted_cosine`: two steps are enough for nearly all voxels.
        rest = (moved.abs() > _STILL_RAD).nonzero().squeeze(1)
        if len(rest) > 0:
            moving, towards, ends = u[rest], goal[:, rest], target[rest]
            for _ in range(self._n_newton - 2):
                self._step(moving, _phasor(moving), towards, ends)
            u[rest] = moving
        self._phasor = _phasor(u)
        self._dual.add_(self._phasor).sub_(q)
        self._dual[0].sub_(1.0)
        return self._data + u / self._rad_per_unit

    def _step(self, u: Tensor, phasor: Tensor, goal: Tensor, target: Tensor) -> Tensor:
        """One Newton step on |exp(i u) - goal|^2 / 2 + ratio/2 (u - target)^2, in place on u; returns how far it went."""
        (cosine, sine), (real, imaginary) = phasor, goal
        near = u.abs() < math.pi
        slope = (real * sine).addcmul_(imaginary, cosine, value=-1.0).mul_(near).add_(u - target, alpha=self._ratio)
        curvature = (real * cosine).addcmul_(imaginary, sine).mul_(near).clamp_(min=0.0).add_(self._ratio)
        moved: Tensor = slope.div_(curvature)
        u.sub_(moved)
        return moved


def _phasor(angle: Tensor) -> Tensor:
    """Real and imaginary part of exp(i angle), which stays at -1 beyond half a turn."""
    turned = angle.clamp(-math.pi, math.pi)
    return torch.stack([turned.cos(), turned.sin()])
