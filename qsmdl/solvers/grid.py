"""The periodic grid a solver works on: the mask's bounding box, padded to a fast size, and the way there and back."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.box import mask_box
from qsmdl.physics.derivatives import gradient_power
from qsmdl.physics.dipole import dipole_kernel
from qsmdl.physics.fourier import fast_shape
from qsmdl.plausible import check_not_phase
from qsmdl.scan import ChiMap, FieldMap, Outcome

PADDING = 1.25
"""The working grid's size over that of the mask's bounding box."""


@dataclass(frozen=True, eq=False, slots=True)
class WorkingGrid:
    """A box of the field map's grid at the start of a periodic grid of `shape`, zeros behind it.

    Sources outside the mask do not exist in a local field, so only the box of the mask is worked on; what is padded keeps its periodic copies away.
    """

    field: FieldMap
    box: tuple[slice, slice, slice]
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, field: FieldMap, padding: float | None) -> "WorkingGrid":
        """padding: factor on the mask's bounding box (1 to 4, rounded up to fast sizes), or None for the field's own grid, taken as periodic.

        Raises InputError for a total field: its sources lie outside the mask, where these solvers put none.
        """
        if field.kind != "local":
            raise InputError(
                f"The field map of {field.name!r} is a {field.kind!r} field, but this solver takes a 'local' one: sources outside the mask would be "
                "explained by sources inside. Remove the background field first, or use a total-field method."
            )
        check_not_phase(field.field_ppm[field.mask], f"The field map of {field.name!r}")
        if padding is None:
            x, y, z = field.geometry.shape
            return cls(field, (slice(0, x), slice(0, y), slice(0, z)), field.geometry.shape)
        box = mask_box(field.mask)
        return cls(field, box, fast_shape([s.stop - s.start for s in box], padding))

    @property
    def inner(self) -> tuple[slice, slice, slice]:
        """Where the box lies on this grid."""
        x, y, z = (slice(0, s.stop - s.start) for s in self.box)
        return x, y, z

    def place(self, volume: Tensor) -> Tensor:
        """A volume of the field map's grid, masked, on this grid; zeros in the padding."""
        placed = volume.new_zeros(self.shape)
        placed[self.inner] = torch.where(self.field.mask[self.box], volume[self.box], 0.0)
        return placed

    def chi_map(self, chi_ppm: Tensor, outcome: Outcome) -> ChiMap:
        """The map on the field map's grid, 0 outside the mask."""
        whole = chi_ppm.new_zeros(self.field.geometry.shape)
        whole[self.box] = torch.where(self.field.mask[self.box], chi_ppm[self.inner], 0.0)
        return ChiMap(self.field.geometry, whole, self.field.mask, outcome)

    def dipole(self) -> Tensor:
        """Half spectrum of the dipole kernel on this grid, D(0) = 0."""
        geometry, data = self.field.geometry, self.field.field_ppm
        return dipole_kernel(self.shape, geometry.voxel_size_mm, geometry.b0_direction, dtype=data.dtype).to(data.device)

    def gradient_power(self) -> Tensor:
        """Half spectrum of G^T G on this grid in 1/mm^2."""
        data = self.field.field_ppm
        return gradient_power(self.shape, self.field.geometry.voxel_size_mm, dtype=data.dtype).to(data.device)
