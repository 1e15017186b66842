from dataclasses import replace

import numpy as np
import pytest
import torch
from brute_force import majorised_minimiser, tv_minimiser

from qsmdl.errors import InputError
from qsmdl.physics.derivatives import Gradient
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import FieldMap, Geometry, Scan
from qsmdl.solvers.tv import nltv, tv


def cost(chi: torch.Tensor, field: FieldMap, regularisation: float) -> float:
    """1/2 ||w (D x - f)||^2 + alpha ||G x||_1 on the field map's periodic grid."""
    geometry = field.geometry
    dipole = Dipole(geometry.shape, geometry.voxel_size_mm, geometry.b0_direction, fft_shape=geometry.shape, dtype=chi.dtype)
    weight = field.weight / field.weight[field.mask].mean()
    gradient = Gradient(geometry.voxel_size_mm)(chi)
    return float(0.5 * (weight * (dipole(chi) - field.field_ppm)).square().sum() + regularisation * gradient.abs().sum())


def scan_of(field: FieldMap, magnitude: torch.Tensor, r2star_per_s: torch.Tensor) -> Scan:
    """Two echoes of a magnitude at TE = 0 that decays."""
    times = (0.004, 0.020)
    decayed = torch.stack([magnitude * torch.exp(-r2star_per_s * t) for t in times])
    return Scan(field.geometry, times, decayed, torch.zeros_like(decayed), field.mask)


