"""Removal of Gibbs ringing by local sub-voxel shifts (Kellner, Dhital, Kiselev, Reisert, Magn Reson Med 2016;76:1574-1581).

A band-limited edge rings only where its samples miss the zeros of the sinc. Shifting the sampling grid by a fraction of a voxel, chosen for each
voxel where the total variation beside it is least, then interpolating back, removes the ringing and keeps the edge.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.box import Box

_CHUNK_VALUES = 1 << 19  # Small enough for the caches, large enough for the FFT.


def _ramp(n: int, shift: float, device: torch.device) -> Tensor:
    """Fourier phase ramp that samples at x + shift."""
    angle = 2 * math.pi * shift * torch.arange(n // 2 + 1, device=device, dtype=torch.float64) / n
    return torch.polar(torch.ones_like(angle), angle)


def _wrapped(rows: Tensor, room: Tensor) -> Tensor:
    """Rows of n samples in `room`, rows of n + 8: four samples from the other end on either side."""
    room[:, 4:-4] = rows
    room[:, :4] = rows[:, -4:]
    room[:, -4:] = rows[:, :4]
    return room


def _variation(wrapped: Tensor) -> Tensor:
    """Sum of |differences| over three neighbour pairs, left or right of each sample, whichever is less, for rows between four samples each."""
    n = wrapped.shape[-1] - 8
    steps = torch.diff(wrapped).abs_()
    triple = (steps[:, :-2] + steps[:, 1:-1]).add_(steps[:, 2:])
    return torch.minimum(triple[:, :n], triple[:, 5 : n + 5])


def _unring_rows(rows: Tensor, shifts: Sequence[float]) -> Tensor:
    """Unring along the last axis of [rows, samples]; shift by shift, keeping the best so far."""
    n = rows.shape[-1]
    spectrum, room = torch.fft.rfft(rows), rows.new_empty(len(rows), n + 8)
    best, least = rows.clone(), _variation(_wrapped(rows, room))
    for shift in shifts:
        ramp = _ramp(n, shift, rows.device).to(spectrum.dtype)
        moved = torch.fft.irfft(spectrum * ramp, n=n)
        variation = _variation(_wrapped(moved, room))
        # Samples of `moved` sit at x + shift: x lies between this one and the neighbour on the other side.
        back = moved.lerp_(room[:, 3 : n + 3] if shift > 0 else room[:, 5 : n + 5], abs(shift))
        # 1 where this shift varies less, else 0: `lerp` then takes one or the other, exactly, and many times faster than `where`.
        better = torch.sub(least, variation).sign_().clamp_min_(0)
        best.lerp_(back, better)
        torch.minimum(variation, least, out=least)
    return best


def unring(volume: Tensor, *, axes: Sequence[int] = (0, 1, 2), n_shifts: int = 21, box: Box | None = None) -> Tensor:
    """Remove the ringing that a k-space crop left, along each axis in turn (1-D variant of Kellner et al. 2016).

    volume: real [x, y, z], any size and unit, periodic as k-space makes it. n_shifts: odd number of shifts spread evenly over -0.5 ... 0.5 voxel, 0
    among them. box: the only part that is wanted, None for all; lines that do not bear on it are left out, and the rest of the result is 0.
    Returns a volume of the same shape. Ties keep the unshifted value, so a constant stays as it is; elsewhere linear interpolation costs up to
    h^2/8 of the second derivative. Raises InputError for complex input, other than three axes, an axis shorter than 8, or an even number of shifts.
    """
    if volume.ndim != 3 or not volume.is_floating_point():
        raise InputError(
            f"volume is {volume.dtype} with shape {tuple(volume.shape)}; unring needs one real volume [x, y, z]. Pass real and imaginary part apart."
        )
    if n_shifts < 3 or n_shifts % 2 == 0:
        raise InputError(f"n_shifts is {n_shifts}; it must be odd and at least 3, so that the unshifted grid is among them.")
    if any(axis not in (0, 1, 2) for axis in axes):
        raise InputError(f"axes is {tuple(axes)}; each must be 0, 1 or 2 (x, y, z).")
    if any(volume.shape[axis] < 8 for axis in axes):
        raise InputError(f"volume has the shape {tuple(volume.shape)}; an axis to unring needs at least 8 voxels, four on either side.")
    half = n_shifts // 2
    # Small shifts first: among equal variations the smallest shift wins.
    shifts = sorted((j / (2 * half) for j in range(-half, half + 1) if j), key=abs)
    wanted = box if box is not None else (slice(None), slice(None), slice(None))
    whole = volume
    for index, axis in enumerate(axes):
        moved = volume.movedim(axis, -1)
        rows = moved.reshape(-1, volume.shape[axis])
        chunks = torch.split(rows, max(1, _CHUNK_VALUES // rows.shape[1]))
        volume = torch.cat([_unring_rows(chunk, shifts) for chunk in chunks]).reshape(moved.shape).movedim(-1, axis)
        if axis not in axes[index + 1 :]:
            # Later axes need this one inside the box alone.
            volume = volume[tuple(wanted[a] if a == axis else slice(None) for a in range(3))]
    if box is None:
        return volume.contiguous()
    result = torch.zeros_like(whole)
    result[box] = volume[tuple(slice(None) if a in axes else wanted[a] for a in range(3))]
    return result
