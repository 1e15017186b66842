"""The error of a map in k-space, cone by cone around B0.

The dipole kernel vanishes on the double cone at the magic angle of 54.74 degrees to B0, so a field says nothing about susceptibility there and what a
method puts in shows as streaks. Diefenbach, Boehm, Meineke, Liu and Karampinos (Proc. ISMRM 2019, 0322) therefore compare maps on cones of constant
angle. The normalisation, the sampling and the single number below are defined here:

- E(k) and T(k): discrete Fourier transforms of r' - t' and t', both maps demeaned inside the mask and 0 outside, on the scan's own grid;
- theta(k), 0 to 90 degrees: the angle between k (in cycles/mm, so voxel sizes count) and the axis of B0, cos^2 theta = 1/3 - D(k) for the dipole
  kernel D; a Nyquist frequency of an even grid stands for two k of opposite sign, and cos^2 theta is their mean, so that turning or mirroring a scan
  changes nothing; k = 0 has no angle and, the maps being demeaned, no energy;
- the profile: 100 sqrt(sum |E|^2 / sum |T|^2) over all k whose theta lies in a bin of equal width;
- `ConeError`, in %: the same over all k within 5 degrees of the magic angle, about where |D| < 0.08. 0 is perfect, 100 what an empty map has.

By Parseval's theorem the same ratio over all k is the NRMSE, so the profile tells where in k-space the NRMSE comes from.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from qsmdl.challenge.volumes import Vector, Volume, Volumes
from qsmdl.errors import InputError

MAGIC_ANGLE_DEG = math.degrees(math.acos(math.sqrt(1 / 3)))
CONE_WIDTH_DEG = 5.0
"""How far from the magic angle `ConeError` looks, on either side."""


@dataclass(frozen=True, eq=False, slots=True)
class ConeProfile:
    """angle_deg [bin]: centres of the bins, 0 along B0 and 90 across; error_percent, error_energy and truth_energy [bin] (ppm^2 voxel, they add up to
    the squared norms in the mask); error_percent is NaN where no k or no energy of the truth lies in the bin.
    """

    angle_deg: Volume
    error_percent: Volume
    error_energy: Volume
    truth_energy: Volume


def angles_to_b0_deg(shape: tuple[int, ...], voxel_size_mm: Vector, b0_direction: Vector) -> Volume:
    """The angle between k and the axis of B0 in degrees, on the half spectrum [x, y, z // 2 + 1]; that at k = 0 means nothing.

    Raises InputError for a direction that is no unit vector.
    """
    if not abs(math.sqrt(sum(b * b for b in b0_direction)) - 1) < 1e-3:
        raise InputError(f"b0_direction is {tuple(b0_direction)}; it must have length 1. Divide it by its length.")
    along, nyquist_squared, k_squared = np.zeros((1, 1, 1)), np.zeros((1, 1, 1)), np.zeros((1, 1, 1))
    for axis, (n, size_mm, b) in enumerate(zip(shape, voxel_size_mm, b0_direction, strict=True)):
        k = (np.fft.rfftfreq(n) if axis == 2 else np.fft.fftfreq(n)).reshape([-1 if a == axis else 1 for a in range(3)])
        at_nyquist = np.abs(k) == 0.5
        k_squared = k_squared + (k / size_mm) ** 2
        along = along + np.where(at_nyquist, 0, k * (b / size_mm))
        nyquist_squared = nyquist_squared + np.where(at_nyquist, (k * (b / size_mm)) ** 2, 0)
    k_squared[0, 0, 0] = 1
    angle: Volume = np.rad2deg(np.arccos(np.sqrt(np.clip((along**2 + nyquist_squared) / k_squared, 0, 1))))
    return angle


def _energy(volume: Volume) -> Volume:
    """Of each k of the half spectrum, those that stand for two counted twice; the sum is the volume's squared norm."""
    spectrum = torch.fft.rfftn(torch.from_numpy(np.ascontiguousarray(volume))).numpy()
    energy: Volume = spectrum.real**2 + spectrum.imag**2
    energy[..., 1 : (volume.shape[-1] + 1) // 2] *= 2
    return energy / volume.size


def _energies(v: Volumes) -> tuple[Volume, Volume]:
    demeaned = v.demeaned()
    return _energy(demeaned.recon - demeaned.truth), _energy(demeaned.truth)


def cone_profile(v: Volumes, *, n_bins: int = 45) -> ConeProfile:
    """The error of a map against the angle to B0, in `n_bins` bins over 0 to 90 degrees. Raises InputError for fewer than two bins."""
    if n_bins < 2:
        raise InputError(f"n_bins is {n_bins}; at least two are needed to tell one angle from another.")
    angle = angles_to_b0_deg(v.mask.shape, v.voxel_size_mm, v.b0_direction)
    index = np.minimum((angle * (n_bins / 90)).astype(np.int64), n_bins - 1).ravel()
    error, truth = (np.bincount(index, energy.ravel(), n_bins).astype(np.float64) for energy in _energies(v))
    percent = np.full(n_bins, np.nan)
    centres = (np.arange(n_bins, dtype=np.float64) + 0.5) * (90 / n_bins)
    np.divide(error, truth, out=percent, where=truth > 0)
    return ConeProfile(centres, 100 * np.sqrt(percent), error, truth)


def cone_error(v: Volumes) -> float | None:
    """The relative error in % of all k within `CONE_WIDTH_DEG` of the magic angle. None where the truth has no energy there."""
    angle = angles_to_b0_deg(v.mask.shape, v.voxel_size_mm, v.b0_direction)
    near = np.abs(angle - MAGIC_ANGLE_DEG) <= CONE_WIDTH_DEG
    near[0, 0, 0] = False
    error, truth = (float(energy[near].sum()) for energy in _energies(v))
    return 100 * math.sqrt(error / truth) if truth > 0 else None
