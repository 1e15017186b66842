"""Small least-squares problems of the field written as matrices."""

import torch
from torch import Tensor

from qsmdl.scan import FieldMap, Geometry
from qsmdl.solvers.problem import Problem


def field_of_even_residuals(geometry: Geometry, seed: int) -> FieldMap:
    """A ragged mask with a weight, in double precision, and a field of one size in all voxels, so that no residual of a map of zeros is bounded."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(geometry.shape, generator=generator) > 0.2
    signs = torch.where(torch.rand(geometry.shape, generator=generator) > 0.5, 0.01, -0.01)
    weight = (0.5 + torch.rand(geometry.shape, generator=generator)).double() * mask
    return FieldMap(geometry, (signs * mask).double(), mask, weight)


def normal_equations(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """D^T W^2 D and D^T W^2 f over the voxels of the mask, and the unit volumes of these voxels on the grid, [voxel, x, y, z]."""
    inside = problem.mask.flatten().nonzero().flatten()
    n = len(inside)
    units = torch.zeros(n, *problem.grid.shape, dtype=torch.float64)
    units.view(n, -1)[torch.arange(n), inside] = 1.0
    dipole = torch.stack([problem.dipole(unit) for unit in units]).view(n, -1)[:, inside].T
    squared = problem.weight.flatten()[inside].square()
    return dipole.T @ (squared[:, None] * dipole), dipole.T @ (squared * problem.data.flatten()[inside]), units
