"""Weights of the data term."""

from typing import Literal

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.scan import FieldMap

Weighting = Literal["noise", "uniform"]


def data_weight(field: FieldMap, weighting: Weighting = "noise") -> Tensor:
    """Linear weight w of the data term ||w (D x - f)||^2, [x, y, z], 0 outside the mask and mean 1 inside.

    "noise": the field map's relative confidence 1 / sigma, which for a fit without an offset is proportional to sqrt(sum M^2 TE^2), the magnitude *
    TE of magnitude-weighted methods; "uniform": 1 in every voxel of the mask. The mean of 1 fixes what a regularisation parameter means: codes that
    scale the weight to a maximum of 1 (FANSI) use a parameter smaller by the square of the mean of their weight.
    """
    if weighting not in ("noise", "uniform"):
        raise InputError(f"weighting is {weighting!r}; it must be 'noise' or 'uniform'.")
    weight = torch.where(field.mask, field.weight if weighting == "noise" else 1.0, 0.0).to(field.field_ppm.dtype)
    return weight / weight[field.mask].mean()
