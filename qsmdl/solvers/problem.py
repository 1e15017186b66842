"""What most solvers start from: the measured field and its weight on the working grid."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from qsmdl.physics.derivatives import Gradient
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import ChiMap, FieldMap
from qsmdl.solvers.grid import WorkingGrid
from qsmdl.solvers.solution import Solution
from qsmdl.solvers.weights import Weighting, data_weight
from qsmdl.units import rad_per_ppm


@dataclass(frozen=True, eq=False, slots=True)
class Problem:
    """Explain `data` (ppm) where `weight` is not 0, both [x, y, z] on the grid and 0 in the padding; the weight has mean 1 in the mask.

    inside: flat indices of the voxels with a weight; measured and squared_weight: field and w^2 there, [voxel].
    """

    grid: WorkingGrid
    data: Tensor
    weight: Tensor
    inside: Tensor
    measured: Tensor
    squared_weight: Tensor

    @classmethod
    def of(cls, field: FieldMap, *, padding: float | None, weighting: Weighting = "noise") -> "Problem":
        """padding: see `WorkingGrid.of`; weighting: see `data_weight`. Raises InputError for a total field."""
        grid = WorkingGrid.of(field, padding)
        weight = grid.place(data_weight(field, weighting))
        return cls.weighted(grid, grid.place(field.field_ppm), weight)

    @classmethod
    def weighted(cls, grid: WorkingGrid, data: Tensor, weight: Tensor) -> "Problem":
        """With another field or weight on the same grid, taken as it is."""
        inside = weight.flatten().nonzero().squeeze(1)
        return cls(grid, data, weight, inside, data.flatten()[inside], weight.flatten()[inside].square())

    @property
    def mask(self) -> Tensor:
        """The field map's mask on the grid, bool."""
        return self.grid.place(self.grid.field.mask.to(self.data.dtype)) > 0

    @property
    def gradient(self) -> Gradient:
        """The periodic gradient in 1/mm."""
        return Gradient(self.grid.field.geometry.voxel_size_mm)

    @property
    def dipole(self) -> Dipole:
        """The dipole operator, periodic on the grid."""
        geometry = self.grid.field.geometry
        operator = Dipole(self.grid.shape, geometry.voxel_size_mm, geometry.b0_direction, fft_shape=self.grid.shape, dtype=self.data.dtype)
        return operator.to(self.data.device)

    def radians(self, echo_time_s: float) -> float:
        """2 pi gamma B0 TE in rad/ppm."""
        return rad_per_ppm(self.grid.field.geometry.b0_tesla, echo_time_s)

    def where_measured(self, prox: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """A proximal map of the voxels with a weight [voxel] as one of the grid: where the weight is 0 it is the identity."""

        def apply(v: Tensor) -> Tensor:
            z = v.clone()
            z.view(-1).index_copy_(0, self.inside, prox(v.flatten()[self.inside]))
            return z

        return apply

    def chi_map(self, solution: Solution[Tensor]) -> ChiMap:
        """The map on the field map's grid, 0 outside the mask."""
        return self.grid.chi_map(solution.x, solution.outcome)
