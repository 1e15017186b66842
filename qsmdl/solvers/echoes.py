"""Data terms of a field: how far a field is from the measured one, or from the complex signals of all echoes, voxel by voxel."""

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.scan import FieldMap, Scan
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.weights import reject_outliers
from qsmdl.units import rad_per_ppm

_AGREEMENT = 0.5
"""Least mean cosine, weighted by the magnitude, between the echoes' phases and those of the field map."""
_MAX_R2STAR_PER_S = 1000.0


class VoxelMisfit(Protocol):
    """A data term sum_v g_v(z_v) of a field z [voxel] in ppm at the measured voxels."""

    def value(self, z: Tensor) -> float:
        """The sum of g(z)."""

    def slope(self, z: Tensor) -> Tensor:
        """The derivative g'(z), [voxel]."""

    def curvature(self) -> Tensor:
        """The Gauss-Newton model of g'', not negative, [voxel]."""

    def revised(self, z: Tensor) -> "VoxelMisfit":
        """The data term after a step that led to z: with outliers turned down, or its own parameters refitted."""


@dataclass(frozen=True, eq=False, slots=True)
class FieldMisfit:
    """g = w^2 / c^2 (1 - cos(c (z - f))), constant beyond half a turn: the misfit of the complex signals exp(i c z) and exp(i c f) for an unwrapped
    field f.

    measured: f in ppm, weight: w, both [voxel]; rad_per_unit: c in rad/ppm; rejection: `revised` turns outliers down (`reject_outliers`).
    """

    measured: Tensor
    weight: Tensor
    rad_per_unit: float
    rejection: bool = False

    @classmethod
    def of(cls, problem: Problem, echo_time_s: float, *, rejection: bool = False) -> "FieldMisfit":
        """Of the field of a problem, with c = 2 pi gamma B0 echo_time_s."""
        return cls(problem.measured, problem.squared_weight.sqrt(), problem.radians(echo_time_s), rejection)

    def _angle(self, z: Tensor) -> Tensor:
        return ((z - self.measured) * self.rad_per_unit).clamp_(-math.pi, math.pi)

    def value(self, z: Tensor) -> float:
        """The sum of g(z)."""
        # 1 - cos a = 2 sin^2(a / 2) keeps its digits where the misfit is small.
        distance = torch.sin(self._angle(z).div_(2)).mul_(self.weight)
        return 2 / self.rad_per_unit**2 * float(distance.square().sum(dtype=torch.float64))

    def slope(self, z: Tensor) -> Tensor:
        """w^2 / c sin(c (z - f))."""
        return torch.sin(self._angle(z)).mul_(self.weight.square()).div_(self.rad_per_unit)

    def curvature(self) -> Tensor:
        """w^2."""
        return self.weight.square()

    def revised(self, z: Tensor) -> "FieldMisfit":
        """With outliers of w (exp(i c z) - exp(i c f)) turned down (MERIT)."""
        if not self.rejection:
            return self
        angle = self._angle(z)
        residual = torch.polar(self.weight, angle) - self.weight
        return replace(self, weight=reject_outliers(self.weight, residual))


