"""The correction that makes the fine scales of a map explain the field."""

import dataclasses

import pytest
import torch
from dense_problems import field_of_even_residuals, normal_equations

from qsmdl.errors import InputError
from qsmdl.scan import FieldMap, Geometry, Outcome
from qsmdl.solvers import fine_scales
from qsmdl.solvers.fine_scales import fine_correction, fine_damping
from qsmdl.solvers.problem import Problem

GEOMETRY = Geometry((7, 8, 6), (1.0, 1.2, 1.5), b0_direction=(0.0, 0.6, 0.8))
HEAD = Geometry((32, 32, 32))


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def head():
    """A rough map in a ball and its field, on the solver's own grid, with noise of known size."""
    x, y, z = torch.meshgrid(*(torch.arange(32.0) - 15.5 for _ in range(3)), indexing="ij")
    mask = x**2 + y**2 + z**2 < 12**2
    chi = 0.02 * torch.randn(HEAD.shape, generator=generator(0)) * mask
    blank = FieldMap(HEAD, torch.zeros(HEAD.shape), mask, mask.float(), torch.full(HEAD.shape, 4e-4))
    problem = Problem.of(blank, padding=1.5)
    values = problem.grid.chi_map(problem.dipole(problem.grid.place(chi)), Outcome(0, "", 0.0)).chi_ppm
    noise = 4e-4 * torch.randn(HEAD.shape, generator=generator(1))
    return chi, dataclasses.replace(blank, field_ppm=(values + noise) * mask)


def smoothed(chi):
    return torch.nn.functional.avg_pool3d(chi[None, None], 3, 1, 1)[0, 0]


def test_a_map_that_is_too_smooth_is_sharpened(head):
    chi, field = head
    mask = field.mask
    smooth = smoothed(chi) * mask
    found = smooth + fine_correction(smooth, field)
    k = torch.stack(torch.meshgrid(*[torch.fft.fftfreq(32)] * 3, indexing="ij"))
    kernel = (1 / 3 - k[2] ** 2 / (k**2).sum(0).clamp(min=1e-9)).abs()
    before, after = (torch.fft.fftn(v - chi).abs().square() for v in (smooth, found))
    well, badly = kernel > 0.3, kernel < 0.05
    assert after[well].sum() < 0.3 * before[well].sum()
    assert 0.85 < after[badly].sum() / before[badly].sum() < 1.05
    assert after.sum() < 0.6 * before.sum()
    assert float(found[~mask].abs().max()) == 0


def test_a_map_that_explains_the_field_gets_no_more_than_damped_noise(head):
    chi, field = head
    inside = field.mask
    assert fine_correction(chi, field)[inside].std() < 2 * 4e-4
    assert fine_correction(chi, field, damping=10.0)[inside].std() < 0.1 * 4e-4


def test_damping_follows_the_noise(head):
    _, field = head
    assert fine_damping(field) == pytest.approx((0.4**2 + 0.2**2) / 1.4**2)
    assert fine_damping(dataclasses.replace(field, noise_ppm=None)) == pytest.approx((0.8**2 + 0.2**2) / 1.4**2)
    exact = dataclasses.replace(field, noise_ppm=torch.full(HEAD.shape, 1e-9))
    assert fine_damping(exact) == pytest.approx((0.2 / 1.4) ** 2)


def test_it_is_the_minimum(monkeypatch):
    """Against the normal equations written as matrices, with residuals alike in all voxels so that none is bounded."""
    monkeypatch.setattr(fine_scales, "_TOLERANCE", 1e-9)
    field = field_of_even_residuals(GEOMETRY, 2)
    normal, target, units = normal_equations(Problem.of(field, padding=1.5))
    expected = torch.linalg.solve(normal + 0.05 * torch.eye(len(units)), target)
    found = fine_correction(torch.zeros(GEOMETRY.shape, dtype=torch.float64), field, damping=0.05, n_iterations=300)
    torch.testing.assert_close(found[field.mask], expected, rtol=1e-5, atol=1e-8)


def test_single_voxels_pull_no_harder_than_the_rest(head):
    """A field that no susceptibility explains, as beside a calcification."""
    chi, field = head
    wrong = field.field_ppm.clone()
    wrong[16, 16, 16] += 1.0
    smooth = smoothed(chi) * field.mask
    plain, disturbed = (fine_correction(smooth, f) for f in (field, dataclasses.replace(field, field_ppm=wrong)))
    assert 0 < (disturbed - plain).abs().max() < 0.05


def test_what_goes_in_stays_as_it_is(head):
    chi, field = head
    copies = chi.clone(), field.field_ppm.clone()
    fine_correction(chi, field)
    assert torch.equal(chi, copies[0])
    assert torch.equal(field.field_ppm, copies[1])


def test_what_cannot_be_is_named(head):
    chi, field = head
    with pytest.raises(InputError, match=r"chi_ppm is \(32, 32, 31\), but the field map is \(32, 32, 32\)"):
        fine_correction(chi[..., :31], field)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="must be positive"):
            fine_correction(chi, field, damping=wrong)
    with pytest.raises(InputError, match="'total' field"):
        fine_correction(chi, dataclasses.replace(field, kind="total"))
