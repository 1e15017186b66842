"""The smooth correction that makes the large scales of a map explain the field."""

import dataclasses

import pytest
import torch
from dense_problems import field_of_even_residuals, normal_equations

from qsmdl.errors import InputError
from qsmdl.scan import FieldMap, Geometry, Outcome
from qsmdl.solvers import large_scales
from qsmdl.solvers.large_scales import explain_large_scales
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.tv import nltv

OF_SMALL_BALLS = 0.01
"""Bound for balls of 38 voxels, whose white texture is smoother for their size than anything in a head."""
GEOMETRY = Geometry((7, 8, 6), (1.0, 1.2, 1.5), b0_direction=(0.0, 0.6, 0.8))


def ball(geometry, radius):
    axes = [torch.arange(n) - (n - 1) / 2 for n in geometry.shape]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return x**2 + (y / 0.9) ** 2 + z**2 < radius**2


def field_of(chi, mask, geometry):
    """On the solver's own grid, so that both see the same field."""
    blank = FieldMap(geometry, torch.zeros(geometry.shape), mask, mask.float())
    problem = Problem.of(blank, padding=1.5)
    values = problem.grid.chi_map(problem.dipole(problem.grid.place(chi)), Outcome(0, "", 0.0)).chi_ppm
    return dataclasses.replace(blank, field_ppm=values)


@pytest.fixture(autouse=True)
def bound(monkeypatch):
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", OF_SMALL_BALLS)


@pytest.fixture(scope="module")
def head():
    """A smooth error [x, y, z] and a textured map in a ball, and the field of their sum."""
    geometry = Geometry((48, 48, 48))
    mask = ball(geometry, 19)
    i, j, k = torch.meshgrid(*(torch.arange(48.0) for _ in range(3)), indexing="ij")
    error = 0.05 * torch.sin(i / 7) * torch.cos(j / 8 + 1) * torch.sin(k / 9)
    texture = 0.05 * torch.randn(geometry.shape, generator=torch.Generator().manual_seed(0))
    texture = (texture - torch.nn.functional.avg_pool3d(texture[None, None], 9, 1, 4)[0, 0]) * mask
    return error * mask, texture, field_of(error + texture, mask, geometry)


def demeaned(chi, mask):
    return torch.where(mask, chi - chi[mask].mean(), 0.0)


def test_a_smooth_error_is_mended_and_texture_stays(head):
    error, texture, field = head
    mask = field.mask
    found = explain_large_scales(texture, field).chi_ppm
    left = demeaned(found - texture - error, mask).norm() / demeaned(error, mask).norm()
    assert left < 0.25
    assert float(found[~mask].abs().max()) == 0
    # a texture that the map has lost does not come back: only what is smooth is added
    from_nothing = explain_large_scales(torch.zeros_like(texture), field).chi_ppm
    assert demeaned(from_nothing - error, mask).norm() < 0.4 * demeaned(error, mask).norm()
    assert (from_nothing * texture).sum() < 0.05 * texture.square().sum()


def test_a_map_that_explains_the_field_stays(head):
    error, texture, field = head
    assert (explain_large_scales(error + texture, field).chi_ppm - error - texture).abs().max() < 1e-5


def test_removed_ringing_is_not_explained_once_more(head):
    """The field has it, the map has not: a correction that does not know would put its large scales back."""
    _, texture, field = head
    ringing = 0.3 * field.mask * torch.roll(texture, 2, 0).clamp(min=0)
    ringed = field_of(texture + ringing, field.mask, field.geometry)
    assert (explain_large_scales(texture, ringed, ringing_ppm=ringing).chi_ppm - texture).abs().max() < 1e-5
    assert (explain_large_scales(texture, ringed).chi_ppm - texture).abs().max() > 1e-3


