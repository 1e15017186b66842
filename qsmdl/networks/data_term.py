"""The data term inside a network: how the field of an iterate differs from what was measured, on the network's own box, and where that pulls."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole

Misfit = Literal["linear", "field", "echoes"]
MISFITS = get_args(Misfit)
MAX_SQUARED_WEIGHT = 4.0
"""Weights have mean 1, but a few voxels may have any; with D^2 of at most 4/9, gradient steps of up to 1.1 then never overshoot."""


class Physics(NamedTuple):
    """How a batch was measured, for networks with data steps inside.

    voxel_size_mm, b0_direction: [batch, 3]. Where the echoes are known: rad_per_ppm [batch, echo], c_j = 2 pi gamma B0 TE_j; echo_phase_rad [batch,
    echo, x, y, z], what the phase of each echo has beyond c_j times the field map, within half a turn; echo_share [batch, echo, x, y, z], the share
    of each echo in the voxel's information, c_j^2 M_j^2 / sum_k c_k^2 M_k^2. Echoes that are missing have a share of 0.
    """

    voxel_size_mm: Tensor
    b0_direction: Tensor
    rad_per_ppm: Tensor | None = None
    echo_share: Tensor | None = None
    echo_phase_rad: Tensor | None = None


@lru_cache(maxsize=8)
def _kept_dipole(
    shape: tuple[int, ...], voxel_size_mm: tuple[tuple[float, ...], ...], b0_direction: tuple[tuple[float, ...], ...], device: torch.device
) -> Dipole:
    return Dipole(shape, torch.tensor(voxel_size_mm), torch.tensor(b0_direction)).to(device)


def batch_dipole(shape: torch.Size, voxel_size_mm: Tensor, b0_direction: Tensor, device: torch.device) -> Dipole:
    """The dipole operator of boxes [batch, 1, *shape] that differ in geometry ([batch, 3] each), padded to 1.5 times their size; the latest are
    kept.
    """
    plain = (tuple(tuple(v.tolist()) for v in values) for values in (voxel_size_mm, b0_direction))
    return _kept_dipole(tuple(shape), *plain, device)


@dataclass(frozen=True, eq=False)
class DataTerm:
    """sum W^2 g(D x - rest) of an iterate x [batch, 1, x, y, z]; its units are the network's, `scale` of them per ppm.

    rest: the field that is to be explained, on top of what a start already explains; mask, squared_weight (at most 4) and rest are [batch, 1, x, y,
    z]. Sources outside the box are taken as the start has them. misfit: "linear", g(e) = e^2 / 2; "field", 1 - cos(c e) over c^2 with one c in
    rad/ppm (Liu et al., MEDI, 2013; VaNDI, ISMRM 2019, 0319); "echoes", the same summed over all echoes by their share of the information, where an
    echo that has turned once more than the field map says pulls where it should.
    """

    dipole: Dipole
    rest: Tensor
    mask: Tensor
    squared_weight: Tensor
    scale: Tensor
    misfit: Misfit = "linear"
    rad_per_ppm: float = 7.5
    physics: Physics | None = None

    @classmethod
    def of(
        cls, rest: Tensor, mask: Tensor, weight: Tensor, scale: Tensor, physics: Physics | None, *, misfit: Misfit, rad_per_ppm: float
    ) -> "DataTerm":
        """Of maps in network units. Raises InputError where the physics, or for "echoes" the echoes, are not there."""
        if physics is None:
            raise InputError("This network has data steps inside and needs the voxel size and the direction of B0 (physics=Physics(...)).")
        if misfit == "echoes" and physics.echo_share is None:
            raise InputError("This network compares all echoes, but there are none. Set data.prior.echoes=true, or misfit: field in the network.")
        inside = mask.to(rest.dtype)
        squared = (weight.float().square() * inside).clamp(max=MAX_SQUARED_WEIGHT)
        dipole = batch_dipole(rest.shape[-3:], physics.voxel_size_mm, physics.b0_direction, rest.device)
        return cls(dipole, rest * inside, inside, squared, scale, misfit, rad_per_ppm, physics)

    def residual(self, x: Tensor) -> Tensor:
        """D x - rest in the mask."""
        field: Tensor = self.dipole(x * self.mask)
        return field * self.mask - self.rest

    def slope(self, residual: Tensor) -> Tensor:
        """W^2 g'(residual)."""
        if self.misfit == "linear":
            return self.squared_weight * residual
        if self.misfit == "field":
            c = self.rad_per_ppm / self.scale
            return self.squared_weight * _bounded_sine(c * residual) / c
        return self.squared_weight * self._slope_of_echoes(residual)

    def _slope_of_echoes(self, residual: Tensor) -> Tensor:
        physics = self.physics
        if physics is None or physics.rad_per_ppm is None or physics.echo_share is None or physics.echo_phase_rad is None:
            raise InputError("The echoes of the data term are incomplete; give rad_per_ppm, echo_share and echo_phase_rad together.")
        c = (physics.rad_per_ppm.to(residual) / self.scale)[..., None, None, None]
        pull = _bounded_sine(c * residual - physics.echo_phase_rad) / c
        return (physics.echo_share * pull).sum(1, keepdim=True)

    def gradient(self, residual: Tensor) -> Tensor:
        """D^T of the slope: of half the sum of squares with "linear"."""
        back: Tensor = self.dipole(self.slope(residual))
        return back * self.mask

    def normal(self, x: Tensor) -> Tensor:
        """D^T W^2 D x, of the linear misfit."""
        field: Tensor = self.dipole(x * self.mask)
        back: Tensor = self.dipole(self.squared_weight * field)
        return back * self.mask


def _bounded_sine(angle: Tensor) -> Tensor:
    """The sine within half a turn, 0 beyond: a misfit of more pulls no more, and none pulls the other way."""
    return torch.sin(angle.clamp(-math.pi, math.pi))


def conjugate_gradients(term: DataTerm, target: Tensor, start: Tensor, damping: Tensor, n_iterations: int) -> Tensor:
    """(D^T W^2 D + damping)^-1 target from `start`, each sample of the batch by itself; differentiable through every step (Aggarwal et al., MoDL,
    IEEE Trans Med Imaging 2019).
    """

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1)[:, None, None, None, None]

    x = start
    r = target - term.normal(x) - damping * x
    p, rr = r, inner(r, r)
    for _ in range(n_iterations):
        q = term.normal(p) + damping * p
        alpha = rr / inner(p, q).clamp(min=torch.finfo(q.dtype).tiny)
        x, r = x + alpha * p, r - alpha * q
        before, rr = rr, inner(r, r)
        p = r + rr / before.clamp(min=torch.finfo(q.dtype).tiny) * p
    return x
