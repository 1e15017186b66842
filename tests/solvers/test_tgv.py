import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import FieldMap, Geometry
from qsmdl.solvers.grid import WorkingGrid
from qsmdl.solvers.tgv import TgvSolve, nltgv, tgv
from qsmdl.solvers.tv import tv

FIRST, RATIO, ECHO_S = 3e-3, 2.0, 0.004


def variation_matrices(gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of (G x - v, E v) for the stacked unknown (x, v), all nine entries of E v, from the gradient's matrix; and the order of each row."""
    n = gradient.shape[1]
    g = gradient.reshape(3, n, n)
    slope = np.concatenate([np.concatenate([g[i], *(-np.eye(n) * (i == j) for j in range(3))], axis=1) for i in range(3)])
    bend = []
    for i in range(3):
        for j in range(3):
            columns = [np.zeros((n, n)) for _ in range(4)]
            columns[1 + j] += g[i] / 2
            columns[1 + i] += g[j] / 2
            bend.append(np.concatenate(columns, axis=1))
    return np.concatenate([slope, *bend]), np.repeat([1, 0], [3 * n, 9 * n])


def objective(u: np.ndarray, dipole, weight, data, rows, alphas, rad_per_ppm=None) -> float:
    misfit = dipole @ u[: len(data)] - data
    fit = weight**2 * (misfit**2 / 2 if rad_per_ppm is None else (1 - np.cos(rad_per_ppm * misfit)) / rad_per_ppm**2)
    return float(fit.sum() + (alphas * np.abs(rows @ u)).sum())


def reference(dipole, weight, data, rows, alphas, rad_per_ppm=None) -> np.ndarray:
    """The minimiser over (x, v) by iteratively reweighted least squares on dense matrices, the absolute values rounded off ever less."""
    n = len(data)
    system = np.concatenate([weight[:, None] * dipole, np.zeros((n, 3 * n))], axis=1)
    mean = np.concatenate([np.ones(n), np.zeros(3 * n)])
    normal, u = system.T @ system + np.outer(mean, mean), np.zeros(4 * n)
    for smoothing in np.geomspace(1e-1, 1e-9, 25):
        for _ in range(12):
            target = data
            if rad_per_ppm is not None:  # the parabola that touches the cosine at the present misfit lies above it
                misfit = dipole @ u[:n] - data
                target = dipole @ u[:n] - np.sin(rad_per_ppm * misfit) / rad_per_ppm
            strength = alphas / np.sqrt((rows @ u) ** 2 + smoothing**2)
            u = np.linalg.solve(normal + rows.T @ (strength[:, None] * rows) + 1e-12 * np.eye(4 * n), system.T @ (weight * target))
    return u


@pytest.fixture(params=[tgv, nltgv], ids=["tgv", "nltgv"])
def solver(request):
    return request.param


def test_the_map_is_the_minimiser(solver, tiny, dense):
    field = tiny()
    dipole, gradient = dense(field)
    weight, data = (field.weight / field.weight.mean()).numpy().ravel(), field.field_ppm.numpy().ravel()
    rows, order = variation_matrices(gradient)
    alphas = np.where(order == 1, FIRST, FIRST * RATIO)
    angular = 2 * math.pi * 42.577 * 7 * ECHO_S if solver is nltgv else None
    settings = {"echo_time_s": ECHO_S} if solver is nltgv else {}
    expected = reference(dipole, weight, data, rows, alphas, angular)
    found = solver(
        field, regularisation=FIRST, order_ratio=RATIO, penalty=0.02, n_iterations=500, tolerance=0.0, padding=None, **settings
    ).chi_ppm.numpy().ravel()
    assert np.linalg.norm(found - expected[: len(found)] + expected[: len(found)].mean()) < 1e-3 * np.linalg.norm(expected[: len(found)])
    # with the reference's v the map's objective is within 1e-3 of the least one
    assert objective(np.concatenate([found, expected[len(found) :]]), dipole, weight, data, rows, alphas, angular) == pytest.approx(
        objective(expected, dipole, weight, data, rows, alphas, angular), rel=1e-3
    )


def test_the_objective_falls(tiny, dense):
    """The least objective over v at maps after growing numbers of steps."""
    field = tiny(1)
    dipole, gradient = dense(field)
    weight, data = (field.weight / field.weight.mean()).numpy().ravel(), field.field_ppm.numpy().ravel()
    rows, order = variation_matrices(gradient)
    n, alphas = len(data), np.where(order == 1, FIRST, FIRST * RATIO)

    def least(x: np.ndarray) -> float:
        v = np.zeros(3 * n)
        for smoothing in np.geomspace(1e-1, 1e-8, 20):
            for _ in range(5):
                strength = alphas / np.sqrt((rows @ np.concatenate([x, v])) ** 2 + smoothing**2)
                inner = rows[:, n:].T * strength
                v = np.linalg.solve(inner @ rows[:, n:] + 1e-12 * np.eye(3 * n), -inner @ (rows[:, :n] @ x))
        return objective(np.concatenate([x, v]), dipole, weight, data, rows, alphas)

    maps = [tgv(field, regularisation=FIRST, n_iterations=k, tolerance=0.0, padding=None).chi_ppm.numpy().ravel() for k in (1, 8, 40, 400)]
    costs = [least(x) for x in maps]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.8 * least(np.zeros(n))


def test_the_closed_form_solves_the_normal_equations(tiny):
    """The gradient of the quadratic that `TgvSolve` minimises vanishes at its result."""
    field = tiny()
    grid = WorkingGrid.of(field, None)
    solve = TgvSolve(grid, 0.3, 0.7, 1.3)
    generator = torch.Generator().manual_seed(3)
    targets = [torch.randn((*lead, *grid.shape), generator=generator, dtype=torch.float64) for lead in ((3,), (6,), ())]
    unknowns = solve([t.clone() for t in targets])
    geometry = field.geometry
    dipole = Dipole(geometry.shape, geometry.voxel_size_mm, geometry.b0_direction, fft_shape=geometry.shape, dtype=torch.float64)
    slope = solve.gradient(unknowns[0]) - unknowns[1:] - targets[0]
    bend = solve.symmetric(unknowns[1:]) - targets[1]
    of_x = 0.3 * solve.gradient.H(slope) + 1.3 * dipole(dipole(unknowns[0]) - targets[2])
    of_v = -0.3 * slope + 0.7 * solve.symmetric.H(bend)
    assert float(of_x.abs().max()) < 1e-12
    assert float(of_v.abs().max()) < 1e-12
    torch.testing.assert_close(solve.field(unknowns), dipole(unknowns[0]))
    torch.testing.assert_close(solve.field(2 * unknowns), 2 * dipole(unknowns[0]))


def test_on_the_check_phantom(solver, check_phantom, nrmse):
    """10.32 and 0.982 with weights of maximum 1."""
    field, chi = check_phantom
    k = 1 / float(field.weight[field.mask].mean()) ** 2
    settings = {"echo_time_s": 0.004} if solver is nltgv else {}
    found = solver(field, regularisation=1e-4 * k, penalty=1e-2 * k, data_penalty=k, n_iterations=150, padding=None, **settings)
    error, slope = nrmse(found, chi)
    assert error == pytest.approx(10.32, abs=0.05)
    assert slope == pytest.approx(0.982, abs=0.002)


def test_ramps_come_out_better_than_with_total_variation(nrmse):
    """On a noise-free map that falls in a straight line from its middle."""
    geometry = Geometry((21, 24, 19), (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    radius = (x**2 + y**2 + z**2).sqrt()
    mask, chi = radius**2 < 0.9, 0.2 * (0.8 - radius).clamp(min=0.0)
    field = FieldMap(geometry, Dipole.of(geometry, 2.0)(chi) * mask, mask, mask.float())
    settings = {"regularisation": 1e-3, "penalty": 0.05, "n_iterations": 100, "tolerance": 0.0, "padding": 1.5}
    assert nrmse(tgv(field, order_ratio=0.5, **settings), chi)[0] < 0.7 * nrmse(tv(field, **settings), chi)[0]


def test_a_noise_free_map_keeps_its_amplitude(solver, nrmse):
    geometry = Geometry((21, 24, 19), (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.9
    chi = torch.where((x - 0.1) ** 2 + (y + 0.2) ** 2 + z**2 < 0.2, 0.1, 0.0)
    field = FieldMap(geometry, Dipole.of(geometry, 2.0)(chi) * mask, mask, mask.float())
    error, slope = nrmse(solver(field, regularisation=1e-5, penalty=0.01, n_iterations=150, tolerance=0.0, padding=1.5), chi)
    assert slope == pytest.approx(1.0, abs=0.02)
    assert error < 10


def test_the_linear_map_scales_with_the_field(tiny):
    settings = {"penalty": 0.03, "n_iterations": 60, "tolerance": 0.0}
    one, ten = (tgv(tiny(scale=s), regularisation=1e-3 * s, **settings).chi_ppm for s in (1.0, 10.0))
    torch.testing.assert_close(ten, 10 * one)
    torch.testing.assert_close(tgv(tiny(b0_tesla=3.0), regularisation=1e-3, **settings).chi_ppm, one)


def test_the_nonlinear_map_depends_on_the_phase_alone(tiny):
    settings = {"penalty": 0.03, "n_iterations": 60, "tolerance": 0.0, "echo_time_s": 0.010}
    one = nltgv(tiny(scale=3.0, b0_tesla=7.0), regularisation=3e-3, **settings).chi_ppm
    half = nltgv(tiny(scale=6.0, b0_tesla=3.5), regularisation=6e-3, **settings).chi_ppm
    torch.testing.assert_close(half, 2 * one)


def test_the_nonlinear_map_becomes_the_linear_one_for_weak_fields(tiny):
    weak = tiny(scale=1e-4)
    settings = {"regularisation": 1e-7, "penalty": 0.03, "n_iterations": 60, "tolerance": 0.0}
    linear = tgv(weak, **settings).chi_ppm
    assert float((nltgv(weak, **settings).chi_ppm - linear).norm()) < 1e-6 * float(linear.norm())


def test_the_mean_of_the_map_stays_at_rounding_level(solver, tiny):
    assert abs(float(solver(tiny(), regularisation=1e-3, n_iterations=100, tolerance=0.0, padding=None).chi_ppm.mean())) < 1e-15


def test_a_zero_field_gives_a_zero_map(solver, tiny):
    found = solver(tiny(scale=0.0))
    assert float(found.chi_ppm.abs().max()) == 0
    assert found.outcome.stopped == "tolerance reached"


def test_nothing_remains_outside_the_mask(solver, tiny):
    field = tiny()
    mask = field.mask.clone()
    mask[0], mask[:, :, 3] = False, False
    found = solver(FieldMap(field.geometry, field.field_ppm, mask, field.weight * mask), n_iterations=5)
    assert float(found.chi_ppm[~mask].abs().max()) == 0
    assert float(found.chi_ppm[mask].abs().max()) > 0


def test_steps_are_reported_as_they_happen(solver, tiny):
    seen: list[int] = []
    found = solver(tiny(), n_iterations=4, tolerance=0.0, on_step=lambda step, _: seen.append(step))
    assert seen == [1, 2, 3, 4]
    assert (found.outcome.n_steps, found.outcome.stopped) == (4, "max steps")


@pytest.mark.parametrize("name", ["regularisation", "order_ratio", "penalty", "penalty_ratio", "data_penalty", "echo_time_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_settings_that_are_not_positive_are_refused(name: str, value: float, tiny):
    with pytest.raises(InputError, match=name):
        nltgv(tiny(), **{name: value})
    if name != "echo_time_s":
        with pytest.raises(InputError, match=name):
            tgv(tiny(), **{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("n_iterations", 0), ("tolerance", 1.0), ("weighting", "magnitude"), ("edge_weight", "phase"), ("padding", 9.0)]
)
def test_settings_out_of_range_are_refused(solver, name: str, value: object, tiny):
    with pytest.raises(InputError, match=name):
        solver(tiny(), **{name: value})


def test_total_fields_and_edges_without_a_scan_are_refused(solver, tiny):
    with pytest.raises(InputError, match="total-field method"):
        solver(replace(tiny(), kind="total"))
    with pytest.raises(InputError, match="needs the magnitude"):
        solver(tiny(), edge_weight="magnitude")
