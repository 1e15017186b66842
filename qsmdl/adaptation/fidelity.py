"""How well the field of a susceptibility map explains what was measured: the loss of FINE."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import FieldMap, Geometry, Scan
from qsmdl.units import rad_per_ppm

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Misfit:
    """loss: what is minimised (weights of mean 1 in the mask); whitened: the residual variance in units of the noise variance, 1 where the map
    explains the data down to the noise, None where the noise is not known. Both scalar tensors.
    """

    loss: Tensor
    whitened: Tensor | None


class Fidelity:
    """sum_j mean W_j^2 |exp(i c_j D chi) - exp(i phase_j)|^2 over the voxels of the mask (Zhang et al., FINE, NeuroImage 2020; Liu et al., MEDI,
    2013).

    phase_rad, weight: [echo, x, y, z]; radians_per_ppm: c_j; noise_scale: what the weights were divided by to have mean 1, None without known noise.
    A constant of the field is free (`free_offset`): the dipole kernel leaves it undefined, and so may whoever made the data. It is solved for in
    closed form from the linearised residual at every call and takes no part in the gradient, which at the optimum it does not change.
    """

    def __init__(
        self,
        dipole: Dipole,
        phase_rad: Tensor,
        weight: Tensor,
        mask: Tensor,
        radians_per_ppm: tuple[float, ...],
        field_ppm: Tensor,
        *,
        noise_scale: float | None,
        free_offset: bool = True,
    ) -> None:
        self.dipole, self.phase_rad, self.weight, self.mask, self.field_ppm = dipole, phase_rad, weight, mask, field_ppm
        self.radians_per_ppm, self.noise_scale, self.free_offset = radians_per_ppm, noise_scale, free_offset
        self.n_voxels = int(mask.sum())
        c = torch.tensor(radians_per_ppm, device=weight.device).reshape(-1, 1, 1, 1)
        self._information = (weight.square() * c.square()).sum(0)

    def __call__(self, chi_ppm: Tensor) -> Misfit:
        """The misfit of a map [1, 1, x, y, z] in ppm."""
        field = self.dipole(chi_ppm)[0, 0]
        if self.free_offset:
            difference = (field.detach() - self.field_ppm) * self.mask
            field = field - (difference * self._information).sum() / self._information.sum()
        loss = field.new_zeros(())
        for c, phase, weight in zip(self.radians_per_ppm, self.phase_rad, self.weight, strict=True):
            # |exp(ia) - exp(ib)|^2 = 4 sin^2((a - b) / 2), without complex numbers.
            loss = loss + 4 * (weight * torch.sin((c * field - phase) / 2)).square().sum() / self.n_voxels
        whitened = None if self.noise_scale is None else loss.detach() * self.noise_scale**2 / len(self.radians_per_ppm)
        return Misfit(loss, whitened)

    def beside(self, known_ppm: Tensor) -> "Fidelity":
        """The fidelity of maps that lack a known part of the susceptibility, [1, 1, x, y, z] in ppm: the data less the field of that part."""
        field = self.dipole(known_ppm)[0, 0]
        c = field.new_tensor(self.radians_per_ppm)[:, None, None, None]
        return self._of(self.dipole, self.phase_rad - c * field, self.weight, self.mask, self.field_ppm - field)

    def to(self, device: torch.device | str) -> "Fidelity":
        """The same fidelity on a device."""
        phase, weight, mask, field = (v.to(device) for v in (self.phase_rad, self.weight, self.mask, self.field_ppm))
        return self._of(self.dipole.to(device), phase, weight, mask, field)

    def _of(self, dipole: Dipole, phase_rad: Tensor, weight: Tensor, mask: Tensor, field_ppm: Tensor) -> "Fidelity":
        return Fidelity(
            dipole, phase_rad, weight, mask, self.radians_per_ppm, field_ppm, noise_scale=self.noise_scale, free_offset=self.free_offset
        )


def _normalised(weight: Tensor, mask: Tensor) -> tuple[Tensor, float]:
    """Weights scaled to mean 1 over echoes and mask, and by how much."""
    weight = weight * mask
    scale = float(weight.sum()) / (int(mask.sum()) * weight.shape[0])
    if not scale > 0:
        raise InputError("All weights inside the mask are 0, so nothing was measured there. Check the magnitude or the mask.")
    return weight / scale, scale


def echo_fidelity(scan: Scan, field: FieldMap, box: Box, geometry: Geometry, *, padding: float = 1.5) -> Fidelity:
    """The fidelity to all echoes of a scan without a phase at TE = 0, on a box of the grid that holds the mask.

    c_j = 2 pi gamma B0 TE_j. W_j is magnitude over noise, lowered where the field map found one frequency unable to explain the echoes:
    W_j = M_j / (noise_ppm sqrt(sum_k c_k^2 M_k^2)), which together give each voxel the precision that the field map states.
    """
    if field.noise_ppm is None:
        raise InputError("The fidelity to echoes needs the noise of the field map: make it with fit_field.")
    mask = scan.mask[box]
    c = tuple(rad_per_ppm(scan.geometry.b0_tesla, te) for te in scan.echo_times_s)
    magnitude = scan.magnitude[:, *box].float() * mask
    signal = sum((ck**2 * m.square() for ck, m in zip(c, magnitude, strict=True)), torch.zeros_like(magnitude[0])).sqrt()
    noise = torch.where(mask, field.noise_ppm[box] * signal, 1.0)
    weight, scale = _normalised(torch.where(mask & (noise > 0), magnitude / noise.clamp(min=1e-12), 0.0), mask)
    phase = torch.where(mask, scan.phase_rad[:, *box].float(), 0.0)
    return Fidelity(Dipole.of(geometry, padding), phase, weight, mask, c, torch.where(mask, field.field_ppm[box], 0.0), noise_scale=scale)


def field_fidelity(field: FieldMap, box: Box, geometry: Geometry, *, padding: float = 1.5) -> Fidelity:
    """The fidelity to one field map, taken as a phase at a c for which it cannot wrap.

    c is that of a 4 ms echo at the scan's B0, lowered so that the largest field in the mask is at most pi / 2: then a map that is wrong by as much
    as the field itself is still on the right side of the cosine. Without a known noise the discrepancy principle cannot stop the fit.
    """
    mask = field.mask[box]
    values = torch.where(mask, field.field_ppm[box].float(), 0.0)
    c = min(rad_per_ppm(field.geometry.b0_tesla, 0.004), (math.pi / 2) / max(float(values.abs().max()), 1e-9))
    known = field.noise_ppm is not None
    precision = torch.where(mask, 1 / (c * field.noise_ppm[box]), 0.0) if field.noise_ppm is not None else field.weight[box] * mask
    weight, scale = _normalised(precision.float()[None], mask)
    return Fidelity(Dipole.of(geometry, padding), c * values[None], weight, mask, (c,), values, noise_scale=scale if known else None)
