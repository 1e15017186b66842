"""Phase unwrapping: in space within a mask, and along the echoes. Both add whole multiples of 2 pi and nothing else."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from skimage.restoration import unwrap_phase
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.box import mask_box


def unwrap_spatial(phase_rad: Tensor, mask: Tensor) -> Tensor:
    """Unwrap a phase in space: phase + 2 pi n with whole n per voxel inside the mask, 0 outside.

    phase_rad [x, y, z]; mask [x, y, z] bool. Method: reliability sorting along a path that follows no line (Herraez et al., Appl Opt 2002;
    Abdul-Rahman et al., Appl Opt 2007), as scikit-image implements it, within the bounding box of the mask. The multiple of 2 pi that no phase can
    tell is chosen for each connected part of the mask such that its median lies in (-pi, pi]. Where no two neighbours differ by more than pi, only
    that multiple is looked for. Raises InputError for shapes that differ, an empty mask, or a NaN inside it.
    """
    _check_spatial(phase_rad, mask)
    box = mask_box(mask)
    phase, inside = phase_rad[box], mask[box]
    if _has_jump(phase, inside):
        turns = _path_turns(phase, inside)
    elif bool((phase[inside].abs() <= math.pi).all()):
        turns = torch.zeros_like(phase)
    else:
        turns = _centred_turns(phase, torch.zeros_like(phase), inside)
    unwrapped = torch.zeros_like(phase_rad)
    unwrapped[box] = torch.where(inside, phase + 2 * math.pi * turns, 0.0)
    return unwrapped


def unwrap_temporal(phase_rad: Tensor, echo_times_s: tuple[float, ...], weight: Tensor | None = None) -> Tensor:
    """Unwrap along the echoes, trusting the first one: phase + 2 pi n with whole n.

    phase_rad [echo, ...] with phase = slope * TE, so without an offset at TE = 0 (or differences to the first echo, with their time differences);
    echo_times_s: ascending, one per echo; weight [echo, ...]: 1 / variance of each phase up to a common factor (the squared magnitude), None for
    equal ones. Each echo is predicted from the weighted least-squares slope of the echoes before it and moved by the multiple of 2 pi that brings it
    closest. Raises InputError for shapes that differ or times that do not ascend from above 0.
    """
    _check_temporal(phase_rad, echo_times_s, weight)
    weight = torch.ones_like(phase_rad) if weight is None else weight
    unwrapped = phase_rad.clone()
    moment, power = torch.zeros_like(phase_rad[0]), torch.zeros_like(phase_rad[0])
    smallest = torch.finfo(phase_rad.dtype).tiny
    for echo, time in enumerate(echo_times_s):
        if echo > 0:
            predicted = time * moment / power.clamp(min=smallest)
            unwrapped[echo] += 2 * math.pi * torch.round((predicted - phase_rad[echo]) / (2 * math.pi))
        moment += weight[echo] * time * unwrapped[echo]
        power += weight[echo] * time**2
    return unwrapped


def _has_jump(phase: Tensor, inside: Tensor) -> bool:
    for axis in range(3):
        n = phase.shape[axis] - 1
        pair = inside.narrow(axis, 0, n) & inside.narrow(axis, 1, n)
        if bool(((phase.diff(dim=axis).abs() > math.pi) & pair).any()):
            return True
    return False


def _path_turns(phase: Tensor, inside: Tensor) -> Tensor:
    wrapped = torch.where(inside, phase, 0.0).cpu().numpy()
    # An axis of one voxel has no neighbours; scikit-image warns about it and wants it dropped.
    flat = np.ma.masked_array(wrapped, mask=~inside.cpu().numpy()).squeeze()
    path = _along_line(flat) if flat.ndim == 1 else _along_path(flat)
    unwrapped = np.ma.filled(path, 0.0).reshape(wrapped.shape).astype(np.float64)
    turns = np.where(inside.cpu().numpy(), np.round((unwrapped - wrapped) / (2 * np.pi)), 0.0)
    return _centred_turns(phase, torch.from_numpy(turns).to(phase), inside)


def _along_path(flat: "np.ma.MaskedArray[Any, np.dtype[np.float32]]") -> "np.ma.MaskedArray[Any, np.dtype[np.float32]]":
    """scikit-image 0.26 reads memory that it has not written for voxels at the ends of the grid, so that they differ from call to call: a frame
    outside the mask keeps them away from there.
    """
    framed = np.ma.masked_array(np.pad(flat.filled(0.0), 1), mask=np.pad(np.ma.getmaskarray(flat), 1, constant_values=True))
    return unwrap_phase(framed, rng=0)[(slice(1, -1),) * flat.ndim]  # type: ignore[no-untyped-call,no-any-return]


def _along_line(flat: "np.ma.MaskedArray[tuple[int], np.dtype[np.float32]]") -> "np.ma.MaskedArray[tuple[int], np.dtype[np.float32]]":
    """scikit-image unwraps masked planes and volumes, but no masked lines."""
    return np.ma.masked_array(np.unwrap(np.ma.filled(flat, 0.0)), mask=flat.mask)


def _centred_turns(phase: Tensor, turns: Tensor, inside: Tensor) -> Tensor:
    """Shift the turns of each connected part so that its median phase lies in (-pi, pi]."""
    parts, n_parts = ndimage.label(inside.cpu().numpy())
    unwrapped = (phase + 2 * math.pi * turns).cpu().numpy()
    medians = np.atleast_1d(ndimage.median(unwrapped, parts, index=np.arange(1, n_parts + 1)))
    # ceil(x - 1/2) rounds halves down, so a median of exactly pi stays.
    whole = np.concatenate([[0.0], np.ceil(medians / (2 * np.pi) - 0.5)])
    return turns - torch.from_numpy(whole[parts]).to(turns)


def _check_spatial(phase_rad: Tensor, mask: Tensor) -> None:
    if phase_rad.ndim != 3 or phase_rad.shape != mask.shape:
        raise InputError(
            f"phase_rad has the shape {tuple(phase_rad.shape)} and mask {tuple(mask.shape)}; both must be [x, y, z]. Unwrap one echo at a time."
        )
    if mask.dtype != torch.bool:
        raise InputError(f"mask has the dtype {mask.dtype}, but must be boolean. Use mask > 0.")
    if not bool(torch.isfinite(phase_rad[mask]).all()):
        raise InputError(
            "phase_rad holds NaN or infinite values inside the mask. Every voxel of it needs a finite value: shrink the mask or repair the data."
        )


def _check_temporal(phase_rad: Tensor, echo_times_s: tuple[float, ...], weight: Tensor | None) -> None:
    if phase_rad.shape[0] != len(echo_times_s):
        raise InputError(f"phase_rad has {phase_rad.shape[0]} echoes, but echo_times_s has {len(echo_times_s)} entries; give one time per echo.")
    if any(time <= 0 for time in echo_times_s) or any(b <= a for a, b in pairwise(echo_times_s)):
        raise InputError(f"echo_times_s is {echo_times_s}; the times must be positive and ascend. Sort the echoes.")
    if weight is not None and weight.shape != phase_rad.shape:
        raise InputError(f"weight has the shape {tuple(weight.shape)}, but phase_rad {tuple(phase_rad.shape)}; give one weight per phase.")
