import math

import pytest
import torch
from operator_checks import check_operator

from qsmdl.physics.derivatives import Gradient, SymmetricGradient


def symmetric_oracle(geometry, boundary):
    """The dense matrix, from the gradient's one."""
    n = math.prod(geometry.shape)
    units = torch.eye(n, dtype=torch.float64).reshape(n, *geometry.shape)
    rows = Gradient(geometry.voxel_size_mm, boundary)(units).reshape(n, 3, n).permute(1, 2, 0)
    entry = [[torch.zeros(n, 3 * n, dtype=torch.float64) for _ in range(3)] for _ in range(3)]
    for i in range(3):
        for j in range(3):
            entry[i][j][:, j * n : (j + 1) * n] = rows[i]
    symmetric = [[(entry[i][j] + entry[j][i]) / 2 for j in range(3)] for i in range(3)]
    return torch.cat([symmetric[i][i] for i in range(3)] + [math.sqrt(2) * symmetric[i][j] for i, j in ((0, 1), (0, 2), (1, 2))])


@pytest.mark.parametrize("boundary", ["periodic", "neumann"])
def test_symmetric_gradient_passes_the_four_checks(geometry, boundary):
    field = torch.randn((3, *geometry.shape), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    check_operator(SymmetricGradient(geometry.voxel_size_mm, boundary), field, symmetric_oracle(geometry, boundary))


def test_its_norm_is_that_of_the_matrices(geometry):
    """The squares of all nine entries of (G v + (G v)^T) / 2, summed."""
    field = torch.randn((3, *geometry.shape), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    jacobian = torch.stack([Gradient(geometry.voxel_size_mm)(component) for component in field])
    full = (jacobian + jacobian.transpose(0, 1)) / 2
    assert float(SymmetricGradient(geometry.voxel_size_mm)(field).square().sum()) == pytest.approx(float(full.square().sum()))
