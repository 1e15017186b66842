"""The correction that makes the means of a map's structures explain the field."""

import dataclasses

import pytest
import torch
from dense_problems import field_of_even_residuals, normal_equations

from qsmdl.errors import InputError
from qsmdl.scan import FieldMap, Geometry, Outcome
from qsmdl.solvers import structures
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.structures import structure_correction

GEOMETRY = Geometry((7, 8, 6), (1.0, 1.2, 1.5), b0_direction=(0.0, 0.6, 0.8))
HEAD = Geometry((40, 40, 40))


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def head():
    """A nucleus of 0.1 ppm and a vein of 0.2 ppm in a ball; the map has nine tenths of both; the noise is that of peak SNR 30."""
    x, y, z = torch.meshgrid(*(torch.arange(40.0) - 19.5 for _ in range(3)), indexing="ij")
    mask = x**2 + y**2 + z**2 < 17**2
    nucleus = (x + 5) ** 2 + y**2 + z**2 < 5**2
    vein = (x == 8.5) & (y == 0.5) & (z.abs() < 9)
    chi = 0.1 * nucleus + 0.2 * vein
    blank = FieldMap(HEAD, torch.zeros(HEAD.shape), mask, mask.float(), torch.full(HEAD.shape, 2e-3))
    problem = Problem.of(blank, padding=1.5)
    values = problem.grid.chi_map(problem.dipole(problem.grid.place(chi)), Outcome(0, "", 0.0)).chi_ppm
    noise = 2e-3 * torch.randn(HEAD.shape, generator=generator(1))
    return chi, dataclasses.replace(blank, field_ppm=(values + noise) * mask), nucleus, vein


def test_a_nucleus_gets_its_contrast_back_from_a_noisy_field(head):
    chi, field, nucleus, vein = head
    correction = structure_correction(0.9 * chi, field)
    lost = 0.1 * chi
    elsewhere = field.mask & ~nucleus & ~vein
    contrast = float(correction[nucleus].mean() - correction[elsewhere].mean())
    assert contrast == pytest.approx(0.01, rel=0.2)
    assert float((correction - lost)[nucleus].std()) < 1.5e-3  # as one
    assert float(correction[elsewhere].std()) < 1e-3
    assert float(correction[~field.mask].abs().max()) == 0


def test_it_is_the_edges_that_tell(head):
    chi, field, nucleus, _ = head
    near = torch.nn.functional.max_pool3d(nucleus[None, None].float(), 3, 1, 1)[0, 0].bool() & ~nucleus
    told, untold = (structure_correction(0.9 * chi, field, edge_ppm_per_mm=edge) for edge in (3e-3, 1.0))
    jumps = [float(found[nucleus].mean() - found[near].mean()) for found in (told, untold)]
    assert jumps[0] > 0.006
    assert jumps[1] < 0.002


def test_a_vein_moves_less_than_a_nucleus(head, monkeypatch):
    """In proportion to what it lost; without what an edge keeps of the stiffness it moves more."""
    chi, field, nucleus, vein = head
    found = structure_correction(0.9 * chi, field)
    shares = [float(found[region].mean() / (0.1 * chi)[region].mean()) for region in (nucleus, vein)]
    assert 0 < shares[1] < 0.9 * shares[0]
    monkeypatch.setattr(structures, "_LEAST_STIFFNESS_MM2", 0.0)
    free = structure_correction(0.9 * chi, field)
    gains = [float(free[region].mean() / found[region].mean()) for region in (nucleus, vein)]
    assert gains[1] > 1.1 > gains[0] > 1


def test_more_noise_makes_it_stiffer(head):
    chi, field, nucleus, _ = head
    moved = []
    for sigma in (2e-3, 2e-2):
        found = structure_correction(0.9 * chi, dataclasses.replace(field, noise_ppm=torch.full(HEAD.shape, sigma)))
        moved.append(float(found[nucleus].mean()))
    assert moved[0] > 2 * moved[1] > 0
    given = structure_correction(0.9 * chi, field, stiffness_mm2=(2.0**2 + 0.2**2) / 1.4**2)
    torch.testing.assert_close(given, structure_correction(0.9 * chi, field), atol=1e-7, rtol=1e-4)


def test_it_is_the_minimum(monkeypatch):
    """Against the normal equations written as matrices; the map's own field is taken away by a ringing that is its opposite, so that residuals are
    alike in all voxels and none is bounded.
    """
    monkeypatch.setattr(structures, "_TOLERANCE", 1e-10)
    field = field_of_even_residuals(GEOMETRY, 2)
    chi = 0.02 * torch.randn(GEOMETRY.shape, generator=generator(3), dtype=torch.float64)
    problem = Problem.of(field, padding=1.5)
    normal, target, units = normal_equations(problem)
    gradient, mask = problem.gradient, problem.mask
    pairs = (gradient.apply_forward(mask.double()) == 0) & mask
    slopes = gradient.apply_forward(problem.grid.place(chi))
    stiff = pairs * (0.5 / (1 + (slopes / 0.01) ** 2) + 0.01)
    steps = torch.stack([(stiff.sqrt() * gradient.apply_forward(unit)).flatten() for unit in units])
    expected = torch.linalg.solve(normal + steps @ steps.T + 1e-4 * torch.eye(len(units)), target)
    settings = {"stiffness_mm2": 0.5, "edge_ppm_per_mm": 0.01, "n_iterations": 500}
    found = structure_correction(chi, field, ringing_ppm=-chi, **settings)
    torch.testing.assert_close(found[field.mask], expected, rtol=1e-5, atol=1e-8)


def test_what_goes_in_stays_as_it_is(head):
    chi, field, *_ = head
    copies = chi.clone(), field.field_ppm.clone()
    structure_correction(chi, field, ringing_ppm=chi)
    assert torch.equal(chi, copies[0])
    assert torch.equal(field.field_ppm, copies[1])


def test_what_cannot_be_is_named(head):
    chi, field, *_ = head
    with pytest.raises(InputError, match=r"chi_ppm is \(40, 40, 39\), but the field map is \(40, 40, 40\)"):
        structure_correction(chi[..., :39], field)
    with pytest.raises(InputError, match=r"ringing_ppm is \(40, 40, 39\)"):
        structure_correction(chi, field, ringing_ppm=chi[..., :39])
    for name in ("stiffness_mm2", "edge_ppm_per_mm"):
        for wrong in (0.0, -1.0, float("nan")):
            with pytest.raises(InputError, match=f"{name}.*must be positive"):
                structure_correction(chi, field, **{name: wrong})
    with pytest.raises(InputError, match="'total' field"):
        structure_correction(chi, dataclasses.replace(field, kind="total"))
