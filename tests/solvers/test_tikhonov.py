from dataclasses import replace

import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.scan import FieldMap
from qsmdl.solvers.tikhonov import tikhonov

EXACT = {"n_iterations": 400, "tolerance": 1e-12, "padding": None}


def test_the_map_is_the_minimiser(tiny, dense):
    field = tiny()
    mask = field.mask.clone()
    mask[0], mask[:, 2, 1] = False, False
    field = FieldMap(field.geometry, field.field_ppm * mask, mask, field.weight * mask)
    dipole, _ = dense(field)
    weight = (field.weight / field.weight[mask].mean()).numpy().ravel()
    system = dipole.T @ (weight[:, None] ** 2 * dipole) + 0.02 * np.diag(mask.numpy().ravel().astype(float))
    expected = np.linalg.lstsq(system, dipole.T @ (weight**2 * field.field_ppm.numpy().ravel()), rcond=1e-13)[0]
    expected = (expected - expected.mean()).reshape(field.geometry.shape) * mask.numpy()
    np.testing.assert_allclose(tikhonov(field, regularisation=0.02, **EXACT).chi_ppm.numpy(), expected, atol=1e-8)


def test_with_equal_weights_everywhere_it_is_a_filter_in_k_space(tiny, dense):
    field = tiny(uniform=True)
    values, vectors = np.linalg.eigh(dense(field)[0])
    filtered = vectors @ (values / (values**2 + 0.05) * (vectors.T @ field.field_ppm.numpy().ravel()))
    np.testing.assert_allclose(tikhonov(field, regularisation=0.05, **EXACT).chi_ppm.numpy().ravel(), filtered, atol=1e-9)


def test_the_correction_divides_by_the_slope_without_weights(tiny, dense):
    field = tiny(uniform=True)
    power = np.linalg.eigvalsh(dense(field)[0]) ** 2
    plain, corrected = (tikhonov(field, regularisation=0.05, slope_correction=flag, **EXACT).chi_ppm for flag in (False, True))
    torch.testing.assert_close(corrected * float(np.mean(power / (power + 0.05))), plain)


def test_tikhonov_on_the_check_phantom(check_phantom, nrmse):
    """73.5 with 7 steps and a slope of 1.02: the toolbox's setting, on a weight of mean 1."""
    field, chi = check_phantom
    found = tikhonov(field, regularisation=0.05, tolerance=0.03, slope_correction=True, padding=None)
    error, slope = nrmse(found, chi)
    assert error == pytest.approx(73.5, abs=0.3)
    assert slope == pytest.approx(1.02, abs=0.01)
    assert found.outcome.n_steps == 7


def test_the_map_scales_with_the_field_at_any_field_strength(tiny):
    one, ten = (tikhonov(tiny(scale=s), **EXACT).chi_ppm for s in (1.0, 10.0))
    torch.testing.assert_close(ten, 10 * one)
    torch.testing.assert_close(tikhonov(tiny(b0_tesla=3.0), **EXACT).chi_ppm, one)


def test_the_mean_is_0_and_a_zero_field_gives_a_zero_map(tiny):
    assert abs(float(tikhonov(tiny(), padding=None).chi_ppm.mean())) < 1e-15
    assert float(tikhonov(tiny(scale=0.0)).chi_ppm.abs().max()) == 0


@pytest.mark.parametrize(("name", "value"), [("regularisation", 0.0), ("regularisation", float("nan")), ("n_iterations", 0), ("tolerance", 1.0)])
def test_settings_out_of_range_are_refused(name: str, value: float, tiny):
    with pytest.raises(InputError, match=name):
        tikhonov(tiny(), **{name: value})


def test_a_total_field_is_refused(tiny):
    with pytest.raises(InputError, match="total-field method"):
        tikhonov(replace(tiny(), kind="total"))
