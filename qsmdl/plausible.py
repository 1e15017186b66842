"""Whether the values of a field map can be what they are said to be."""

import math

import torch
from torch import Tensor

from qsmdl.errors import InputError

LARGEST_LOCAL_PPM = 1.0
"""Above this 99.9th percentile a local field of a head is doubtful: calcifications and veins reach a few tenths of a ppm."""
ABSURD_LOCAL_PPM = 5.0
"""Above this it is none: the field of air against tissue, 9 ppm, stays below beside its surface."""
_CLOSE_RAD = 0.15
_MARGIN_RAD = 0.01
_FEWEST_VOXELS = 100


def upper_percentile(inside: Tensor) -> float:
    """The 99.9th percentile of absolute values."""
    sizes = inside.abs()
    return float(sizes.kthvalue(max(1, math.ceil(0.999 * sizes.numel()))).values)


def looks_wrapped(inside: Tensor) -> bool:
    """Whether values end at -pi and at +pi, both within 0.15, as those of a wrapped phase in rad do and no others by chance."""
    if inside.numel() < _FEWEST_VOXELS:
        return False
    low, high = (float(value) for value in torch.aminmax(inside))
    return all(-_MARGIN_RAD < math.pi - end < _CLOSE_RAD for end in (-low, high))


def check_not_phase(inside: Tensor, name: str) -> None:
    """Raises InputError where the values [voxel] of a field in ppm look like a wrapped phase in rad. name: what the message calls the field."""
    if looks_wrapped(inside):
        raise InputError(
            f"{name} runs from -pi to pi and ends there: this looks like a wrapped phase in rad, not like a local field in ppm. Unwrap it, remove "
            "the background and give it as a field, or give the scan with its echoes."
        )


def check_local_field(inside: Tensor, name: str) -> None:
    """Raises InputError where the values [voxel] of a local field in ppm look like a wrapped phase in rad, or are too large for any head."""
    check_not_phase(inside, name)
    largest = upper_percentile(inside)
    if largest > ABSURD_LOCAL_PPM:
        raise InputError(
            f"{name}: the 99.9th percentile of |field| is {largest:.4g} ppm, but local fields of a head stay below about {LARGEST_LOCAL_PPM:g} ppm. "
            "Is it in Hz or rad (say so: units), or a total field whose background has not been removed?"
        )
