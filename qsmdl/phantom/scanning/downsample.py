"""Masks, labels and geometry on a coarser grid of the same field of view, in register with the k-space crop (voxel 0 stays where it is)."""

from dataclasses import replace

import torch
from torch import Tensor

from qsmdl.phantom.drawing.sampling import apply_separable
from qsmdl.physics.box import Box, mask_box
from qsmdl.scan import LABELS, Geometry

Shape = tuple[int, int, int]
_FAVOURED = {LABELS["blood"]: 1.6, LABELS["calcification"]: 1.2}
"""A vessel thinner than a voxel never holds the majority of one; its share counts more so that it stays connected."""


def coarse_geometry(geometry: Geometry, shape: Shape) -> Geometry:
    """The geometry of a coarser grid over the same field of view, with the affine's columns stretched."""
    ratios = [n / m for n, m in zip(geometry.shape, shape, strict=True)]
    x, y, z = (v * r for v, r in zip(geometry.voxel_size_mm, ratios, strict=True))
    affine = geometry.affine
    if affine is not None:
        affine = affine.copy()
        affine[:3, :3] *= ratios
    return replace(geometry, shape=shape, voxel_size_mm=(x, y, z), affine=affine)


def overlap_matrix(n_fine: int, n_coarse: int) -> Tensor:
    """Share [n_coarse, n_fine] of each coarse voxel covered by each fine one; the centres of both voxels 0 coincide."""
    width = n_fine / n_coarse
    centre = torch.arange(n_coarse, dtype=torch.float64)[:, None] * width
    fine = torch.arange(n_fine, dtype=torch.float64)[None]
    low = torch.maximum(centre - width / 2, fine - 0.5)
    high = torch.minimum(centre + width / 2, fine + 0.5)
    share = (high - low).clamp_min(0)
    return (share / share.sum(1, keepdim=True)).float()


def _matrices(fine: tuple[int, ...], coarse: Shape, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = (overlap_matrix(n, m).to(device) for n, m in zip(fine, coarse, strict=True))
    return x, y, z


def cell_average(volume: Tensor, shape: Shape) -> Tensor:
    """The mean [*shape] of a volume [x, y, z] over the cell of each coarse voxel, fine voxels on a border counting with their share."""
    return apply_separable(volume.float(), _matrices(tuple(volume.shape), shape, volume.device))


def coarse_mask(mask: Tensor, shape: Shape) -> Tensor:
    """Voxels at least half filled by a boolean mask [x, y, z]: boolean [*shape]."""
    filled = torch.zeros(shape, dtype=torch.bool, device=mask.device)
    if bool(mask.any()):
        coarse, share = _share_of(mask, mask_box(mask), _matrices(tuple(mask.shape), shape, mask.device))
        filled[coarse] = share >= 0.5
    return filled


def _share_of(mask: Tensor, box: Box, matrices: tuple[Tensor, Tensor, Tensor]) -> tuple[Box, Tensor]:
    """The coarse voxels that a mask's box touches, and how much of each the mask fills."""
    x, y, z = (_touched(matrix, span) for matrix, span in zip(matrices, box, strict=True))
    along = (matrices[0][x, box[0]], matrices[1][y, box[1]], matrices[2][z, box[2]])
    return (x, y, z), apply_separable(mask[box].float(), along)


def coarse_labels(labels: Tensor, shape: Shape) -> Tensor:
    """The label with the largest share of each coarse voxel [*shape], uint8; blood and calcification count 1.6 and 1.2 times."""
    matrices = _matrices(tuple(labels.shape), shape, labels.device)
    counts = torch.bincount(labels.reshape(-1).int())
    most = int(counts.argmax())
    # The most frequent label, air or CSF, has what the others leave; those are looked at in their boxes alone.
    left = torch.ones(shape, device=labels.device)
    best = torch.zeros(shape, device=labels.device)
    winner = torch.full(shape, most, dtype=torch.uint8, device=labels.device)
    for label in counts.nonzero().flatten().tolist():
        if label == most:
            continue
        found = labels == label
        coarse, share = _share_of(found, mask_box(found), matrices)
        left[coarse] -= share
        share *= _FAVOURED.get(label, 1.0)
        better = share > best[coarse]
        winner[coarse].masked_fill_(better, label)
        best[coarse] = torch.maximum(best[coarse], share)
    return winner.masked_fill_(left * _FAVOURED.get(most, 1.0) > best, most)


def _touched(matrix: Tensor, span: slice) -> slice:
    """The coarse voxels that share something with a span of fine ones."""
    rows = matrix[:, span].sum(1).nonzero()
    return slice(int(rows[0]), int(rows[-1]) + 1)


def nearest_labels(labels: Tensor, shape: Shape) -> Tensor:
    """The label at the centre of each coarse voxel [*shape]: faster than `coarse_labels`, and thin vessels break up."""
    for axis, m in enumerate(shape):
        n = labels.shape[axis]
        nearest = (torch.arange(m, device=labels.device, dtype=torch.float64) * n / m).round().long().clamp_(max=n - 1)
        labels = labels.index_select(axis, nearest)
    return labels
