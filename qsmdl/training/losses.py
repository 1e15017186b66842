"""Training losses: plain functions of tensors [batch, 1, x, y, z] in ppm, each a mean over the voxels of the mask."""

from functools import lru_cache

import torch
from torch import Tensor

from qsmdl.physics.derivatives import Gradient
from qsmdl.physics.dipole import Dipole


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values inside the mask; 0 for an empty mask."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def masked_l1(chi_ppm: Tensor, true_chi_ppm: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error in ppm."""
    return masked_mean((chi_ppm - true_chi_ppm).abs(), mask)


def relative_error(chi_ppm: Tensor, true_chi_ppm: Tensor, mask: Tensor, *, floor_ppm: float = 0.01) -> Tensor:
    """Root mean square error of each sample over the root mean square of its truth, averaged over the batch: NRMSE, without demeaning.

    An error in ppm would let heads of strong contrast decide; a network trained on it exaggerates weak contrast (measured: on heads like Sim1 it
    fell behind the inversion that it was fed). floor_ppm is added to the denominator in quadrature, for patches that hold next to nothing.
    """
    n_voxels = mask.flatten(1).sum(1).clamp(min=1)
    error, size = (((v.square() * mask).flatten(1).sum(1)) / n_voxels for v in (chi_ppm - true_chi_ppm, true_chi_ppm))
    return torch.sqrt((error + 1e-8) / (size + floor_ppm**2)).mean()  # 1e-8 bounds the gradient at 0


@lru_cache(maxsize=4)
def _dipole(
    shape: tuple[int, ...], voxel_size_mm: tuple[tuple[float, ...], ...], b0_direction: tuple[tuple[float, ...], ...], device: torch.device
) -> Dipole:
    return Dipole(shape, torch.tensor(voxel_size_mm), torch.tensor(b0_direction)).to(device)


def dipole_consistency(chi_ppm: Tensor, true_chi_ppm: Tensor, mask: Tensor, weight: Tensor, voxel_size_mm: Tensor, b0_direction: Tensor) -> Tensor:
    """Weighted mean absolute field, in ppm, of the error of chi: the model loss of QSMnet (Yoon et al., NeuroImage 2018) without its wrap-around.

    The field of the *difference* is compared, on a padded grid: the sources outside the patch then need not be known. voxel_size_mm, b0_direction:
    [batch, 3].
    """
    shape = tuple(chi_ppm.shape[-3:])
    geometry = (tuple(tuple(v.tolist()) for v in values) for values in (voxel_size_mm, b0_direction))
    field = _dipole(shape, *geometry, chi_ppm.device)((chi_ppm - true_chi_ppm).float() * mask)
    return masked_mean(field.abs() * weight, mask)


def gradient_difference(chi_ppm: Tensor, true_chi_ppm: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference of the forward differences (ppm per voxel) whose two voxels lie in the mask (after Mathieu et al. 2016; Yoon et al.
    2018).
    """
    gradient = Gradient(boundary="neumann")
    inside = (gradient(mask.float()) == 0) & mask.unsqueeze(-4)
    return masked_mean(gradient((chi_ppm - true_chi_ppm).float()).abs(), inside)


def nrmse(chi_ppm: Tensor, true_chi_ppm: Tensor, mask: Tensor) -> Tensor:
    """100 * norm(r - t) / norm(t) in the mask after removing both means, as the challenge measures it; for watching training, not for scoring."""
    recon, truth = (v - masked_mean(v, mask) for v in (chi_ppm, true_chi_ppm))
    return 100 * torch.sqrt(((recon - truth).square() * mask).sum() / (truth.square() * mask).sum())
