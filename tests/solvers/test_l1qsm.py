import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from brute_force import rounded, smooth_minimiser
from scipy.optimize import linprog

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import FieldMap, Geometry
from qsmdl.solvers.l1qsm import l1qsm, nll1qsm
from qsmdl.solvers.tv import tv

PER_PPM = 2 * math.pi * 42.58 * 7 * 0.004
"""rad/ppm of the check phantom."""
METHODS = [l1qsm, nll1qsm]


def linear_program(field: FieldMap, dipole: np.ndarray, gradient: np.ndarray, alpha: float) -> tuple[np.ndarray, float]:
    """argmin of ||w (D x - f)||_1 + alpha ||G x||_1 and its value, as a linear program in x and the bounds of both absolute values."""
    weight, data = (field.weight / field.weight.mean()).numpy().ravel(), field.field_ppm.numpy().ravel()
    rows, target = np.concatenate([weight[:, None] * dipole, alpha * gradient]), np.concatenate([weight * data, np.zeros(len(gradient))])
    n, m = dipole.shape[1], len(rows)
    bounds = np.block([[rows, -np.eye(m)], [-rows, -np.eye(m)]])
    solved = linprog(
        np.concatenate([np.zeros(n), np.ones(m)]),
        A_ub=bounds, b_ub=np.concatenate([target, -target]),
        A_eq=np.concatenate([np.ones(n), np.zeros(m)])[None], b_eq=[0.0],
        bounds=[(None, None)] * n + [(0, None)] * m,
    )  # fmt: skip
    assert solved.success
    return solved.x[:n], float(solved.fun)


def value(x: np.ndarray, field: FieldMap, dipole: np.ndarray, gradient: np.ndarray, alpha: float) -> float:
    weight, data = (field.weight / field.weight.mean()).numpy().ravel(), field.field_ppm.numpy().ravel()
    return float(np.abs(weight * (dipole @ x - data)).sum() + alpha * np.abs(gradient @ x).sum())


def blocks(field: FieldMap, scale: float = 1.0) -> FieldMap:
    """The field of a map of two values, with noise, and errors in a few voxels."""
    geometry, noise = field.geometry, 0.1 * field.field_ppm
    chi = torch.zeros_like(noise)
    chi[1:4, 1:, 1:3] = 0.3
    dipole = Dipole(geometry.shape, geometry.voxel_size_mm, geometry.b0_direction, fft_shape=geometry.shape, dtype=chi.dtype)
    wrong = torch.zeros_like(noise)
    wrong[0, 0, 0], wrong[2, 1, 3], wrong[4, 2, 1] = 0.3, -0.2, 0.4
    return replace(field, field_ppm=scale * (dipole(chi) + noise + wrong))


def test_the_linear_map_is_the_minimiser(tiny, dense):
    field, alpha = blocks(tiny(1)), 0.05
    matrices = dense(field)
    expected, lowest = linear_program(field, *matrices, alpha)
    assert value(expected, field, *matrices, alpha) == pytest.approx(lowest)
    settings = {"regularisation": alpha, "penalty": 4.0, "data_penalty": 80.0, "tolerance": 0.0, "padding": None}
    maps = [l1qsm(field, n_iterations=n, **settings).chi_ppm.numpy().ravel() for n in (3, 30, 1500)]
    costs = [value(x, field, *matrices, alpha) for x in maps]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 1.001 * lowest < 0.9 * value(0 * expected, field, *matrices, alpha)
    assert np.linalg.norm(maps[-1] - expected) < 1e-3 * np.linalg.norm(expected)


def test_the_nonlinear_map_is_the_minimiser(tiny, dense):
    """Sharp minima: at weak regularisation every datum that is fitted is fitted exactly, in phase as in the field."""
    field, alpha, c = blocks(tiny(), 2.0), 0.05, 2 * math.pi * 42.577 * 7 * 0.003
    dipole, gradient = (torch.from_numpy(m) for m in dense(field))
    weight, data = (field.weight / field.weight.mean()).flatten(), field.field_ppm.flatten()

    def objective(x: torch.Tensor, rounding: float) -> torch.Tensor:
        half_turns = (c * (dipole @ x - data)).clamp(-math.pi, math.pi) / 2
        return (2 / c * weight * rounded(half_turns.sin(), rounding)).sum() + alpha * rounded(gradient @ x, rounding).sum()

    settings = {"regularisation": alpha, "penalty": 2.0, "data_penalty": 20.0, "echo_time_s": 0.003, "tolerance": 0.0, "padding": None}
    maps = [nll1qsm(field, n_iterations=n, **settings).chi_ppm.flatten() for n in (3, 30, 1000)]
    costs = [float(objective(x, 0.0)) for x in maps]
    expected = smooth_minimiser(objective, torch.zeros_like(data))
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 1.001 * float(objective(expected, 0.0)) < 0.9 * float(objective(0 * expected, 0.0))


