"""What may be added to the fidelity of a fit at test time."""

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.derivatives import Gradient


def total_variation(chi_ppm: Tensor, mask: Tensor, voxel_size_mm: tuple[float, float, float]) -> Tensor:
    """Mean over the mask of |grad chi| (sum over axes, ppm/mm), differences across the mask's border left out."""
    gradient = Gradient(voxel_size_mm, boundary="neumann")
    inside = (gradient(mask.float()) == 0) & mask.unsqueeze(-4)
    mean: Tensor = (gradient(chi_ppm).abs() * inside).sum() / mask.sum()
    return mean


class NetworkPrior:
    """<w (chi - chi_0)^2> / <w (chi_0 - <w chi_0>)^2>, means over the mask: by how much of its own variance a map departs from that of the untouched
    network. No unit; 0.01 is a change of 10 % of the map's contrast.

    start_ppm: chi_0 [1, 1, x, y, z]; weight: the data's relative confidence w, so that learned texture is kept where it was well seen, while strong
    sources without signal, which networks underestimate, stay free to explain the field around them. Raises InputError where chi_0 is constant.
    """

    def __init__(self, start_ppm: Tensor, mask: Tensor, weight: Tensor) -> None:
        share = weight * mask
        self.start_ppm, self._share = start_ppm, share / share.sum()
        variance = self._mean((start_ppm - self._mean(start_ppm)).square())
        if not float(variance) > 0:
            raise InputError("The untouched network's map is constant in the mask, so no departure from it can be measured. Set prior_weight to 0.")
        self._variance = variance

    def __call__(self, chi_ppm: Tensor) -> Tensor:
        """The departure of a map [1, 1, x, y, z], a scalar."""
        return self._mean((chi_ppm - self.start_ppm).square()) / self._variance

    def _mean(self, values: Tensor) -> Tensor:
        return torch.sum(values * self._share)
