from dataclasses import replace

import numpy as np
import pytest
import torch
from brute_force import rounded, smooth_minimiser
from scipy.sparse.linalg import lsqr

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole, dipole_kernel
from qsmdl.physics.fourier import irfft3, rfft3
from qsmdl.scan import FieldMap, Geometry
from qsmdl.solvers.admm import GrowingPenalty
from qsmdl.solvers.grid import WorkingGrid
from qsmdl.solvers.kspace import complete, sphere_mean
from qsmdl.solvers.rts import rts

LONG = {"fidelity": 50.0, "penalty": 3.0, "n_iterations": 1500, "tolerance": 0.0, "padding": None}


def trusted_part(field: FieldMap, threshold: float) -> np.ndarray:
    """The projection on the frequencies with |D| > threshold as a matrix, from full FFTs."""
    geometry = field.geometry
    kernel = dipole_kernel(geometry.shape, geometry.voxel_size_mm, geometry.b0_direction, half=False, dtype=torch.float64).numpy()
    units = np.eye(kernel.size).reshape(-1, *kernel.shape)
    return np.stack([np.fft.ifftn((np.abs(kernel) > threshold) * np.fft.fftn(u)).real.ravel() for u in units], axis=1)


def cost(x: torch.Tensor, known: np.ndarray, trusted: np.ndarray, gradient: np.ndarray, fidelity: float, rounding: float = 0.0) -> torch.Tensor:
    misfit = torch.from_numpy(trusted) @ (x - torch.from_numpy(known))
    return fidelity / 2 * misfit.square().sum() + rounded(torch.from_numpy(gradient) @ x, rounding).sum()


def first_step(field: FieldMap, dipole: np.ndarray, n_steps: int = 4) -> np.ndarray:
    return lsqr(dipole, field.field_ppm.numpy().ravel(), iter_lim=n_steps, atol=0, btol=0, conlim=0)[0]


@pytest.mark.parametrize("threshold", [0.1, 0.3])
def test_the_map_is_the_minimiser_of_the_second_step(threshold: float, tiny, dense):
    field = tiny()
    dipole, gradient = dense(field)
    trusted, known = trusted_part(field, threshold), first_step(field, dipole)
    assert 10 < np.linalg.matrix_rank(trusted) < 59
    expected = smooth_minimiser(lambda x, eps: cost(x, known, trusted, gradient, 50.0, eps), torch.from_numpy(known))
    found = rts(field, threshold=threshold, **LONG).chi_ppm.ravel()
    value, least = (float(cost(x, known, trusted, gradient, 50.0)) for x in (found, expected))
    assert value == pytest.approx(least, rel=1e-3)
    assert float((found - expected + expected.mean()).norm()) < 2e-3 * float(expected.norm())
    assert least < 0.9 * float(cost(torch.from_numpy(known), known, trusted, gradient, 50.0))


def test_the_objective_falls(tiny, dense):
    field = tiny(1)
    dipole, gradient = dense(field)
    trusted, known = trusted_part(field, 0.2), first_step(field, dipole)
    found = [rts(field, threshold=0.2, **(LONG | {"n_iterations": n})).chi_ppm.ravel() for n in (1, 5, 50, 500)]
    costs = [float(cost(x, known, trusted, gradient, 50.0)) for x in found]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.9 * costs[0]


def test_a_penalty_that_grows_leads_to_the_same_map_once_it_stands_still(tiny):
    penalty = GrowingPenalty(2.0, growth=5.0)
    assert [penalty.grow(split) for split in (1.0, 0.6, 0.5, 0.3, 0.3)] == [1.0, 1.0, 5.0, 1.0, 5.0]
    assert penalty.value == 50.0
    grid = WorkingGrid.of(tiny(), None)
    trusted, known = grid.dipole().abs() > 0.2, tiny(2).field_ppm
    settings = {"fidelity": 50.0, "tolerance": 0.0}
    still = complete(grid, known, trusted, penalty=10.0, n_iterations=1000, **settings).x
    grown = complete(grid, known, trusted, penalty=1.0, growth=1.1, n_iterations=300, **settings).x
    assert float((grown - still).norm()) < 0.03 * float(still.norm())


