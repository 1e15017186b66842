import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import FieldMap, Geometry, Scan
from qsmdl.solvers.direct import tkd
from qsmdl.solvers.tgvqsm import interior, tgvqsm
from qsmdl.units import rad_per_ppm

TIMES = (0.004, 0.012, 0.020)


def scan_of(field_ppm: Tensor, mask: Tensor, geometry: Geometry, noise: float = 0.0, b0_tesla: float = 7.0) -> Scan:
    """Three noisy echoes of a field, their phases wrapped."""
    generator = torch.Generator().manual_seed(0)
    signals = []
    for time in TIMES:
        signal = math.exp(-30 * time) * torch.polar(torch.ones_like(field_ppm), field_ppm * rad_per_ppm(b0_tesla, time))
        noises = torch.randn((2, *signal.shape), generator=generator, dtype=field_ppm.dtype)
        signals.append(signal + noise * torch.complex(noises[0], noises[1]))
    signal = torch.stack(signals)
    return Scan(replace(geometry, b0_tesla=b0_tesla), TIMES, signal.abs(), signal.angle(), mask)


@pytest.fixture(scope="module")
def head() -> tuple[FieldMap, Scan, Tensor]:
    """An ellipsoid with three sources, and a scan of its field, without one from outside."""
    geometry = Geometry((22, 25, 20), (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in geometry.shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.9
    chi = torch.zeros_like(x)
    for where, value in (
        ((x - 0.2) ** 2 + (y + 0.2) ** 2 + z**2 < 0.1, 0.1),
        ((x + 0.4) ** 2 + y**2 + z**2 < 0.03, -0.2),
        ((x - 0.1) ** 2 + (z - 0.4) ** 2 < 0.02, 0.3),
    ):
        chi[where] = value
    chi *= x**2 + y**2 + z**2 < 0.6
    field = Dipole.of(geometry, 2.0, dtype=torch.float64)(chi)
    scan = scan_of(field, mask, geometry, noise=0.005)
    return FieldMap(geometry, torch.where(mask, field, 0.0), mask, mask.double()), scan, chi


def test_it_beats_tkd_on_wrapped_phases(head, nrmse):
    field, scan, chi = head
    assert float(scan.phase_rad[-1].abs().max()) > 3
    found = tgvqsm(field, scan=scan, regularisation=1e-4)
    error, slope = nrmse(found, chi)
    assert error < 0.5 * nrmse(tkd(field), chi)[0]
    assert slope == pytest.approx(0.95, abs=0.05)
    single = nrmse(tgvqsm(field, scan=scan, regularisation=1e-4, echo_time_s=0.004), chi)[0]
    assert error < single < 0.8 * nrmse(tkd(field), chi)[0]


def test_a_noise_free_map_keeps_its_amplitude(head, nrmse):
    field, _, chi = head
    error, slope = nrmse(tgvqsm(field, regularisation=1e-4, n_iterations=250, tolerance=0.0), chi)
    assert slope == pytest.approx(1.0, abs=0.03)
    assert error < 8


def test_sources_outside_change_little(head, nrmse):
    """A strong dipole outside the mask, whose field in it is larger than that of all inside."""
    field, _, chi = head
    geometry, mask = field.geometry, field.mask
    outside = torch.zeros_like(chi)
    outside[0:3, 1:4, 1:4] = 50.0
    background = Dipole.of(geometry, 2.0, dtype=torch.float64)(outside)
    assert float(background[mask].std()) > 0.5 * float(field.field_ppm[mask].std())
    clean = field.field_ppm + torch.where(mask, background, 0.0)
    total = replace(field, field_ppm=clean, kind="total")
    settings = {"regularisation": 1e-4, "harmonic_penalty": 1.0, "n_iterations": 80, "tolerance": 0.0}
    with_background = nrmse(tgvqsm(total, **settings), chi)[0]
    naive = nrmse(tgvqsm(total, **{**settings, "harmonic_penalty": 1e12}), chi)[0]
    assert with_background < 0.6 * naive


def reference(field: FieldMap, dipole: np.ndarray, gradient: np.ndarray, alphas: tuple[float, float]) -> np.ndarray:
    """The minimiser over x, h and v by iteratively reweighted least squares on dense matrices, with h in the null space of the interior Laplacian."""
    n = dipole.shape[0]
    g = gradient.reshape(3, n, n)
    laplacian = (gradient.T @ gradient)[interior(field.mask).numpy().ravel()]
    harmonic = np.linalg.svd(laplacian)[2][np.linalg.matrix_rank(laplacian) :].T
    weight = (field.weight / field.weight.mean()).numpy().ravel()
    zero = np.zeros((n, n))
    pad = np.zeros((n, harmonic.shape[1]))
    slope = [np.concatenate([g[i], pad, *(-np.eye(n) * (i == j) for j in range(3))], axis=1) for i in range(3)]
    bend = [
        np.concatenate([zero, pad, *((g[i] * (q == j) + g[j] * (q == i)) / 2 for q in range(3))], axis=1) for i in range(3) for j in range(3)
    ]
    system = weight[:, None] * np.concatenate([dipole, -harmonic, np.zeros((n, 3 * n))], axis=1)
    mean = np.concatenate([np.ones(n), np.zeros(system.shape[1] - n)])
    normal, right = system.T @ system + np.outer(mean, mean), system.T @ (weight * field.field_ppm.numpy().ravel())
    u = np.zeros(system.shape[1])
    for smoothing in np.geomspace(1e-1, 1e-8, 20):
        for _ in range(10):
            total = normal + 1e-10 * np.eye(len(u))
            for rows, alpha in ((slope, alphas[0]), (bend, alphas[1])):
                strength = alpha / np.sqrt(sum((r @ u) ** 2 for r in rows) + smoothing**2)
                total = total + sum(r.T @ (strength[:, None] * r) for r in rows)
            u = np.linalg.solve(total, right)
    return u[:n]


def test_the_map_is_the_minimiser(dense):
    geometry, generator = Geometry((5, 4, 5), (1.0, 1.2, 0.9), (0.0, 0.6, 0.8)), torch.Generator().manual_seed(0)
    values = 0.1 * torch.randn(geometry.shape, generator=generator, dtype=torch.float64)
    weight = torch.rand(geometry.shape, generator=generator, dtype=torch.float64) + 0.3
    field = FieldMap(geometry, values, torch.ones(geometry.shape, dtype=torch.bool), weight)
    dipole, gradient = dense(field)
    expected = reference(field, dipole, gradient, (5e-3, 1e-2))
    settings = {"penalty": 0.01, "harmonic_penalty": 0.01, "n_iterations": 1500, "tolerance": 0.0, "padding": None}
    found = tgvqsm(field, regularisation=5e-3, order_ratio=2.0, **settings).chi_ppm.numpy().ravel()
    assert np.linalg.norm(expected) > 0.1
    assert np.linalg.norm(found - expected + expected.mean()) < 1e-3 * np.linalg.norm(expected)


def test_the_interior_has_all_its_neighbours():
    mask = torch.ones((4, 5, 3), dtype=torch.bool)
    mask[1, 2, 1] = False
    expected = torch.zeros_like(mask)
    expected[1, 1, 1] = expected[1, 3, 1] = expected[2, 2, 1] = False
    expected[2, 1, 1] = expected[2, 3, 1] = True
    assert torch.equal(interior(mask), expected)


def test_the_map_in_ppm_does_not_depend_on_the_field_strength(head):
    """Phases at 3 T and 7 T that stand for the same field."""
    field, _, _ = head
    maps = []
    for tesla in (3.0, 7.0):
        geometry = replace(field.geometry, b0_tesla=tesla)
        scan = scan_of(field.field_ppm, field.mask, geometry, b0_tesla=tesla)
        maps.append(tgvqsm(replace(field, geometry=geometry), scan=scan, n_iterations=10, tolerance=0.0).chi_ppm)
    torch.testing.assert_close(maps[0], maps[1], atol=1e-4 * float(maps[1].abs().max()), rtol=0)


def test_the_map_scales_with_the_field(tiny):
    settings = {"n_iterations": 30, "tolerance": 0.0}
    one, ten = (tgvqsm(tiny(scale=s), regularisation=1e-3 * s, **settings).chi_ppm for s in (1.0, 10.0))
    torch.testing.assert_close(ten, 10 * one)


def test_zero_fields_masks_and_means(tiny):
    empty = tgvqsm(tiny(scale=0.0))
    assert float(empty.chi_ppm.abs().max()) == 0
    assert empty.outcome.stopped == "tolerance reached"
    found = tgvqsm(tiny(), n_iterations=20, tolerance=0.0, padding=None)
    assert abs(float(found.chi_ppm.mean())) < 1e-15
    field = tiny()
    mask = field.mask.clone()
    mask[0], mask[:, :, 3] = False, False
    found = tgvqsm(FieldMap(field.geometry, field.field_ppm, mask, field.weight * mask), n_iterations=5)
    assert float(found.chi_ppm[~mask].abs().max()) == 0
    assert float(found.chi_ppm[mask].abs().max()) > 0


def test_steps_are_reported_as_they_happen(tiny):
    seen: list[int] = []
    found = tgvqsm(tiny(), n_iterations=4, tolerance=0.0, on_step=lambda step, _: seen.append(step))
    assert seen == [1, 2, 3, 4]
    assert (found.outcome.n_steps, found.outcome.stopped) == (4, "max steps")


@pytest.mark.parametrize("name", ["regularisation", "order_ratio", "penalty", "penalty_ratio", "data_penalty", "harmonic_penalty"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_settings_that_are_not_positive_are_refused(name: str, value: float, tiny):
    with pytest.raises(InputError, match=name):
        tgvqsm(tiny(), **{name: value})


@pytest.mark.parametrize(("name", "value"), [("n_iterations", 0), ("tolerance", 1.0), ("weighting", "magnitude"), ("padding", 9.0)])
def test_settings_out_of_range_are_refused(name: str, value: object, tiny):
    with pytest.raises(InputError, match=name):
        tgvqsm(tiny(), **{name: value})


def test_scans_on_another_grid_and_odd_echo_times_are_refused(head, tiny):
    field, scan, _ = head
    with pytest.raises(InputError, match="both must lie on one grid"):
        tgvqsm(tiny(), scan=scan)
    with pytest.raises(InputError, match="echo_time_s"):
        tgvqsm(field, scan=scan, echo_time_s=4.0)
