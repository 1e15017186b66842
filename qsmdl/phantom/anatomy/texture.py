"""Maps from labels: relaxation rates with detail, and susceptibility that follows them within each tissue (Marques et al., MRM 2021;86:526-542)."""

import dataclasses
import math

import torch
from torch import Tensor

from qsmdl.phantom.anatomy.params import HeadParams
from qsmdl.phantom.drawing.sampling import Axes, Lattice, band_noise, seeded, smooth_noise
from qsmdl.phantom.tissue.contrast import N_LABELS, Contrast, Table
from qsmdl.phantom.tissue.maps import MAP_NAMES, Maps
from qsmdl.phantom.tissue.mosaic import Mosaic
from qsmdl.physics.box import slabs

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
    counts, sums = torch.zeros(N_LABELS, dtype=torch.long, device="cpu"), torch.zeros(N_LABELS, dtype=torch.float64, device="cpu")
    for slab in slabs(values.shape, values.device):
        # On the CPU: a GPU would add in any order.
        part = labels[slab].int().cpu()
        counts += torch.bincount(part, minlength=N_LABELS)
        # Summed in float64: a float32 sum over millions of voxels would shift the reference.
        sums += torch.bincount(part, weights=values[slab].double().cpu(), minlength=N_LABELS)
    return (sums / counts.clamp_min(1)).float().to(values.device)


def _coefficients(contrast: Contrast, means: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Rates and chi of each label as linear functions of both details (R2*'s and R1's): their constants and their slopes, tables [17].

    chi = chi_ref + a (R2* - mean R2*) + b (R1 - mean R1), in which rates are R (1 + spread detail). means: of the details in each label.
    """
    table = {f.name: torch.tensor(getattr(contrast, f.name), dtype=torch.float64) for f in dataclasses.fields(contrast)}
    r2star, r1 = table["r2star_per_s"] * table["r2star_spread"], table["r1_per_s"] * table["r1_spread"]
    a, b = table["r2star_slope"] * r2star, table["r1_slope"] * r1
    found = {
        "chi_ppm": table["chi_ppm"] - a * means[0] - b * means[1],
        "chi_of_first": a,
        "chi_of_second": b,
        "r2star_per_s": table["r2star_per_s"],
        "r2star_of_first": r2star,
        "r1_per_s": table["r1_per_s"],
        "r1_of_second": r1,
        "m0": table["m0"],
    }
    return {name: values.float() for name, values in found.items()}


def _maps_of(coefficients: dict[str, Tensor], labels: Tensor, first: Tensor, second: Tensor) -> Maps:
    index = labels.long()
    look = {name: torch.take(values, index) for name, values in coefficients.items()}
    return Maps(
        look["chi_ppm"].addcmul_(look["chi_of_first"], first).addcmul_(look["chi_of_second"], second),
        look["r1_per_s"].addcmul_(look["r1_of_second"], second),
        look["r2star_per_s"].addcmul_(look["r2star_of_first"], first),
        look["m0"],
    )


def tissue_maps(contrast: Contrast, labels: Tensor, detail: tuple[Tensor, Tensor]) -> Maps:
    """Maps with chi = chi_ref + a (R2* - mean R2*) + b (R1 - mean R1) within each label, and the rates themselves; means of these voxels.

    labels: integers of any shape; detail: unit-variance fields for R2* and R1 of that shape.
    """
    first, second = detail
    flat = labels.reshape(-1)
    means = tissue_means(first.reshape(-1), flat), tissue_means(second.reshape(-1), flat)
    return _in_slabs(_coefficients(contrast, means), Mosaic(labels, None, None, 1.0), detail)


def mosaic_maps(contrast: Contrast, mosaic: Mosaic, detail: tuple[Tensor, Tensor]) -> Maps:
    """`tissue_maps` of a mosaic: where two tissues share a voxel, their maps are mixed by their shares. Means are those of `Mosaic.settle`."""
    first, second = detail
    flat = mosaic.settle().reshape(-1)
    means = tissue_means(first.reshape(-1), flat), tissue_means(second.reshape(-1), flat)
    return _in_slabs(_coefficients(contrast, means), mosaic, detail)


def _in_slabs(coefficients: dict[str, Tensor], mosaic: Mosaic, detail: tuple[Tensor, Tensor]) -> Maps:
    maps = Maps(*(torch.empty(mosaic.below.shape) for _ in MAP_NAMES))
    for slab in slabs(mosaic.below.shape, mosaic.below.device):
        first, second = detail[0][slab], detail[1][slab]
        part = _maps_of(coefficients, mosaic.below[slab], first, second)
        if mosaic.above is not None and mosaic.share is not None:
            part.blend(_maps_of(coefficients, mosaic.above[slab], first, second), mosaic.share[slab])
        for name in MAP_NAMES:
            getattr(maps, name)[slab] = getattr(part, name)
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