def test_frequencies_that_are_fixed_stay_and_the_others_complete_a_map_of_blocks(nrmse):
    geometry = Geometry((21, 24, 19), (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    chi = torch.zeros(geometry.shape, dtype=torch.float64)
    chi[5:14, 6:15, 7:12] = 0.1
    mask = torch.ones(geometry.shape, dtype=torch.bool)
    grid = WorkingGrid.of(FieldMap(geometry, chi, mask, mask.double()), None)
    trusted = grid.dipole().abs() > 0.15
    known = irfft3(rfft3(chi) * trusted, grid.shape)
    found = complete(grid, known, trusted, fidelity=float("inf"), penalty=100.0, n_iterations=200, tolerance=0.0)
    torch.testing.assert_close(rfft3(found.x)[trusted], rfft3(chi)[trusted])
    assert abs(float(found.x.mean())) < 1e-15
    error, slope = nrmse(grid.chi_map(found.x, found.outcome), chi)
    assert error < 2
    assert slope == pytest.approx(1.0, abs=0.01)
    assert nrmse(grid.chi_map(known, found.outcome), chi)[0] > 20


def test_a_noise_free_map_keeps_its_amplitude_where_step_1_is_finished(nrmse):
    """Four steps, as published, leave the amplitude at 0.76."""
    geometry = Geometry((21, 24, 19), (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.9
    chi = torch.where((x - 0.1) ** 2 + (y + 0.2) ** 2 + z**2 < 0.2, 0.1, 0.0)
    field = FieldMap(geometry, Dipole.of(geometry, 2.0)(chi) * mask, mask, mask.float())
    slopes = [nrmse(rts(field, n_krylov=n, n_iterations=200, tolerance=1e-3, padding=1.5), chi)[1] for n in (4, 20, 200)]
    assert slopes == sorted(slopes)
    assert slopes[0] == pytest.approx(0.73, abs=0.05)
    assert slopes[-1] == pytest.approx(1.0, abs=0.06)


def test_the_map_scales_with_the_field_and_not_with_b0(tiny):
    one, ten = (rts(tiny(scale=s), fidelity=1e3 / s, penalty=5.0 / s, padding=None).chi_ppm for s in (1.0, 10.0))
    torch.testing.assert_close(ten, 10 * one)
    torch.testing.assert_close(rts(tiny(b0_tesla=3.0), fidelity=1e3, penalty=5.0, padding=None).chi_ppm, one)


@pytest.mark.parametrize(("threshold", "expected", "slope"), [(0.15, 38.3, 0.79), (0.3, 21.3, 0.965)])
def test_rts_on_the_check_phantom(threshold: float, expected: float, slope: float, check_phantom, nrmse):
    field, chi = check_phantom
    found = nrmse(rts(field, threshold=threshold, padding=None), chi)
    assert found[0] == pytest.approx(expected, abs=0.3)
    assert found[1] == pytest.approx(slope, abs=0.01)


@pytest.mark.parametrize(("threshold", "expected", "slope"), [(0.15, 32.8, 0.80), (0.2, 20.6, 0.91)])
def test_rts_on_the_check_phantom_with_less_noise(threshold: float, expected: float, slope: float, quiet_phantom, nrmse):
    field, chi = quiet_phantom
    found = nrmse(rts(field, threshold=threshold, padding=None), chi)
    assert found[0] == pytest.approx(expected, abs=0.3)
    assert found[1] == pytest.approx(slope, abs=0.01)


def test_the_mean_over_a_sphere(tiny):
    field = tiny()
    geometry = replace(field.geometry, shape=(9, 8, 7))
    volume = torch.randn(geometry.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mask = torch.ones(geometry.shape, dtype=torch.bool)
    grid = WorkingGrid.of(FieldMap(geometry, volume, mask, mask.double()), None)
    found = irfft3(rfft3(volume) * sphere_mean(grid, 2.0), grid.shape)
    offsets = [
        (i, j, k) for i in range(-3, 4) for j in range(-2, 3) for k in range(-3, 4) if i**2 + (1.5 * j) ** 2 + (0.8 * k) ** 2 <= 4
    ]
    expected = sum((volume.roll(offset, (0, 1, 2)) for offset in offsets), torch.zeros_like(volume)) / len(offsets)
    torch.testing.assert_close(found, expected)


def test_the_mean_is_0_and_nothing_remains_outside_the_mask(tiny):
    field = tiny()
    assert abs(float(rts(field, padding=None).chi_ppm.mean())) < 1e-15
    mask = field.mask.clone()
    mask[0], mask[:, :, 3] = False, False
    found = rts(FieldMap(field.geometry, field.field_ppm, mask, field.weight * mask))
    assert float(found.chi_ppm[~mask].abs().max()) == 0
    assert float(found.chi_ppm[mask].abs().max()) > 0


def test_a_zero_field_gives_a_zero_map(tiny):
    assert float(rts(tiny(scale=0.0)).chi_ppm.abs().max()) == 0


def test_steps_of_both_stages_are_reported(tiny):
    seen: list[int] = []
    found = rts(tiny(), n_iterations=5, tolerance=0.0, on_step=lambda step, _: seen.append(step))
    assert seen == list(range(1, 10))
    assert found.outcome.n_steps == 9
    assert found.outcome.curve[:1] == (1.0,)
    assert len(found.outcome.curve) == 5 + 5
    assert found.outcome.curve[-1] == found.outcome.residual


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threshold", 0.0), ("threshold", 0.7), ("fidelity", 0.0), ("fidelity", float("inf")), ("penalty", -1.0), ("growth", 0.5), ("n_krylov", 0),
        ("n_iterations", 0), ("tolerance", 1.0), ("padding", 9.0),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float, tiny):
    with pytest.raises(InputError, match=name):
        rts(tiny(), **{name: value})


def test_a_total_field_is_refused(tiny):
    with pytest.raises(InputError, match="total-field method"):
        rts(replace(tiny(), kind="total"))
