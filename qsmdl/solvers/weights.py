"""Weights of the data term."""

import math
from typing import Literal

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.derivatives import Gradient
from qsmdl.scan import FieldMap

Weighting = Literal["noise", "uniform"]
USUAL_NOISE_PPM = 8e-4
"""Of the challenge's scans at peak SNR 100 (four echoes at 7 T)."""


def median_noise_ppm(field: FieldMap) -> float:
    """The median of the field's standard deviation in the mask, in ppm; `USUAL_NOISE_PPM` where it is not known."""
    return USUAL_NOISE_PPM if field.noise_ppm is None else float(field.noise_ppm[field.mask].median())


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


def edge_mask(volume: Tensor, mask: Tensor, gradient: Gradient, *, share: float = 0.3) -> Tensor:
    """1 where the gradient of `volume` is small and 0 at its strongest edges, [3, x, y, z] (Liu et al., Magn Reson Med 2012, MEDI).

    volume, usually a magnitude, and mask (bool) are [x, y, z] on the solver's grid; share of the 3 n components of the n voxels of the mask that are
    edges: 0.3 is what the MEDI toolbox means by 90 % (of voxels). A quota marks noise where the magnitude has no contrast.
    """
    if not 0 <= share < 1:
        raise InputError(f"share is {share}; the share of components that are edges must be at least 0 and below 1.")
    strength = gradient.apply_forward(volume * mask).abs()
    n_edges = round(share * 3 * int(mask.sum()))
    if n_edges == 0:
        return torch.ones_like(strength)
    threshold = strength.flatten().kthvalue(strength.numel() - n_edges).values
    return (strength <= threshold).to(volume.dtype)


def soft_edge_weight(volume: Tensor, mask: Tensor, gradient: Gradient, *, floor: float = 0.5) -> Tensor:
    """R = mean |G_i v| / max(|G_i v|, floor * mean) per component, [3, x, y, z], scaled to a maximum of 1: small at edges, so that total variation
    spares them (the regularisation weight of FANSI; Milovic et al., Magn Reson Med 2018).

    The mean is taken over the mask. volume, usually a magnitude or an R2* map, is [x, y, z] on the solver's grid. Outside the mask R is 1.
    """
    if not floor > 0:
        raise InputError(f"floor is {floor}; it must be positive, or flat regions would have an infinite weight.")
    strength = gradient.apply_forward(volume * mask).abs()
    mean = strength[:, mask].mean().clamp(min=torch.finfo(volume.dtype).tiny)
    weight = floor * mean / strength.clamp(min=float(floor * mean))
    return torch.where(mask, weight, 1.0)


def reject_outliers(weight: Tensor, residual: Tensor, *, factor: float = 6.0, power: float = 2.0) -> Tensor:
    """The weight with misfitting voxels turned down, rescaled to its mean before (MERIT, model error reduction through iterative tuning; Liu et al.,
    Magn Reson Med 2013).

    weight, residual (real or complex, weighted): [voxel]. With q = |r - mean r| / (factor std r): w / q^power where q > 1.
    """
    centred = (residual - residual.mean()).abs()
    q = centred / (factor * centred.square().mean().sqrt()).clamp(min=torch.finfo(weight.dtype).tiny)
    tuned = weight / q.clamp(min=1.0) ** power
    return tuned * (weight.mean() / tuned.mean())


def inner_pairs(mask: Tensor) -> Tensor:
    """Where both voxels of a periodic forward difference lie in the mask: bool, [x, y, z] to [3, x, y, z]."""
    return torch.stack([mask & mask.roll(-1, axis) for axis in range(3)])


def percentile(values: Tensor, percent: float) -> Tensor:
    """The nearest-rank percentile of values [n] of any length (torch.quantile ends at 16 million); 0 where there are none."""
    n = values.numel()
    return values.kthvalue(min(max(math.ceil(percent / 100 * n), 1), n)).values if n else values.new_zeros(())


def percentile_ramp(values: Tensor, within: Tensor, low_percent: float, high_percent: float) -> Tensor:
    """1 up to the lower percentile of the values within a mask, 0 from the higher one on, linear between; 0 outside the mask."""
    low, high = (percentile(values[within], p) for p in (low_percent, high_percent))
    width = (high - low).clamp(min=torch.finfo(values.dtype).tiny)
    return torch.where(within, ((high - values) / width).clamp(0, 1), 0.0)
