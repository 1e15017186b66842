"""The multi-echo spoiled gradient-echo signal and its noise."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.units import rad_per_ppm


def steady_state(m0: Tensor, r1_per_s: Tensor, *, repetition_time_s: float, flip_angle_deg: float) -> Tensor:
    """Magnitude at echo time 0 of a spoiled gradient echo, M0 sin(a) (1 - E1) / (1 - cos(a) E1) with E1 = exp(-TR R1) (Ernst and Anderson 1966)."""
    if not 0 < repetition_time_s < 100:
        raise InputError(f"repetition_time_s is {repetition_time_s}; it must lie between 0 and 100 s. Was it given in ms?")
    if not 0 < flip_angle_deg < 180:
        raise InputError(f"flip_angle_deg is {flip_angle_deg}; it must lie between 0 and 180 degrees.")
    angle = math.radians(flip_angle_deg)
    e1 = torch.exp(-repetition_time_s * r1_per_s)
    return m0 * math.sin(angle) * (1 - e1) / (1 - math.cos(angle) * e1)


def echo_signal(
    field_ppm: Tensor, magnitude: Tensor, r2star_per_s: Tensor, *, echo_time_s: float, b0_tesla: float, phase_offset_rad: float | Tensor = 0.0
) -> Tensor:
    """Complex signal [x, y, z] of one echo from the magnitude at echo time 0: magnitude exp(-TE R2*) exp(i (phi0 + 2 pi gamma B0 TE field))."""
    phase = field_ppm * rad_per_ppm(b0_tesla, echo_time_s) + phase_offset_rad
    return torch.polar(magnitude * torch.exp(-echo_time_s * r2star_per_s), phase)


def multi_echo_signal(
    field_ppm: Tensor,
    m0: Tensor,
    r1_per_s: Tensor,
    r2star_per_s: Tensor,
    *,
    echo_times_s: Sequence[float],
    repetition_time_s: float,
    flip_angle_deg: float,
    b0_tesla: float,
    phase_offset_rad: float | Tensor = 0.0,
) -> Tensor:
    """Complex signal [echo, x, y, z] of a spoiled multi-echo gradient echo (Marques et al., Magn Reson Med 2021).

    S_j = M0 sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE_j R2*) exp(i (phi0 + 2 pi gamma B0 TE_j field)). Maps are [x, y, z]: field in ppm, rates in
    1/s, M0 and the signal in arbitrary units. Differentiable in every map.
    """
    magnitude = steady_state(m0, r1_per_s, repetition_time_s=repetition_time_s, flip_angle_deg=flip_angle_deg)
    echoes = [
        echo_signal(field_ppm, magnitude, r2star_per_s, echo_time_s=te, b0_tesla=b0_tesla, phase_offset_rad=phase_offset_rad) for te in echo_times_s
    ]
    return torch.stack(echoes)


def add_noise(signal: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """The complex signal plus Gaussian noise of standard deviation sigma in the real and in the imaginary part (drawn on the generator's device)."""
    if not (math.isfinite(sigma) and sigma >= 0):
        raise InputError(f"sigma is {sigma}; the noise standard deviation must be finite and at least 0.")
    parts = torch.randn((2, *signal.shape), generator=generator, dtype=signal.real.dtype, device=generator.device).to(signal.device)
    noisy = torch.view_as_real(signal).clone()
    for channel, part in enumerate(parts):
        noisy[..., channel].add_(part, alpha=sigma)
    return torch.view_as_complex(noisy)