def quadratic(field: FieldMap, dipole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """D w^2 D and D w^2 f."""
    weight = (field.weight / field.weight.mean()).numpy().ravel()
    return dipole.T @ (weight[:, None] ** 2 * dipole), dipole.T @ (weight**2 * field.field_ppm.numpy().ravel())


def distance(found: torch.Tensor, expected: np.ndarray | torch.Tensor) -> float:
    """Relative, after removal of the means."""
    x, y = found.numpy().ravel(), np.asarray(expected).ravel()
    return float(np.linalg.norm(x - x.mean() - y + y.mean()) / np.linalg.norm(y - y.mean()))


def test_the_map_is_the_minimiser(tiny, dense):
    field, alpha = tiny(), 2e-3
    dipole, gradient = dense(field)
    expected = tv_minimiser(*quadratic(field, dipole), gradient, alpha)
    found = tv(field, regularisation=alpha, penalty=0.02, n_iterations=1500, tolerance=0.0, padding=None)
    assert distance(found.chi_ppm, expected) < 1e-3


def test_edges_of_the_scan_are_spared(tiny, dense):
    """R = min(1, mean |G M| / 2 / |G M|) for every component of the gradient of the echoes' root sum of squares, or of R2*."""
    field, alpha = tiny(), 2e-3
    generator = torch.Generator().manual_seed(4)
    volume, flat = 1 + torch.rand(field.geometry.shape, generator=generator, dtype=torch.float64), torch.ones_like(field.field_ppm)
    dipole, gradient = dense(field)
    edges = np.abs(gradient @ volume.numpy().ravel())
    expected = tv_minimiser(*quadratic(field, dipole), gradient, alpha * np.minimum(1, 0.5 * edges.mean() / edges))
    settings = {"regularisation": alpha, "penalty": 0.02, "n_iterations": 1500, "tolerance": 0.0, "padding": None}
    by_magnitude = tv(field, scan=scan_of(field, volume, 0 * flat), edge_weight="magnitude", **settings)
    assert distance(by_magnitude.chi_ppm, expected) < 1e-3
    by_r2star = tv(field, scan=scan_of(field, flat, 20 * volume), edge_weight="r2star", **settings)
    assert distance(by_r2star.chi_ppm, expected) < 1e-3
    everywhere = tv(field, **settings)
    assert distance(everywhere.chi_ppm, expected) > 0.05


def test_the_nonlinear_map_is_the_minimiser(tiny, dense):
    field, alpha, c = tiny(scale=1.5), 4e-3, 2 * np.pi * 42.577 * 7 * 0.003
    dipole, gradient = dense(field)
    weight, data = (field.weight / field.weight.mean()).numpy().ravel(), field.field_ppm.numpy().ravel()
    expected = majorised_minimiser(
        lambda x: dipole @ (weight**2 / c * np.sin(np.clip(c * (dipole @ x - data), -np.pi, np.pi))),
        dipole @ (weight[:, None] ** 2 * dipole),
        gradient,
        alpha,
    )
    settings = {"regularisation": alpha, "penalty": 0.02, "n_iterations": 1000, "tolerance": 0.0, "padding": None}
    assert distance(nltv(field, echo_time_s=0.003, **settings).chi_ppm, expected) < 1e-3
    assert distance(tv(field, **settings).chi_ppm, expected) > 0.05


def test_the_objective_falls(tiny):
    field, alpha = tiny(1), 5e-3
    costs = [
        cost(tv(field, regularisation=alpha, penalty=0.05, n_iterations=n, tolerance=0.0, padding=None).chi_ppm, field, alpha)
        for n in (1, 10, 50, 400)
    ]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.8 * cost(torch.zeros_like(field.field_ppm), field, alpha)


@pytest.mark.parametrize("method", [tv, nltv])
def test_a_noise_free_map_keeps_its_amplitude(method, nrmse):
    """A wrong sign of the gradient's adjoint would shrink it to about 0.7."""
    geometry = Geometry((21, 24, 19), (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.9
    chi = torch.where((x - 0.1) ** 2 + (y + 0.2) ** 2 + z**2 < 0.2, 0.1, 0.0)
    field = FieldMap(geometry, Dipole.of(geometry, 2.0)(chi) * mask, mask, mask.float())
    error, slope = nrmse(method(field, regularisation=1e-5, penalty=0.01, n_iterations=150, tolerance=0.0, padding=1.5), chi)
    assert slope == pytest.approx(1.0, abs=0.02)
    assert error < 8


def test_the_linear_map_scales_with_the_field(tiny):
    settings = {"penalty": 0.03, "n_iterations": 60, "tolerance": 0.0}
    one, ten = (tv(tiny(scale=s), regularisation=1e-3 * s, **settings).chi_ppm for s in (1.0, 10.0))
    torch.testing.assert_close(ten, 10 * one)
    torch.testing.assert_close(tv(tiny(b0_tesla=3.0), regularisation=1e-3, **settings).chi_ppm, one)


def test_the_nonlinear_map_depends_on_the_phase_alone(tiny):
    settings = {"penalty": 0.03, "n_iterations": 60, "tolerance": 0.0}
    one = nltv(tiny(scale=3.0, b0_tesla=7.0), regularisation=3e-3, echo_time_s=0.010, **settings).chi_ppm
    half = nltv(tiny(scale=6.0, b0_tesla=3.5), regularisation=6e-3, echo_time_s=0.010, **settings).chi_ppm
    torch.testing.assert_close(half, 2 * one)


def test_the_nonlinear_map_becomes_the_linear_one_for_weak_fields(tiny):
    weak = tiny(scale=1e-4)
    settings = {"regularisation": 1e-7, "penalty": 0.03, "n_iterations": 60, "tolerance": 0.0}
    linear, nonlinear = (method(weak, **settings).chi_ppm for method in (tv, nltv))
    torch.testing.assert_close(nonlinear, linear, rtol=1e-6, atol=1e-9)


def test_the_weights_keep_bad_voxels_out(nrmse, check_phantom):
    field, chi = check_phantom
    settings = {"regularisation": 1e-4, "penalty": 1e-2, "n_iterations": 70, "padding": None}
    weighted, uniform = (nrmse(tv(field, weighting=w, **settings), chi)[0] for w in ("noise", "uniform"))
    assert weighted < 11 < 18 < uniform


@pytest.mark.parametrize("method", [tv, nltv])
def test_tv_on_the_check_phantom(method, check_phantom, nrmse):
    """9.37 with a weight whose maximum is 1, alpha 1e-4, mu 1e-2: all three grow by 1 / mean(w)^2 for a weight whose mean is 1."""
    field, chi = check_phantom
    k = 1 / float(field.weight[field.mask].mean()) ** 2
    echo_time = {"echo_time_s": 0.004} if method is nltv else {}
    found = method(field, regularisation=1e-4 * k, penalty=1e-2 * k, data_penalty=k, padding=None, **echo_time)
    error, slope = nrmse(found, chi)
    assert error == pytest.approx(9.37, abs=0.05)
    assert slope == pytest.approx(0.983, abs=0.002)
    assert found.outcome.n_steps == pytest.approx(123, abs=2)
    assert found.outcome.stopped == "tolerance reached"
    assert found.outcome.residual == found.outcome.curve[-1] < 1e-3


def test_the_mean_of_the_map_stays_at_rounding_level(tiny):
    found = tv(tiny(), regularisation=1e-3, n_iterations=200, tolerance=0.0, padding=None)
    assert abs(float(found.chi_ppm.mean())) < 1e-15


def test_strong_noise_with_many_turns_does_not_let_the_map_explode(tiny):
    field = tiny(scale=20.0)
    found = nltv(field, regularisation=1e-3, n_iterations=300, tolerance=0.0, padding=None)
    assert float(found.chi_ppm.abs().max()) < 30 * float(field.field_ppm.abs().max())


def test_a_zero_field_gives_a_zero_map(tiny):
    found = tv(tiny(scale=0.0))
    assert float(found.chi_ppm.abs().max()) == 0
    assert found.outcome.stopped == "tolerance reached"


def test_nothing_remains_outside_the_mask(tiny):
    field = tiny()
    mask = field.mask.clone()
    mask[0], mask[:, :, 3] = False, False
    field = FieldMap(field.geometry, field.field_ppm, mask, field.weight * mask)
    found = tv(field, n_iterations=5)
    assert float(found.chi_ppm[~mask].abs().max()) == 0
    assert float(found.chi_ppm[mask].abs().max()) > 0


def test_steps_are_reported_as_they_happen(tiny):
    seen: list[tuple[int, float]] = []
    found = tv(tiny(), n_iterations=7, tolerance=0.0, on_step=lambda step, change: seen.append((step, change)))
    assert [step for step, _ in seen] == list(range(1, 8))
    assert tuple(change for _, change in seen) == found.outcome.curve
    assert (found.outcome.n_steps, found.outcome.stopped) == (7, "max steps")


@pytest.mark.parametrize("name", ["regularisation", "penalty", "data_penalty", "echo_time_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_settings_that_are_not_positive_are_refused(name: str, value: float, tiny):
    for method in (tv, nltv):
        if name != "echo_time_s" or method is nltv:
            with pytest.raises(InputError, match=name):
                method(tiny(), **{name: value})


@pytest.mark.parametrize("method", [tv, nltv])
@pytest.mark.parametrize(
    ("name", "value"),
    [("n_iterations", 0), ("tolerance", -0.1), ("tolerance", 1.0), ("weighting", "magnitude"), ("padding", 9.0), ("edge_weight", "phase")],
)
def test_settings_out_of_range_are_refused(method, name: str, value: object, tiny):
    with pytest.raises(InputError, match=name):
        method(tiny(), **{name: value})


@pytest.mark.parametrize("method", [tv, nltv])
def test_input_that_does_not_fit_is_refused(method, tiny):
    field = tiny()
    with pytest.raises(InputError, match="total-field method"):
        method(replace(field, kind="total"))
    with pytest.raises(InputError, match="edge_weight='r2star' needs the magnitude"):
        method(field, edge_weight="r2star")
    other = Geometry((6, 3, 4), field.geometry.voxel_size_mm)
    ones = torch.ones(2, *other.shape, dtype=torch.float64)
    with pytest.raises(InputError, match="one grid"):
        method(field, scan=Scan(other, (0.004, 0.02), ones, 0 * ones, ones[0] > 0), edge_weight="magnitude")