@dataclass(frozen=True, eq=False, slots=True)
class EchoMisfit:
    """g = 1/2 sum_j |m_j exp(i (c_j z + phi_0)) - s_j|^2 / k^2, the misfit of all echoes' complex signals s_j.

    k is the mean over the voxels of sqrt(sum_j c_j^2 |s_j|^2): then the curvature has the scale of the square of a weight of mean 1, and a
    regularisation parameter means what it means for a field map. With `refit`, m_j = m_0 exp(-R2* TE_j) follows the field (`revised`); else m_j =
    |s_j|, and g = sum_j |s_j|^2 / k^2 (1 - cos(c_j z - phase_j)). With `free_offset` the phase phi_0 at TE = 0 is refitted too.

    magnitude (|s_j| / k) and phase_rad: [echo, voxel]; modelled: m_j / k; offset_rad: phi_0 [voxel]; rad_per_ppm: c_j; echo_times_s; unwrapped: the
    phases were brought within half a turn of those of the field map, and a misfit beyond half a turn does not wrap but pulls no more.
    """

    magnitude: Tensor
    phase_rad: Tensor
    modelled: Tensor
    offset_rad: Tensor
    rad_per_ppm: tuple[float, ...]
    echo_times_s: tuple[float, ...]
    unwrapped: bool = True
    refit: bool = False
    free_offset: bool = False

    @classmethod
    def of(cls, scan: Scan, problem: Problem, *, unwrapped: bool = True, refit: bool = False, free_offset: bool = False) -> "EchoMisfit":
        """Of a scan on the field map's grid. Raises InputError where the echoes do not belong to the field map."""
        geometry = problem.grid.field.geometry
        check_same_grid(scan, problem.grid.field)
        if len(scan.echo_times_s) < 1 + refit + free_offset:
            raise InputError(f"{scan.name!r} has {len(scan.echo_times_s)} echoes; R2* and the phase at TE = 0 need at least two, both three.")
        dtype = problem.data.dtype
        magnitude, phase = (
            torch.stack([problem.grid.place(v).flatten()[problem.inside].to(dtype) for v in echoes]) for echoes in (scan.magnitude, scan.phase_rad)
        )
        c = tuple(rad_per_ppm(geometry.b0_tesla, te) for te in scan.echo_times_s)
        _check_agreement(scan, magnitude, phase, c, problem.measured, free_offset)
        if unwrapped:
            expected = torch.stack([ck * problem.measured for ck in c])
            phase = phase + 2 * math.pi * torch.round((expected - phase) / (2 * math.pi))
        information = sum((ck**2 * m.square() for ck, m in zip(c, magnitude, strict=True)), torch.zeros_like(magnitude[0]))
        magnitude = magnitude / information.sqrt().mean()
        offset = torch.zeros_like(problem.measured)
        modelled = fit_decay(magnitude, magnitude, scan.echo_times_s) if refit else magnitude
        return cls(magnitude, phase, modelled, offset, c, scan.echo_times_s, unwrapped, refit, free_offset)

    def _angle(self, echo: int, z: Tensor) -> Tensor:
        angle = z * self.rad_per_ppm[echo] + self.offset_rad - self.phase_rad[echo]
        return angle.clamp_(-math.pi, math.pi) if self.unwrapped else angle

    def value(self, z: Tensor) -> float:
        """The sum of g(z)."""
        total = 0.0
        for echo, (s, m) in enumerate(zip(self.magnitude, self.modelled, strict=True)):
            # |m exp(ia) - s|^2 = (m - s)^2 + 4 m s sin^2(a / 2)
            turned = torch.sin(self._angle(echo, z).div_(2)).square_().mul_(4 * m * s)
            total += 0.5 * float(turned.add_((m - s).square()).sum(dtype=torch.float64))
        return total

    def slope(self, z: Tensor) -> Tensor:
        """sum_j c_j m_j |s_j| sin(c_j z + phi_0 - phase_j) / k^2."""
        total = torch.zeros_like(z)
        for echo, c in enumerate(self.rad_per_ppm):
            total += torch.sin(self._angle(echo, z)).mul_(self.magnitude[echo]).mul_(self.modelled[echo]).mul_(c)
        return total

    def curvature(self) -> Tensor:
        """sum_j c_j^2 m_j^2 / k^2."""
        return sum((c**2 * m.square() for c, m in zip(self.rad_per_ppm, self.modelled, strict=True)), torch.zeros_like(self.modelled[0]))

    def revised(self, z: Tensor) -> "EchoMisfit":
        """With phi_0, m_0 and R2* refitted to the field, each where asked for."""
        renewed = self
        if self.free_offset:
            echoes = zip(self.modelled, self.magnitude, self.phase_rad, self.rad_per_ppm, strict=True)
            renewed = replace(renewed, offset_rad=torch.stack([torch.polar(m * s, p - c * z) for m, s, p, c in echoes]).sum(0).angle())
        if self.refit:
            along = torch.stack([s * torch.cos(renewed._angle(j, z)) for j, s in enumerate(self.magnitude)])
            renewed = replace(renewed, modelled=fit_decay(along, self.modelled, self.echo_times_s))
        return renewed


