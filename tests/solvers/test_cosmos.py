import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import FieldMap, Geometry
from qsmdl.solvers.cosmos import cosmos

DIRECTIONS = ((0.0, 0.0, 1.0), (0.5, 0.0, math.sqrt(0.75)), (0.0, -0.5, math.sqrt(0.75)))


def fields_of(chi, *, size=(1.0, 1.2, 0.9), mask=None, noise=0.0):
    fields, generator = [], torch.Generator().manual_seed(1)
    mask = torch.ones(chi.shape, dtype=torch.bool) if mask is None else mask
    for direction in DIRECTIONS:
        geometry = Geometry(tuple(chi.shape), size, direction)
        data = Dipole(chi.shape, size, direction, fft_shape=chi.shape, dtype=chi.dtype)(chi)
        data = data + noise * torch.randn(chi.shape, generator=generator, dtype=chi.dtype)
        weight = 0.5 + torch.rand(chi.shape, generator=generator, dtype=chi.dtype)
        fields.append(FieldMap(geometry, data * mask, mask, weight * mask))
    return fields


def random_map(shape=(7, 6, 8)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_three_orientations_give_the_truth_back():
    """A check of the physics: three cones have no direction in common, so nothing but the mean is lost."""
    chi = random_map()
    one, *others = fields_of(chi)
    found = cosmos(one, orientations=others, regularisation=0.0, n_iterations=300, tolerance=1e-10, padding=None).chi_ppm
    torch.testing.assert_close(found, chi - chi.mean(), atol=1e-7, rtol=0)


def test_the_map_is_the_minimiser(dense):
    """Each orientation counts where its own mask is: what lies outside of it changes nothing."""
    chi = random_map((5, 3, 4))
    fields = fields_of(chi, noise=0.05)
    mask = torch.ones(chi.shape, dtype=torch.bool)
    mask[3:] = False
    spoilt = torch.where(mask, fields[2].field_ppm, 1e3)
    fields[2] = replace(fields[2], field_ppm=spoilt, mask=mask, weight=fields[2].weight * mask)
    normal, right = 0.01 * np.eye(chi.numel()), np.zeros(chi.numel())
    for field in fields:
        dipole, weight = dense(field)[0], (field.weight / field.weight[field.mask].mean()).numpy().ravel()
        normal += dipole.T @ (weight[:, None] ** 2 * dipole)
        right += dipole.T @ (weight**2 * field.field_ppm.numpy().ravel())
    expected = np.linalg.solve(normal, right)
    found = cosmos(fields[0], orientations=fields[1:], regularisation=0.01, n_iterations=300, tolerance=1e-11, padding=None)
    np.testing.assert_allclose(found.chi_ppm.numpy().ravel(), expected - expected.mean(), atol=1e-8)


def test_it_scales_with_the_field_and_is_zero_for_a_zero_field():
    chi = random_map()
    one, ten = (fields_of(s * chi) for s in (1.0, 10.0))
    torch.testing.assert_close(cosmos(ten[0], orientations=ten[1:]).chi_ppm, 10 * cosmos(one[0], orientations=one[1:]).chi_ppm)
    zero = fields_of(0 * chi)
    assert float(cosmos(zero[0], orientations=zero[1:]).chi_ppm.abs().max()) == 0


def test_what_cannot_be_solved_is_refused():
    one, two, three = fields_of(random_map())
    with pytest.raises(InputError, match="got 1 orientation"):
        cosmos(one)
    with pytest.raises(InputError, match=r"Orientations 2 and 3 differ by 0\.0 degrees"):
        cosmos(one, orientations=[two, two])
    opposite = replace(one, geometry=replace(one.geometry, b0_direction=(0.0, 0.0, -1.0)))
    with pytest.raises(InputError, match="Orientations 1 and 2 differ"):
        cosmos(one, orientations=[opposite])
    with pytest.raises(InputError, match="Orientation 2 is a 'total' field"):
        cosmos(one, orientations=[replace(two, kind="total")])
    with pytest.raises(InputError, match="register all orientations"):
        cosmos(one, orientations=[fields_of(random_map((6, 7, 8)))[1]])
    with pytest.raises(InputError, match="total-field method"):
        cosmos(replace(one, kind="total"), orientations=[two, three])
    with pytest.raises(InputError, match="regularisation"):
        cosmos(one, orientations=[two], regularisation=-1.0)
