"""What is measured on a map, against sums written out."""

import math
from dataclasses import replace

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import ChiMap, FieldMap, Geometry, Outcome
from qsmdl.selecting.costs import Examiner
from qsmdl.solvers.grid import PADDING, WorkingGrid

GEOMETRY = Geometry((14, 11, 12), (1.0, 1.5, 1.2), (0.0, 0.6, 0.8))


@pytest.fixture
def case() -> tuple[FieldMap, ChiMap]:
    """A ball of random susceptibility, its field with an error of 3e-3 ppm in every voxel, and wild values outside the mask."""
    generator = torch.Generator().manual_seed(1)
    index = torch.meshgrid(*(torch.arange(n) - n / 2 for n in GEOMETRY.shape), indexing="ij")
    mask = sum(i.square() for i in index) < 20
    chi = torch.where(mask, 0.1 * torch.randn(GEOMETRY.shape, generator=generator), 0.0).double()
    grid = WorkingGrid.of(FieldMap(GEOMETRY, chi, mask, mask.double()), PADDING)
    operator = Dipole(grid.shape, GEOMETRY.voxel_size_mm, GEOMETRY.b0_direction, fft_shape=grid.shape, dtype=torch.float64)
    field = torch.zeros_like(chi)
    field[grid.box] = operator(grid.place(chi))[grid.inner]
    weight = torch.where(mask, torch.rand(GEOMETRY.shape, generator=generator) + 0.5, 0.0).double()
    measured = torch.where(mask, field + 3e-3, 0.0)
    noise = torch.where(mask, 1.5e-3, 0.0).double()
    return FieldMap(GEOMETRY, measured, mask, weight, noise), ChiMap(GEOMETRY, chi, mask, Outcome(1, "made up", 0.0))


def test_the_misfit_is_that_of_the_mask(case):
    field, chi = case
    found = Examiner(field)(chi)
    weight = field.weight[field.mask] / field.weight[field.mask].mean()
    assert found.misfit_ppm == pytest.approx(3e-3 * math.sqrt(float(weight.square().mean())))
    assert found.whitened == pytest.approx(4.0)
    outside = replace(field, field_ppm=torch.where(field.mask, field.field_ppm, 1e3))
    assert Examiner(outside)(chi) == found


def test_the_gradient_stops_at_the_mask(case):
    field, chi = case
    x, mask, total = chi.chi_ppm, field.mask, 0.0
    for axis, size in enumerate(GEOMETRY.voxel_size_mm):
        n = x.shape[axis]
        a, b = x.narrow(axis, 0, n - 1), x.narrow(axis, 1, n - 1)
        both = mask.narrow(axis, 0, n - 1) & mask.narrow(axis, 1, n - 1)
        total += float(((b - a).abs() * both).sum()) / size
    assert Examiner(field)(chi).roughness_ppm_per_mm == pytest.approx(total / int(mask.sum()))
    lifted = replace(chi, chi_ppm=torch.where(mask, x + 5.0, 0.0))
    assert Examiner(field)(lifted).roughness_ppm_per_mm == pytest.approx(total / int(mask.sum()))


def test_noise_is_balanced_and_a_filled_cone_is_not(case):
    field, chi = case
    examine = Examiner(field)
    white = torch.where(field.mask, torch.randn(GEOMETRY.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64), 0.0)
    bands = examine(replace(chi, chi_ppm=white)).band_ppm
    assert max(bands) < 1.3 * min(bands)


def test_unknown_noise_is_not_whitened(case):
    field, chi = case
    assert math.isnan(Examiner(replace(field, noise_ppm=None))(chi).whitened)


def test_a_total_field_is_refused(case):
    with pytest.raises(InputError, match="total"):
        Examiner(replace(case[0], kind="total"))
