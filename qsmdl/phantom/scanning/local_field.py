"""The field of a phantom without noise, echoes or fit: what a perfect field map of its scan would show."""

import torch
from torch import Tensor

from qsmdl.physics.dipole import Dipole
from qsmdl.physics.fourier import crop_kspace
from qsmdl.scan import Geometry, Phantom


@torch.no_grad()
def local_field(phantom: Phantom, geometry: Geometry, *, padding: float = 2.0) -> Tensor:
    """The field in ppm [x, y, z] of the brain's susceptibility on the grid of a scan; padding: zero-padding of the dipole convolution.

    Susceptibility is cropped in k-space as the scan's signal is, and then convolved: the dipole kernel acts on each frequency alone, so this is the
    crop of the fine field.
    """
    chi_ppm = crop_kspace(phantom.chi_ppm * phantom.mask, geometry.shape).real.contiguous()
    field: Tensor = Dipole.of(geometry, padding).to(chi_ppm.device)(chi_ppm)
    return field