@pytest.mark.parametrize("method", METHODS)
def test_on_the_check_phantom(method, check_phantom, nrmse):
    """Linear: 21.5 and 9.98, nonlinear: 16.8 and 10.1, in rad with a weight whose maximum is 1; for a mean of 1 all settings grow by 1 / mean(w), and
    the penalties by rad/ppm.
    """
    field, chi = check_phantom
    k = 1 / float(field.weight[field.mask].mean())
    nonlinear = method is nll1qsm
    phase = {"phase_penalty": k, "echo_time_s": 0.004} if nonlinear else {}
    expected = ((0.01, 45 if nonlinear else 50, 16.8 if nonlinear else 21.5), (0.05, 200, 10.1 if nonlinear else 9.98))
    for alpha, n, error in expected:
        found = method(
            field, regularisation=alpha * k, penalty=10 * alpha * PER_PPM * k, data_penalty=PER_PPM * k, n_iterations=n, padding=None, **phase
        )
        measured, slope = nrmse(found, chi)
        assert measured == pytest.approx(error, abs=0.1)
        assert slope == pytest.approx(0.997 if alpha == 0.01 else 0.983, abs=0.002)


@pytest.mark.parametrize("method", METHODS)
def test_with_the_noise_of_the_challenge(method, quiet_phantom, nrmse):
    """Linear: 6.2, nonlinear: 6.4 at 1e-2, after 200 steps at most."""
    field, chi = quiet_phantom
    k = 1 / float(field.weight[field.mask].mean())
    phase = {"phase_penalty": k, "echo_time_s": 0.004} if method is nll1qsm else {}
    found = method(field, regularisation=0.01 * k, penalty=0.1 * PER_PPM * k, data_penalty=PER_PPM * k, n_iterations=200, padding=None, **phase)
    measured, slope = nrmse(found, chi)
    assert measured == pytest.approx(6.2 if method is l1qsm else 6.4, abs=0.15)
    assert slope == pytest.approx(0.99, abs=0.01)
    assert found.outcome.stopped == "tolerance reached"


def test_the_linear_map_scales_with_the_field(tiny):
    """The objective is homogeneous: the same parameters at any size of the field, if the penalties shrink as it grows; B0 does not enter."""
    settings = {"regularisation": 0.05, "n_iterations": 60, "tolerance": 0.0}
    one, ten = (l1qsm(tiny(scale=s), penalty=1.0 / s, data_penalty=20.0 / s, **settings).chi_ppm for s in (1.0, 10.0))
    torch.testing.assert_close(ten, 10 * one)
    torch.testing.assert_close(l1qsm(tiny(b0_tesla=3.0), penalty=1.0, data_penalty=20.0, **settings).chi_ppm, one)


def test_the_nonlinear_map_depends_on_the_phase_alone(tiny):
    settings = {"regularisation": 0.05, "echo_time_s": 0.010, "n_iterations": 60, "tolerance": 0.0}
    one = nll1qsm(tiny(scale=3.0, b0_tesla=7.0), penalty=1.0, data_penalty=20.0, **settings).chi_ppm
    half = nll1qsm(tiny(scale=6.0, b0_tesla=3.5), penalty=0.5, data_penalty=10.0, **settings).chi_ppm
    torch.testing.assert_close(half, 2 * one)


@pytest.mark.parametrize("method", METHODS)
def test_one_wild_voxel_pulls_the_map_little(method, tiny):
    """Its influence is bounded, whereas with the square of the misfit it grows with the error."""
    clean = tiny()
    wild = clean.field_ppm.clone()
    wild[2, 1, 2] += 3.0
    settings = {"n_iterations": 300, "tolerance": 0.0, "padding": None}
    moved = {}
    for solve, alpha in ((method, 0.05), (tv, 2e-3)):
        maps = [solve(field, regularisation=alpha, **settings).chi_ppm for field in (clean, replace(clean, field_ppm=wild))]
        moved[solve] = float((maps[1] - maps[0]).norm() / maps[0].norm())
    assert moved[method] < 0.7
    assert moved[tv] > 3


@pytest.mark.parametrize("method", METHODS)
def test_a_noise_free_map_keeps_its_amplitude(method, nrmse):
    geometry = Geometry((21, 24, 19), (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.9
    chi = torch.where((x - 0.1) ** 2 + (y + 0.2) ** 2 + z**2 < 0.2, 0.1, 0.0)
    field = FieldMap(geometry, Dipole.of(geometry, 2.0)(chi) * mask, mask, mask.float())
    error, slope = nrmse(method(field, tolerance=0.0, n_iterations=300, padding=1.5), chi)
    assert slope == pytest.approx(1.0, abs=0.02)
    assert error < 8


@pytest.mark.parametrize("method", METHODS)
def test_the_map_is_zero_where_it_has_to_be(method, tiny):
    field = tiny()
    assert float(method(replace(field, field_ppm=0 * field.field_ppm)).chi_ppm.abs().max()) == 0
    assert abs(float(method(field, n_iterations=100, tolerance=0.0, padding=None).chi_ppm.mean())) < 1e-15
    mask = field.mask.clone()
    mask[0], mask[:, :, 3] = False, False
    found = method(FieldMap(field.geometry, field.field_ppm, mask, field.weight * mask), n_iterations=5)
    assert float(found.chi_ppm[~mask].abs().max()) == 0
    assert float(found.chi_ppm[mask].abs().max()) > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["regularisation", "penalty", "data_penalty", "phase_penalty", "echo_time_s"])
def test_settings_that_are_not_positive_are_refused(method, name: str, tiny):
    if method is l1qsm and name in ("phase_penalty", "echo_time_s"):
        method, name = nll1qsm, name
    for bad in (0.0, -1.0, float("nan"), float("inf")):
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