def test_it_is_the_minimum(monkeypatch):
    """Against the normal equations written as matrices, with residuals alike in all voxels so that none is bounded."""
    monkeypatch.setattr(large_scales, "_TOLERANCE", 1e-9)
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", float("inf"))
    field = field_of_even_residuals(GEOMETRY, 2)
    problem = Problem.of(field, padding=1.5)
    normal, target, units = normal_equations(problem)
    n = len(units)
    rows = []
    for axis, size in enumerate(GEOMETRY.voxel_size_mm):
        both = (problem.mask & torch.roll(problem.mask, -1, axis)).flatten()
        rows.append((torch.roll(units, -1, axis + 1) - units).view(n, -1)[:, both].T / size)
    gradient = torch.cat(rows)
    laplacian = gradient.T @ gradient
    h4 = (1.0 * 1.2 * 1.5) ** (4 / 3)
    penalised = normal + 0.7 * h4 * laplacian @ laplacian + large_scales._DAMPING * torch.eye(n)
    expected = torch.linalg.solve(penalised, target)
    found = explain_large_scales(torch.zeros(GEOMETRY.shape, dtype=torch.float64), field, stiffness=0.7, n_iterations=500).chi_ppm
    torch.testing.assert_close(found[field.mask], expected, rtol=1e-5, atol=1e-8)


def test_single_voxels_pull_no_harder_than_the_rest(head):
    """A field that no susceptibility explains, as beside a calcification."""
    error, texture, field = head
    wrong = field.field_ppm.clone()
    wrong[24:26, 24:26, 24:26] += 1.0
    spoilt = dataclasses.replace(field, field_ppm=wrong)
    plain, disturbed = (explain_large_scales(texture, f).chi_ppm for f in (field, spoilt))
    assert (disturbed - plain).norm() < 0.3 * error.norm()
    assert (disturbed - plain).norm() > 0


def test_total_variation_is_mended(head):
    """It leaves the map free where nothing was measured, and explains part of the field from there."""
    error, texture, field = head
    mask = field.mask
    before = nltv(field, regularisation=2e-4).chi_ppm
    after = explain_large_scales(before, field).chi_ppm
    truth = demeaned(error + texture, mask)
    smooth = [torch.nn.functional.avg_pool3d(demeaned(v, mask)[None, None] - truth[None, None], 9, 1, 4).norm() for v in (before, after)]
    assert smooth[1] < 0.7 * smooth[0]


@pytest.mark.parametrize("source", ["far away", "beside the mask"])
def test_a_field_of_sources_outside_leaves_the_map_as_it_was(head, source):
    """They would be explained by sources inside, which do not explain them well."""
    _, texture, field = head
    outside = torch.zeros_like(texture)
    where = {"far away": (slice(22, 26), slice(22, 26), slice(44, 48)), "beside the mask": (slice(22, 26), slice(43, 45), slice(22, 26))}[source]
    outside[where] = 1.0
    assert not (field.mask & (outside > 0)).any()
    whole = dataclasses.replace(field, mask=torch.ones_like(field.mask))
    background = field_of(outside, whole.mask, field.geometry).field_ppm * field.mask
    found = explain_large_scales(texture, dataclasses.replace(field, field_ppm=field_of(texture, field.mask, field.geometry).field_ppm + background))
    assert torch.equal(found.chi_ppm, texture * field.mask)
    assert found.unexplained > 0.25
    assert "sources inside the mask leave" in found.doubts[0]
    without = explain_large_scales(texture, field)
    assert without.unexplained < 0.003
    assert without.doubts == ()


def test_what_goes_in_stays_as_it_is(head):
    _, texture, field = head
    copies = texture.clone(), field.field_ppm.clone()
    explain_large_scales(texture, field, ringing_ppm=texture)
    assert torch.equal(texture, copies[0])
    assert torch.equal(field.field_ppm, copies[1])


def test_what_cannot_be_is_named(head):
    _, texture, field = head
    with pytest.raises(InputError, match=r"chi_ppm is \(48, 48, 47\), but the field map is \(48, 48, 48\)"):
        explain_large_scales(texture[..., :47], field)
    with pytest.raises(InputError, match="ringing_ppm is"):
        explain_large_scales(texture, field, ringing_ppm=texture[:2])
    with pytest.raises(InputError, match="stiffness"):
        explain_large_scales(texture, field, stiffness=0.0)
    with pytest.raises(InputError, match="'total' field"):
        explain_large_scales(texture, dataclasses.replace(field, kind="total"))
