import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from brute_force import majorised_minimiser, tv_minimiser

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import FieldMap, Geometry
from qsmdl.solvers.grid import WorkingGrid
from qsmdl.solvers.spectral import WeakHarmonicSolve
from qsmdl.solvers.tv import nltv, tv
from qsmdl.solvers.whqsm import whnlqsm, whqsm

METHODS = [whqsm, whnlqsm]


@pytest.fixture
def masked(tiny) -> Callable[..., FieldMap]:
    """As `tiny`, with a mask that leaves out a corner, so that there is a field that is harmonic inside without being constant."""

    def make(scale: float = 1.0, b0_tesla: float = 7.0) -> FieldMap:
        field = tiny(scale=scale, b0_tesla=b0_tesla)
        mask = field.mask.clone()
        mask[0, 0], mask[4, 2, 3] = False, False
        return FieldMap(field.geometry, field.field_ppm * mask, mask, field.weight * mask)

    return make


def parts(field: FieldMap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """w, f and m as vectors; w has mean 1 in the mask."""
    mask = field.mask.numpy().ravel().astype(float)
    weight = field.weight.numpy().ravel()
    return weight / weight[mask > 0].mean(), field.field_ppm.numpy().ravel(), mask


def test_x_and_h_are_solved_for_together(tiny, dense):
    """Against the normal equations of the three least-squares terms."""
    field = tiny()
    dipole, gradient = dense(field)
    laplacian, n = gradient.T @ gradient, len(dipole)
    generator = torch.Generator().manual_seed(3)
    targets = [torch.randn(*leading, *field.geometry.shape, generator=generator, dtype=torch.float64) for leading in ((3,), (), ())]
    g, d, h = (t.numpy().ravel() for t in targets)
    mu_g, mu_d, mu_h = 0.3, 1.7, 0.6
    system = np.block(
        [[mu_g * gradient.T @ gradient + mu_d * dipole @ dipole, mu_d * dipole], [mu_d * dipole, mu_d * np.eye(n) + mu_h * laplacian @ laplacian]]
    )
    expected = np.linalg.lstsq(system, np.concatenate([mu_g * gradient.T @ g + mu_d * dipole @ d, mu_d * d + mu_h * laplacian @ h]), rcond=1e-10)[0]
    solve = WeakHarmonicSolve(WorkingGrid.of(field, None), mu_g, mu_d, mu_h)
    found = solve(targets)
    np.testing.assert_allclose(found.numpy().ravel(), expected, atol=1e-10)
    field_of_both, laplacian_of_h = dipole @ expected[:n] + expected[n:], laplacian @ expected[n:]
    np.testing.assert_allclose(solve.field(found).numpy().ravel(), field_of_both, atol=1e-10)
    np.testing.assert_allclose(solve.field(found.clone()).numpy().ravel(), field_of_both, atol=1e-10)
    np.testing.assert_allclose(solve.laplacian(found).numpy().ravel(), laplacian_of_h, atol=1e-9)


def test_the_linear_map_is_the_minimiser(tiny, dense):
    """With h eliminated, what remains is total variation with the data term 1/2 (Dx - f)' (W - W (W + beta L L)^-1 W) (Dx - f)."""
    field, alpha, beta = tiny(), 1e-3, 5.0
    dipole, gradient = dense(field)
    weight, data, _ = parts(field)
    square, laplacian = np.diag(weight**2), gradient.T @ gradient
    eliminated = square - square @ np.linalg.inv(square + beta * laplacian @ laplacian) @ square
    expected = tv_minimiser(dipole.T @ eliminated @ dipole, dipole.T @ eliminated @ data, gradient, alpha)

    def cost(x: np.ndarray) -> float:
        misfit = dipole @ x - data
        return float(0.5 * misfit @ eliminated @ misfit + alpha * np.abs(gradient @ x).sum())

    settings = {"harmonic_regularisation": beta, "penalty": 0.02, "harmonic_penalty": 0.5, "tolerance": 0.0, "padding": None}
    maps = [whqsm(field, regularisation=alpha, n_iterations=n, **settings).chi_ppm.numpy().ravel() for n in (1, 10, 50, 1500)]
    costs = [cost(x) for x in maps]
    assert costs == sorted(costs, reverse=True)
    assert np.linalg.norm(maps[-1] - maps[-1].mean() - expected) < 1e-3 * np.linalg.norm(expected)


def test_the_minimum_is_reached_behind_a_mask(masked, dense):
    """h is free outside the mask; the data term with h eliminated is (Dx - f)' (W - W (W + beta L m L)^+ W) (Dx - f) / 2."""
    field, alpha, beta = masked(), 3e-3, 5.0
    dipole, gradient = dense(field)
    weight, data, mask = parts(field)
    square, laplacian = np.diag(weight**2), gradient.T @ gradient
    eliminated = square - square @ np.linalg.pinv(square + beta * laplacian @ (mask[:, None] * laplacian), rcond=1e-12) @ square
    expected = majorised_minimiser(lambda x: dipole @ (eliminated @ (dipole @ x - data)), dipole @ eliminated @ dipole, gradient, alpha)
    settings = {"harmonic_regularisation": beta, "penalty": 0.02, "harmonic_penalty": 0.02, "tolerance": 0.0, "padding": None}
    found = whqsm(field, regularisation=alpha, n_iterations=1500, **settings).chi_ppm.numpy().ravel()
    shift = (found - expected)[mask > 0]
    assert np.linalg.norm(shift - shift.mean()) < 1e-3 * np.linalg.norm(expected[mask > 0])


def test_the_nonlinear_map_is_the_minimiser(tiny, dense):
    field, alpha, beta, c = tiny(), 3e-3, 5.0, 2 * math.pi * 42.577 * 7 * 0.003
    dipole, gradient = dense(field)
    weight, data, _ = parts(field)
    n = len(data)
    both, harmonic = np.concatenate([dipole, np.eye(n)], axis=1), np.zeros((2 * n, 2 * n))
    harmonic[n:, n:] = beta * np.linalg.matrix_power(gradient.T @ gradient, 2)
    expected = majorised_minimiser(
        lambda xh: both.T @ (weight**2 / c * np.sin(np.clip(c * (both @ xh - data), -np.pi, np.pi))) + harmonic @ xh,
        both.T @ (weight[:, None] ** 2 * both) + harmonic,
        np.concatenate([gradient, 0 * gradient], axis=1),
        alpha,
    )[:n]
    settings = {"harmonic_regularisation": beta, "penalty": 0.02, "harmonic_penalty": 0.05, "tolerance": 0.0, "padding": None}
    found, linear = (method(field, regularisation=alpha, n_iterations=500, **settings).chi_ppm.numpy().ravel() for method in (whnlqsm, whqsm))
    assert np.linalg.norm(found - expected + expected.mean()) < 1e-3 * np.linalg.norm(expected)
    assert np.linalg.norm(linear - expected + expected.mean()) > 0.05 * np.linalg.norm(expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_smooth_background_does_not_spoil_the_map(method, check_phantom, nrmse):
    """The check phantom with a harmonic field of up to 0.5 rad at 4 ms left in: total variation alone loses the map."""
    field, chi = check_phantom
    k = 1 / float(field.weight[field.mask].mean()) ** 2
    axis = (torch.arange(48) - 24.0) / 20
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    background = 0.5 / 7.49 * (x.square() - y.square() + 0.5 * x * z + 0.6 * z)
    spoiled = replace(field, field_ppm=field.field_ppm + background * field.mask)
    alone, settings = (nltv, {"echo_time_s": 0.004}) if method is whnlqsm else (tv, {})
    settings |= {"regularisation": 3e-4 * k, "penalty": 1e-2 * k, "data_penalty": k, "padding": None}
    harmonic = {"harmonic_regularisation": 150 * k, "harmonic_penalty": 3 * k}
    clean, slope = nrmse(method(field, **settings, **harmonic), chi)
    error, spoiled_slope = nrmse(method(spoiled, **settings, **harmonic), chi)
    assert error == pytest.approx(clean, abs=0.3)
    assert slope == pytest.approx(spoiled_slope, abs=0.01) == pytest.approx(0.967, abs=0.005)
    assert clean < 15
    assert nrmse(alone(spoiled, **settings), chi)[0] > 100


def test_the_linear_map_scales_with_the_field(masked):
    settings = {"penalty": 0.03, "n_iterations": 60, "tolerance": 0.0}
    one, ten = (whqsm(masked(scale=s), regularisation=1e-3 * s, **settings).chi_ppm for s in (1.0, 10.0))
    torch.testing.assert_close(ten, 10 * one)
    torch.testing.assert_close(whqsm(masked(b0_tesla=3.0), regularisation=1e-3, **settings).chi_ppm, one)


def test_the_nonlinear_map_depends_on_the_phase_alone(masked):
    settings = {"penalty": 0.03, "n_iterations": 60, "tolerance": 0.0, "echo_time_s": 0.010}
    one = whnlqsm(masked(scale=3.0, b0_tesla=7.0), regularisation=3e-3, **settings).chi_ppm
    half = whnlqsm(masked(scale=6.0, b0_tesla=3.5), regularisation=6e-3, **settings).chi_ppm
    torch.testing.assert_close(half, 2 * one)


def test_the_nonlinear_map_becomes_the_linear_one_for_weak_fields(masked):
    settings = {"regularisation": 1e-7, "penalty": 0.03, "n_iterations": 60, "tolerance": 0.0}
    linear, nonlinear = (method(masked(scale=1e-4), **settings).chi_ppm for method in METHODS)
    torch.testing.assert_close(nonlinear, linear, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_noise_free_map_keeps_its_amplitude(method, nrmse):
    geometry = Geometry((21, 24, 19), (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.9
    chi = torch.where((x - 0.1) ** 2 + (y + 0.2) ** 2 + z**2 < 0.2, 0.1, 0.0)
    field = FieldMap(geometry, Dipole.of(geometry, 2.0)(chi) * mask, mask, mask.float())
    error, slope = nrmse(method(field, regularisation=1e-5, penalty=0.01, n_iterations=300, tolerance=0.0, padding=1.5), chi)
    assert slope == pytest.approx(1.0, abs=0.03)
    assert error < 10


@pytest.mark.parametrize("method", METHODS)
def test_the_map_is_zero_where_it_has_to_be(method, masked):
    field = masked()
    assert float(method(replace(field, field_ppm=0 * field.field_ppm)).chi_ppm.abs().max()) == 0
    found = method(field, n_iterations=5)
    assert float(found.chi_ppm[~field.mask].abs().max()) == 0
    assert float(found.chi_ppm[field.mask].abs().max()) > 0


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_of_the_map_stays_at_rounding_level(method, tiny):
    found = method(tiny(), regularisation=1e-3, n_iterations=200, tolerance=0.0, padding=None)
    assert abs(float(found.chi_ppm.mean())) < 1e-15


@pytest.mark.parametrize(
    "name", ["regularisation", "harmonic_regularisation", "penalty", "data_penalty", "harmonic_penalty", "echo_time_s"]
)
def test_settings_that_are_not_positive_are_refused(name: str, tiny):
    for method in METHODS:
        for bad in (0.0, -1.0, float("nan"), float("inf")):
            if name != "echo_time_s" or method is whnlqsm:
                with pytest.raises(InputError, match=name):
                    method(tiny(), **{name: bad})


@pytest.mark.parametrize("method", METHODS)
def test_settings_out_of_range_are_refused(method, tiny):
    for name, bad in (("n_iterations", 0), ("tolerance", 1.0), ("weighting", "magnitude"), ("padding", 9.0), ("edge_weight", "phase")):
        with pytest.raises(InputError, match=name):
            method(tiny(), **{name: bad})
    with pytest.raises(InputError, match="needs the magnitude"):
        method(tiny(), edge_weight="magnitude")
    with pytest.raises(InputError, match="total-field method"):
        method(replace(tiny(), kind="total"))
