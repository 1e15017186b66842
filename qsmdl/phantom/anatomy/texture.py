"""Maps from labels: relaxation rates with detail, and susceptibility that follows them within each tissue (Marques et al., MRM 2021;86:526-542)."""

import math

import torch
from torch import Tensor

from qsmdl.phantom.anatomy.params import HeadParams
from qsmdl.phantom.drawing.sampling import Axes, Lattice, band_noise, seeded, smooth_noise
from qsmdl.phantom.tissue.contrast import N_LABELS, Contrast, Table
from qsmdl.phantom.tissue.maps import MAP_NAMES, Maps
from qsmdl.phantom.tissue.mosaic import Mosaic

_FINE = Lattice.of(1.3)
_LIMIT = 3.0
"""Detail is clamped at this many standard deviations."""


def _detail(params: HeadParams, stream: int) -> Tensor:
    """Unit-variance detail on the fine lattice: patches of about 4 mm and a power-law remainder down to 1.3 mm."""
    coarse = smooth_noise(_FINE, seeded(params.seed, stream), 3.9)
    fine = band_noise(_FINE, seeded(params.seed, stream + 1), lambda k: (k + 0.05) ** -0.8)
    share = params.texture_mix
    return coarse * math.sqrt(1 - share) + fine * math.sqrt(share)


def draw_detail(params: HeadParams, axes: Axes) -> tuple[Tensor, Tensor]:
    """Detail of R2* and of R1 on the grid of three axes: unit variance, correlated by params.texture_correlation, within 3 standard deviations."""
    first, second = _detail(params, 80), _detail(params, 84)
    c = params.texture_correlation
    r2star = _FINE.read(first, axes).clamp_(-_LIMIT, _LIMIT)
    r1 = _FINE.read(c * first + (1 - c * c) ** 0.5 * second, axes).clamp_(-_LIMIT, _LIMIT)
    return r2star, r1


def per_voxel(values: Table, labels: Tensor) -> Tensor:
    """A tissue table looked up at integer labels of any shape."""
    return torch.tensor(values, dtype=torch.float32).index_select(0, labels.reshape(-1).int()).reshape(labels.shape)


def tissue_means(values: Tensor, labels: Tensor) -> Tensor:
    """Mean of a map in each label: [17], 0 where a label does not occur. Both inputs are flat."""
    counts = torch.bincount(labels, minlength=N_LABELS)
    # Summed in float64: a float32 sum over millions of voxels would shift the reference. On the CPU: a GPU would add them in any order.
    sums = torch.bincount(labels.cpu(), weights=values.double().cpu(), minlength=N_LABELS).to(values.device)
    return (sums / counts.clamp_min(1)).float()


def tissue_maps(contrast: Contrast, labels: Tensor, detail: tuple[Tensor, Tensor], means: tuple[Tensor, Tensor] | None = None) -> Maps:
    """Maps with chi = chi_ref + a (R2* - mean R2*) + b (R1 - mean R1) within each label, and the rates themselves.

    labels: integers of any shape; detail: unit-variance fields for R2* and R1 of that shape; means: of R2* and R1 in each label [17], None for those
    of these voxels.
    """
    flat = labels.reshape(-1).int()
    r2star, r1 = _rates(contrast, flat, detail)
    r2star_mean, r1_mean = (tissue_means(r2star, flat), tissue_means(r1, flat)) if means is None else means
    chi = per_voxel(contrast.chi_ppm, flat)
    for rate, mean, slope in ((r2star, r2star_mean, contrast.r2star_slope), (r1, r1_mean, contrast.r1_slope)):
        chi += per_voxel(slope, flat) * (rate - mean.index_select(0, flat))
    m0 = per_voxel(contrast.m0, flat)
    return Maps(*(values.reshape(labels.shape) for values in (chi, r1, r2star, m0)))


def _rates(contrast: Contrast, flat: Tensor, detail: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """R2* and R1 of flat labels, with detail."""
    r2star = per_voxel(contrast.r2star_per_s, flat) * (1 + per_voxel(contrast.r2star_spread, flat) * detail[0].reshape(-1))
    r1 = per_voxel(contrast.r1_per_s, flat) * (1 + per_voxel(contrast.r1_spread, flat) * detail[1].reshape(-1))
    return r2star, r1


def mosaic_maps(contrast: Contrast, mosaic: Mosaic, detail: tuple[Tensor, Tensor]) -> Maps:
    """`tissue_maps` of a mosaic: where two tissues share a voxel, their maps are mixed by their shares."""
    if mosaic.above is None or mosaic.share is None:
        return tissue_maps(contrast, mosaic.below, detail)
    flat = mosaic.settle().reshape(-1).int()
    r2star, r1 = _rates(contrast, flat, detail)
    means = tissue_means(r2star, flat), tissue_means(r1, flat)
    maps = tissue_maps(contrast, mosaic.below, detail, means)
    mixed = mosaic.share > 0
    part = maps.part(mixed)
    part.blend(tissue_maps(contrast, mosaic.above[mixed], (detail[0][mixed], detail[1][mixed]), means), mosaic.share[mixed])
    for name in MAP_NAMES:
        getattr(maps, name)[mixed] = getattr(part, name)
    return maps


def blur(volume: Tensor, sigma_voxels: tuple[float, float, float]) -> Tensor:
    """Soften tissue borders as partial volume does: three taps per axis with the variance of a Gaussian (edges replicated)."""
    for axis, sigma in enumerate(sigma_voxels):
        if (side := min(sigma * sigma / 2, 0.25)) > 1e-3 and volume.shape[axis] > 1:
            n = volume.shape[axis] - 1
            soft = volume * (1 - 2 * side)
            soft.narrow(axis, 0, n).add_(volume.narrow(axis, 1, n), alpha=side)
            soft.narrow(axis, 1, n).add_(volume.narrow(axis, 0, n), alpha=side)
            for end in (0, n):
                soft.select(axis, end).add_(volume.select(axis, end), alpha=side)
            volume = soft
    return volume
