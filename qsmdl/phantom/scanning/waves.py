"""The complex signal on the fine grid, echo after echo, and its magnitude and phase on the scan's."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from qsmdl.physics.box import Box, slabs
from qsmdl.physics.signal import echo_signal


def waves(
    field: Tensor, magnitude: Tensor, r2star: Tensor, offset: float | Tensor, echo_times_s: Sequence[float], b0_tesla: float
) -> Iterator[Tensor]:
    """The complex signal [x, y, z] of one echo after the other, in one volume that each overwrites: magnitude exp(-TE R2*) exp(i (offset + 2 pi gamma
    B0 TE field)).

    field in ppm, magnitude at echo time 0, r2star in 1/s, offset in rad (one number or a volume). From an echo to the next the signal decays and
    turns by a factor, which is computed anew only where the gap changes: multiplying costs a fifth of exponential, sine and cosine.
    """

    def fill(volume: Tensor, start: Tensor, start_rad: float | Tensor, time_s: float) -> Tensor:
        for slab in slabs(volume.shape, volume.device):
            at = start_rad[slab] if isinstance(start_rad, Tensor) else start_rad
            size = start if start.ndim == 0 else start[slab]
            volume[slab] = echo_signal(field[slab], size, r2star[slab], echo_time_s=time_s, b0_tesla=b0_tesla, phase_offset_rad=at)
        return volume

    wave, factor = (torch.empty(field.shape, dtype=torch.complex64, device=field.device) for _ in range(2))
    yield fill(wave, magnitude, offset, echo_times_s[0])
    gap_s = math.inf
    for before_s, time_s in pairwise(echo_times_s):
        if abs(time_s - before_s - gap_s) > 1e-9 * gap_s or gap_s == math.inf:
            gap_s = time_s - before_s
            fill(factor, torch.ones((), device=field.device), 0.0, gap_s)
        yield wave.mul_(factor)


def polar_parts(signal: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """Magnitude and phase in rad of complex echoes [echo, x, y, z] that are 0 outside a box."""
    magnitude, phase = (torch.zeros(signal.shape, device=signal.device) for _ in range(2))
    inside = signal[:, *box]
    # From both parts: torch computes the absolute value and the angle of complex numbers one by one, three times slower.
    magnitude[:, *box], phase[:, *box] = torch.hypot(inside.real, inside.imag), torch.atan2(inside.imag, inside.real)
    return magnitude, phase