def fit_decay(signal: Tensor, start: Tensor, echo_times_s: tuple[float, ...], *, n_steps: int = 3) -> Tensor:
    """m_0 exp(-R2* TE_j) closest to `signal` in every voxel, both [echo, voxel], by damped Gauss-Newton steps in m_0 and R2* (0 to 1000 / s).

    start: m_j to start from, [echo, voxel]: a decay, or the magnitudes themselves, whose first and last echo then give the first R2*. A voxel keeps
    its old decay where a step would not bring it closer, so the misfit never rises beyond that of the start's decay.
    """
    times = torch.tensor(echo_times_s, dtype=signal.dtype, device=signal.device).reshape(-1, 1)
    tiny = torch.finfo(signal.dtype).tiny
    rate = ((start[0].clamp(min=tiny) / start[-1].clamp(min=tiny)).log() / (times[-1] - times[0])).clamp(0.0, _MAX_R2STAR_PER_S)
    level = _level(signal, rate, times)
    cost = (level * torch.exp(-rate * times) - signal).square().sum(0)
    for _ in range(n_steps):
        decay = torch.exp(-rate * times)
        residual, slope = signal - level * decay, -times * level * decay
        # Variable projection: m_0 is linear, so the step in R2* uses the part of its derivative that m_0 cannot mimic.
        slope = slope - decay * ((decay * slope).sum(0) / decay.square().sum(0))
        step = (slope * residual).sum(0) / slope.square().sum(0).clamp(min=tiny)
        tried = (rate + step).clamp(0.0, _MAX_R2STAR_PER_S)
        tried_level = _level(signal, tried, times)
        tried_cost = (tried_level * torch.exp(-tried * times) - signal).square().sum(0)
        better = tried_cost < cost
        rate, level, cost = torch.where(better, tried, rate), torch.where(better, tried_level, level), torch.where(better, tried_cost, cost)
    return level * torch.exp(-rate * times)


def _level(signal: Tensor, rate: Tensor, times: Tensor) -> Tensor:
    """The best m_0, not negative, for an R2*."""
    decay = torch.exp(-rate * times)
    return ((decay * signal).sum(0) / decay.square().sum(0)).clamp(min=0.0)


def check_same_grid(scan: Scan, field: FieldMap) -> None:
    """Raises InputError where a scan does not lie on its field map's grid."""
    if scan.geometry.shape != field.geometry.shape:
        raise InputError(f"The scan has the shape {scan.geometry.shape}, but its field map {field.geometry.shape}. Both must lie on one grid.")


def _check_agreement(scan: Scan, magnitude: Tensor, phase: Tensor, c: tuple[float, ...], measured: Tensor, free_offset: bool) -> None:
    """The echoes must show the field of the map: no coil phase at TE = 0, no background field that the map no longer has."""
    if free_offset:  # a phase at TE = 0 of any kind may come on top
        return
    along = sum(float((m * torch.cos(p - ck * measured)).sum()) for m, p, ck in zip(magnitude, phase, c, strict=True))
    agreement = along / max(float(magnitude.sum()), torch.finfo(magnitude.dtype).tiny)
    if agreement < _AGREEMENT:
        raise InputError(
            f"The echoes of {scan.name!r} do not follow its field map: the mean cosine between their phases is {agreement:.2f}, but {_AGREEMENT} is "
            "needed. Remove the phase at TE = 0 and the background from the echoes too, or use a method of the field map."
        )
