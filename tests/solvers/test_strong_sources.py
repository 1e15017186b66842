"""The correction of calcifications and haemorrhages, in proportion to them."""

import dataclasses
import math

import pytest
import torch
from dense_problems import field_of_even_residuals, normal_equations

from qsmdl.errors import InputError
from qsmdl.scan import FieldMap, Geometry, Outcome
from qsmdl.solvers import large_scales, strong_sources
from qsmdl.solvers.large_scales import explain_large_scales
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.strong_sources import distrust, strong_source_correction

GEOMETRY = Geometry((7, 8, 6), (1.0, 1.2, 1.5), b0_direction=(0.0, 0.6, 0.8))
HEAD = Geometry((44, 44, 44))


def generator(seed):
    return torch.Generator().manual_seed(seed)


def ball(radius):
    x, y, z = torch.meshgrid(*(torch.arange(44.0) - 21.5 for _ in range(3)), indexing="ij")
    return x**2 + y**2 + z**2 < radius**2


@pytest.fixture(scope="module")
def head():
    """A calcification of -2 ppm in a ball of tissue; in and beside it no signal, so no weight. The noise is that of peak SNR 100."""
    mask, stone = ball(19), ball(3)
    chi = -2.0 * stone + 0.02 * torch.randn(HEAD.shape, generator=generator(1)) * mask
    blank = FieldMap(HEAD, torch.zeros(HEAD.shape), mask, (mask & ~ball(5)).float(), torch.full(HEAD.shape, 8e-4))
    problem = Problem.of(blank, padding=1.5)
    values = problem.grid.chi_map(problem.dipole(problem.grid.place(chi)), Outcome(0, "", 0.0)).chi_ppm
    noise = 8e-4 * torch.randn(HEAD.shape, generator=generator(2))
    return chi, dataclasses.replace(blank, field_ppm=(values + noise) * mask), stone


@pytest.mark.parametrize("share", [0.8, 1.2])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_stone_gets_its_strength_from_the_field_around_it(head, share, sign):
    """Of a calcification that is a fifth too strong or too weak, and of a haemorrhage: four fifths of what the sum lacks, most of it in its voxels;
    which of those without signal have the rest no field around them tells.
    """
    chi, field, stone = head
    chi, field = sign * chi, dataclasses.replace(field, field_ppm=sign * field.field_ppm)
    wrong = torch.where(stone, share * chi, chi)
    before = float((wrong - chi).sum())
    found = strong_source_correction(wrong, field)
    assert abs(before + float(found.sum())) < 0.2 * abs(before)
    assert abs(before + float(found[stone].sum())) < 0.4 * abs(before)
    assert float((wrong + found - chi).norm()) < 0.5 * float((wrong - chi).norm())


def test_the_large_scales_alone_make_a_cloud_of_it(head, monkeypatch):
    """Which is why it comes first: what they balance is not where it is wrong."""
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", float("inf"))
    chi, field, stone = head
    wrong = torch.where(stone, 1.2 * chi, chi)
    outside = field.mask & ~ball(5)
    right, cloud = (explain_large_scales(given, field).chi_ppm[outside] for given in (chi, wrong))
    mended = explain_large_scales(wrong + strong_source_correction(wrong, field), field).chi_ppm[outside]
    assert float((mended - right).norm()) < 0.2 * float((cloud - right).norm())
    assert float((cloud - right).norm()) > 0.1 * float(right.norm())


def test_only_what_is_near_a_strong_source_moves(head):
    chi, field, stone = head
    found = strong_source_correction(torch.where(stone, 1.2 * chi, chi), field)
    near = torch.nn.functional.max_pool3d(stone[None, None].float(), 7, 1, 3)[0, 0] > 0
    assert float(found[~near].abs().max()) == 0
    # in proportion to the map: tissue, a hundredth as strong, next to nothing
    assert float(found[stone].abs().mean()) > 20 * float(found[near & ~ball(5)].abs().mean())


def test_without_a_strong_source_nothing_moves(head):
    chi, field, _ = head
    assert float(strong_source_correction(0.2 * chi, field).abs().max()) == 0  # 0.4 ppm
    beyond = torch.where(field.mask, 0.0, 3.0)
    assert float(strong_source_correction(beyond, field).abs().max()) == 0


def test_more_distrust_moves_it_less(head):
    chi, field, stone = head
    wrong = torch.where(stone, 1.2 * chi, chi)
    moved = [float(strong_source_correction(wrong, field, distrust_ppm=v)[stone].sum()) for v in (0.05, 0.5, 10.0)]
    assert moved[0] > 1.2 * moved[1] > 10 * moved[2] > 0


def test_noise_makes_for_distrust(head):
    chi, field, _ = head
    noisy = dataclasses.replace(field, noise_ppm=torch.full(HEAD.shape, 1e-2))
    assert distrust(field) == pytest.approx(math.hypot(0.025, 16 * 8e-4))
    assert distrust(noisy) == pytest.approx(math.hypot(0.025, 0.16))
    for given in (field, noisy):
        told = strong_source_correction(1.2 * chi, given, distrust_ppm=distrust(given))
        assert torch.equal(strong_source_correction(1.2 * chi, given), told)


def test_it_is_the_minimum(monkeypatch):
    """Against the normal equations written as matrices; the map's own field is taken away by a ringing that is its opposite, so that residuals are
    alike in all voxels and none is bounded.
    """
    monkeypatch.setattr(strong_sources, "_TOLERANCE", 1e-12)
    field = field_of_even_residuals(GEOMETRY, 2)
    chi = 0.3 * torch.randn(GEOMETRY.shape, generator=generator(3), dtype=torch.float64) * field.mask
    problem = Problem.of(field, padding=1.5)
    normal, target, _ = normal_equations(problem)
    padded = torch.nn.functional.pad(chi, (1,) * 6)
    neighbours = padded.unfold(0, 3, 1).unfold(1, 3, 1).unfold(2, 3, 1)
    size = neighbours.square().mean((-1, -2, -3)).sqrt()[field.mask]  # strong sources are all over
    expected = torch.linalg.solve(normal + torch.diag(0.2**2 / size.square()), target)
    found = strong_source_correction(chi, field, ringing_ppm=-chi, distrust_ppm=0.2, n_iterations=500)
    torch.testing.assert_close(found[field.mask], expected, rtol=1e-6, atol=1e-9)


def test_what_goes_in_stays_as_it_is(head):
    chi, field, _ = head
    copies = chi.clone(), field.field_ppm.clone()
    strong_source_correction(chi, field, ringing_ppm=0.1 * chi)
    assert torch.equal(chi, copies[0])
    assert torch.equal(field.field_ppm, copies[1])


def test_what_cannot_be_is_named(head):
    chi, field, _ = head
    with pytest.raises(InputError, match=r"chi_ppm is \(44, 44, 43\), but the field map is \(44, 44, 44\)"):
        strong_source_correction(chi[..., :43], field)
    with pytest.raises(InputError, match=r"ringing_ppm is \(44, 44, 43\)"):
        strong_source_correction(chi, field, ringing_ppm=chi[..., :43])
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match=r"distrust_ppm.*must be positive"):
            strong_source_correction(chi, field, distrust_ppm=wrong)
    with pytest.raises(InputError, match="'total' field"):
        strong_source_correction(chi, dataclasses.replace(field, kind="total"))
