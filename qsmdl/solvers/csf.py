"""The cerebrospinal fluid of the ventricles: where it is, and the term that keeps its susceptibility uniform (MEDI+0)."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.scan import Geometry
from qsmdl.solvers.gauss_newton import Linearised
from qsmdl.solvers.krylov import inner
from qsmdl.solvers.objective import FourierCoordinates


def csf_mask(
    r2star_per_s: Tensor, mask: Tensor, geometry: Geometry, *, threshold_per_s: float = 5.0, radius_mm: float = 30.0, n_largest: int = 3
) -> Tensor:
    """Ventricular CSF, bool [x, y, z]: R2* below the threshold, within a radius of the mask's centroid, the largest components that share faces (Liu
    et al., Magn Reson Med 2018, MEDI+0, who erode the mask by 10 mm before, which matters to CSF outside the radius alone).

    r2star_per_s, mask (bool): [x, y, z]. Raises InputError where no voxel qualifies.
    """
    index = mask.nonzero().double()
    size = torch.tensor(geometry.voxel_size_mm, dtype=torch.float64, device=index.device)
    position = index * size
    near = (position - position.mean(0)).norm(dim=1) <= radius_mm
    candidate = torch.zeros_like(mask)
    candidate[tuple(index[near].long().T)] = True
    candidate &= r2star_per_s < threshold_per_s
    labels, n_found = ndimage.label(candidate.cpu().numpy())
    if n_found == 0:
        raise InputError(
            f"No CSF was found: no voxel within {radius_mm:g} mm of the mask's centre has an R2* below {threshold_per_s:g} / s. Raise "
            "csf_r2star_per_s, or set csf_regularisation to 0."
        )
    counts = np.bincount(labels.ravel())[1:]
    largest = np.argsort(counts, kind="stable")[::-1][:n_largest] + 1
    return torch.from_numpy(np.isin(labels, largest)).to(mask.device)


class Uniformity:
    """beta/2 ||x - mean x||^2 over the voxels of a region (bool, on the working grid)."""

    def __init__(self, region: Tensor, coordinates: FourierCoordinates, strength: float) -> None:
        self._inside, self._coordinates, self._beta = region.flatten().nonzero().squeeze(1), coordinates, strength

    def _deviation(self, x: Tensor) -> Tensor:
        values = self._coordinates.unpack(x).flatten()[self._inside]
        return values - values.mean()

    def _spread(self, deviation: Tensor) -> Tensor:
        volume = deviation.new_zeros(self._coordinates.shape)
        volume.view(-1).index_copy_(0, self._inside, deviation * self._beta)
        return self._coordinates.pack(volume)

    def value(self, x: Tensor) -> float:
        """The term's value."""
        deviation = self._deviation(x)
        return 0.5 * self._beta * inner(deviation, deviation)

    def linearise(self, x: Tensor) -> Linearised:
        """Exact, since the term is quadratic; taking off the mean is idempotent and self-adjoint."""
        deviation = self._deviation(x)
        return Linearised(0.5 * self._beta * inner(deviation, deviation), self._spread(deviation), lambda v: self._spread(self._deviation(v)))
