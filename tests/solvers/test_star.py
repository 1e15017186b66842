from dataclasses import replace

import numpy as np
import pytest
import torch
from brute_force import tv_minimiser

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import FieldMap, Geometry
from qsmdl.solvers.star import star

ALPHA = 1e-3
LONG = {"regularisation": ALPHA, "strong_factor": 4.0, "penalty": 0.02, "tolerance": 0.0, "padding": None}


def test_the_map_is_the_sum_of_both_minimisers(tiny, dense):
    field = tiny()
    dipole, gradient = dense(field)
    weight = (field.weight / field.weight.mean()).numpy().ravel()
    system, data = weight[:, None] * dipole, field.field_ppm.numpy().ravel()
    strong = tv_minimiser(system.T @ system, system.T @ (weight * data), gradient, 4 * ALPHA)
    weak = tv_minimiser(system.T @ system, system.T @ (weight * (data - dipole @ strong)), gradient, ALPHA)
    assert np.linalg.norm(weak) > 0.1 * np.linalg.norm(strong) > 0
    found = [star(field, **(LONG | {"n_iterations": n})).chi_ppm.numpy().ravel() for n in (10, 50, 1000)]
    errors = [np.linalg.norm(x - strong - weak) / np.linalg.norm(strong + weak) for x in found]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.01
    assert errors[-1] < 1e-3


def test_strong_sources_are_in_the_first_level(nrmse):
    """A calcification next to weak nuclei: two levels keep more of the weak ones than the strong level alone, and fewer streaks than it has."""
    geometry = Geometry((21, 24, 19), (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.9
    chi = torch.where((x - 0.1) ** 2 + (y + 0.2) ** 2 + z**2 < 0.2, 0.1, 0.0)
    chi = torch.where((x + 0.5) ** 2 + y**2 + z**2 < 0.02, -1.0, chi)
    field = FieldMap(geometry, Dipole.of(geometry, 2.0)(chi) * mask, mask, mask.float())
    both, strong = (nrmse(star(field, regularisation=r, padding=1.5), chi)[0] for r in (1e-4, 1e-3))
    assert both < strong < 20


def test_a_noise_free_map_keeps_its_amplitude(nrmse):
    geometry = Geometry((21, 24, 19), (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.9
    chi = torch.where((x - 0.1) ** 2 + (y + 0.2) ** 2 + z**2 < 0.2, 0.1, 0.0)
    field = FieldMap(geometry, Dipole.of(geometry, 2.0)(chi) * mask, mask, mask.float())
    error, slope = nrmse(star(field, regularisation=1e-5, padding=1.5), chi)
    assert slope == pytest.approx(1.0, abs=0.02)
    assert error < 3


def test_star_on_the_check_phantom(check_phantom, nrmse):
    """No published figure: close to total variation's 9.37, which weights and a calcification make of it."""
    field, chi = check_phantom
    error, slope = nrmse(star(field, padding=None), chi)
    assert error == pytest.approx(9.6, abs=0.3)
    assert slope == pytest.approx(0.98, abs=0.01)


def test_the_map_scales_with_the_field_and_not_with_b0(tiny):
    settings = {"penalty": 0.03, "n_iterations": 60, "tolerance": 0.0}
    one, ten = (star(tiny(scale=s), regularisation=1e-3 * s, **settings).chi_ppm for s in (1.0, 10.0))
    torch.testing.assert_close(ten, 10 * one)
    torch.testing.assert_close(star(tiny(b0_tesla=3.0), regularisation=1e-3, **settings).chi_ppm, one)


def test_the_mean_is_0_and_nothing_remains_outside_the_mask(tiny):
    field = tiny()
    assert abs(float(star(field, padding=None).chi_ppm.mean())) < 1e-15
    mask = field.mask.clone()
    mask[0], mask[:, :, 3] = False, False
    found = star(FieldMap(field.geometry, field.field_ppm, mask, field.weight * mask), n_iterations=5)
    assert float(found.chi_ppm[~mask].abs().max()) == 0
    assert float(found.chi_ppm[mask].abs().max()) > 0


def test_a_zero_field_gives_a_zero_map(tiny):
    assert float(star(tiny(scale=0.0)).chi_ppm.abs().max()) == 0


def test_steps_of_both_levels_are_reported(tiny):
    seen: list[int] = []
    found = star(tiny(), n_iterations=4, tolerance=0.0, on_step=lambda step, _: seen.append(step))
    assert seen == list(range(1, 9))
    assert (found.outcome.n_steps, len(found.outcome.curve)) == (8, 8)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("regularisation", 0.0), ("regularisation", float("nan")), ("strong_factor", 0.5), ("strong_factor", float("inf")), ("penalty", -1.0),
        ("data_penalty", 0.0), ("n_iterations", 0), ("tolerance", 1.0), ("weighting", "magnitude"), ("padding", 9.0),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: object, tiny):
    with pytest.raises(InputError, match=name):
        star(tiny(), **{name: value})


def test_a_total_field_is_refused(tiny):
    with pytest.raises(InputError, match="total-field method"):
        star(replace(tiny(), kind="total"))
