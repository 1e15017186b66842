"""What a network is fed: the field and a closed-form inversion of it, cut to the mask's bounding box."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.scan import FieldMap, Geometry
from qsmdl.solvers.direct import l2


@dataclass(frozen=True)
class Prior:
    """The closed-form inversions that a network refines: `solvers.direct.l2` at several regularisations, the first of which the network corrects.

    Weakly and strongly regularised maps differ where the dipole kernel is small; together they tell the network what is signal, noise and streak.
    regularisations: per voxel, without a unit: the weight of the squared differences between neighbours. In mm^2 they are this times the squared
    voxel size, so that they suppress the same part of k-space, in cycles per voxel, at every resolution; a network knows voxels, not millimetres.
    """

    regularisations: tuple[float, ...] = (0.012, 0.003, 0.05)

    def __post_init__(self) -> None:
        object.__setattr__(self, "regularisations", tuple(self.regularisations))
        if not self.regularisations or not all(0 < float(r) < math.inf for r in self.regularisations):
            raise InputError(f"The prior's regularisations are {self.regularisations}; at least one is needed, and all must be positive.")

    def __call__(self, field: FieldMap) -> Tensor:
        """Susceptibility in ppm [prior, x, y, z], 0 outside the mask."""
        size_mm = math.prod(field.geometry.voxel_size_mm) ** (1 / 3)
        return torch.stack([l2(field, regularisation=r * size_mm**2).chi_ppm for r in self.regularisations])


@dataclass(frozen=True, eq=False)
class NetworkInputs:
    """Arguments of `PpmAdapter`, all [1, 1, x, y, z] (prior: [1, n, x, y, z]) on the box `box` of the whole grid, and the geometry of that box."""

    field_ppm: Tensor
    prior_ppm: Tensor
    mask: Tensor
    weight: Tensor
    box: tuple[slice, slice, slice]
    geometry: Geometry

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """In the order of `PpmAdapter.forward`."""
        return self.field_ppm, self.prior_ppm, self.mask, self.weight


def bounding_box(mask: Tensor, margin: int = 0) -> tuple[slice, slice, slice]:
    """The box around the voxels of a mask [x, y, z], grown by a margin inside the grid."""
    slices = []
    for axis in range(3):
        inside = mask.any(dim=tuple(a for a in range(3) if a != axis)).nonzero().flatten()
        slices.append(slice(max(int(inside[0]) - margin, 0), min(int(inside[-1]) + 1 + margin, mask.shape[axis])))
    return slices[0], slices[1], slices[2]


def prepare_inputs(field: FieldMap, prior: Prior, *, margin: int = 4) -> NetworkInputs:
    """Field, prior and weight inside the mask, cut to its bounding box: what lies outside is 0 and would only cost memory. The prior sees the whole
    grid.
    """
    if field.kind != "local":
        raise InputError("The networks invert local fields, but this one is 'total': remove the background field first.")
    box = bounding_box(field.mask, margin)
    mask = field.mask[box]
    values, weight = ((v[box] * mask).float()[None, None] for v in (field.field_ppm, field.weight))
    return NetworkInputs(values, prior(field)[:, *box].float()[None], mask[None, None], weight, box, field.geometry.cropped(box))


def paste(chi_ppm: Tensor, inputs: NetworkInputs, field: FieldMap) -> Tensor:
    """A network's output [1, 1, x, y, z] back on the whole grid [x, y, z], 0 outside the mask."""
    whole = torch.zeros(field.geometry.shape, dtype=chi_ppm.dtype, device=chi_ppm.device)
    whole[inputs.box] = chi_ppm[0, 0]
    return whole * field.mask
