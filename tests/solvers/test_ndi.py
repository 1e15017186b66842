import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_scans import ECHO_TIMES_S, scan_of

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import FieldMap, Geometry
from qsmdl.solvers.ndi import ndi
from qsmdl.units import rad_per_ppm

FANSI = {"step_size": 2.0, "regularisation": 1e-5}


def dense_descent(field: FieldMap, dipole: np.ndarray, echoes: list[tuple[float, np.ndarray, np.ndarray]], n_steps: int) -> np.ndarray:
    """Steps x <- x - t D g'(D x) - t a x with dense matrices; echoes: c, weight and unwrapped phase of each."""
    curvature = sum(c**2 * w**2 for c, w, _ in echoes)
    t = 2.0 / curvature.max()
    x = np.zeros(len(dipole))
    for _ in range(n_steps):
        z = dipole @ x
        slope = sum(c * w**2 * np.sin(np.clip(c * z - p, -np.pi, np.pi)) for c, w, p in echoes)
        x = x - t * dipole @ slope - 2.0 * 1e-5 * x
    return x


def test_the_steps_for_a_field_map_are_those_of_dense_descent(tiny, dense):
    field = tiny(scale=3.0)
    c = rad_per_ppm(7.0, 0.004)
    weight = (field.weight / field.weight.mean()).numpy().ravel() / c
    expected = dense_descent(field, dense(field)[0], [(c, weight, c * field.field_ppm.numpy().ravel())], 25)
    found = ndi(field, n_iterations=25, padding=None, **FANSI)
    np.testing.assert_allclose(found.chi_ppm.numpy().ravel(), expected, atol=1e-12)
    assert found.outcome.n_steps == len(found.outcome.curve) == 25


def test_the_steps_for_all_echoes_are_those_of_dense_descent(tiny, dense):
    field = tiny(scale=3.0)
    scan = scan_of(field)
    measured = field.field_ppm.numpy().ravel()
    echoes = []
    for te, magnitude, phase in zip(ECHO_TIMES_S, scan.magnitude, scan.phase_rad, strict=True):
        c, p = rad_per_ppm(7.0, te), phase.numpy().ravel()
        echoes.append((c, magnitude.numpy().ravel(), p + 2 * np.pi * np.round((c * measured - p) / (2 * np.pi))))
    expected = dense_descent(field, dense(field)[0], echoes, 25)
    found = ndi(field, scan=scan, n_iterations=25, padding=None, **FANSI)
    np.testing.assert_allclose(found.chi_ppm.numpy().ravel(), expected, atol=1e-12)
    from_field = ndi(field, scan=scan, fidelity="field", n_iterations=25, padding=None, **FANSI)
    np.testing.assert_allclose(from_field.chi_ppm, ndi(field, n_iterations=25, padding=None, **FANSI).chi_ppm, atol=1e-12)
    assert float((from_field.chi_ppm - found.chi_ppm).abs().max()) > 1e-3


@pytest.mark.parametrize("step_size", [2.0, 4.4])
def test_the_misfit_falls(step_size: float, tiny, dense):
    field = tiny(1, scale=3.0)
    dipole, data = torch.from_numpy(dense(field)[0]), field.field_ppm.flatten()
    weight, c = (field.weight / field.weight.mean()).flatten(), rad_per_ppm(7.0, 0.004)
    misfits = []
    for n in (1, 2, 5, 10, 50, 200):
        x = ndi(field, n_iterations=n, step_size=step_size, regularisation=1e-5, padding=None).chi_ppm.flatten()
        misfits.append(float((weight.square() * (1 - torch.cos((c * (dipole @ x - data)).clamp(-torch.pi, torch.pi)))).sum()))
    assert all(later < earlier for earlier, later in itertools.pairwise(misfits))


@pytest.mark.parametrize(("n_iterations", "expected"), [(10, 57.5), (30, 49.2), (100, 47.6), (200, 48.8)])
def test_ndi_on_the_check_phantom(n_iterations: int, expected: float, check_phantom, nrmse):
    field, chi = check_phantom
    assert nrmse(ndi(field, n_iterations=n_iterations, padding=None, **FANSI), chi)[0] == pytest.approx(expected, abs=0.1)


def test_the_stopping_rule_ends_near_the_best_step(check_phantom, nrmse):
    field, chi = check_phantom
    found = ndi(field, n_iterations=300, auto_stop=True, padding=None, **FANSI)
    assert found.outcome.stopped == "own rule"
    assert 10 < found.outcome.n_steps < 200
    assert nrmse(found, chi)[0] < 49
    density = torch.fft.rfftn(found.chi_ppm).abs()
    k = torch.stack(torch.meshgrid(torch.fft.fftfreq(48), torch.fft.fftfreq(48), torch.fft.rfftfreq(48), indexing="ij"), -1)
    radius = 2 * k.norm(dim=-1)
    kernel = (1 / 3 - k[..., 2] ** 2 / k.square().sum(-1)).abs()
    shell = (radius >= 0.65) & (radius <= 0.95)
    near, far = (float(density[shell & (kernel > low) & (kernel <= high)].mean()) for low, high in ((0.15, 0.2), (0.225, 0.275)))
    # The map is 0 outside the mask here, which moves both means a little.
    assert near == pytest.approx(far, rel=0.05)


def test_every_frequency_approaches_its_amplitude_as_theory_says():
    """Noise-free, with weights of 1 and a weak field, n steps leave (1 - t (D^2 + a))^n of a frequency's way to D^2 / (D^2 + a) undone: no 0.69."""
    geometry = Geometry((15, 16, 13), (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in geometry.shape), indexing="ij")
    chi = torch.where((x - 0.1) ** 2 + (y + 0.2) ** 2 + z**2 < 0.3, 1e-4, 0.0).double()
    operator = Dipole(geometry.shape, geometry.voxel_size_mm, geometry.b0_direction, fft_shape=geometry.shape, dtype=torch.float64)
    mask = torch.ones(geometry.shape, dtype=torch.bool)
    found = ndi(FieldMap(geometry, operator(chi), mask, mask.double()), n_iterations=300, step_size=2.0, regularisation=0.001, padding=None).chi_ppm
    power = operator.kernel.square()
    share = power / (power + 0.001) * (1 - (1 - 2.0 * (power + 0.001)) ** 300)
    expected = torch.fft.irfftn(torch.fft.rfftn(chi) * share, s=geometry.shape)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-10)
    well_seen = power > 0.05
    assert float(share[well_seen].min()) > 0.97


def test_the_map_depends_on_the_phase_alone(tiny):
    one, half = tiny(scale=3.0, b0_tesla=7.0), tiny(scale=6.0, b0_tesla=3.5)
    torch.testing.assert_close(ndi(half, n_iterations=30).chi_ppm, 2 * ndi(one, n_iterations=30).chi_ppm)
    found = [ndi(field, scan=scan_of(field, noise=0.0), n_iterations=30).chi_ppm for field in (one, half)]
    torch.testing.assert_close(found[1], 2 * found[0])


def test_b0_does_not_matter_to_weak_fields(tiny):
    at_7, at_3 = (ndi(tiny(scale=1e-4, b0_tesla=b), n_iterations=30).chi_ppm for b in (7.0, 3.0))
    torch.testing.assert_close(at_3, at_7, rtol=1e-5, atol=1e-12)


def test_zero_field_mean_and_mask(tiny):
    assert float(ndi(tiny(scale=0.0)).chi_ppm.abs().max()) == 0
    field = tiny()
    assert abs(float(ndi(field, padding=None).chi_ppm.mean())) < 1e-15
    mask = field.mask.clone()
    mask[0], mask[:, :, 3] = False, False
    found = ndi(FieldMap(field.geometry, field.field_ppm, mask, field.weight * mask), n_iterations=10)
    assert float(found.chi_ppm[~mask].abs().max()) == 0
    assert float(found.chi_ppm[mask].abs().max()) > 0


def test_steps_are_reported_and_a_tolerance_stops(tiny):
    seen: list[int] = []
    found = ndi(tiny(), tolerance=1e-3, n_iterations=500, on_step=lambda step, _: seen.append(step))
    assert found.outcome.stopped == "tolerance reached"
    assert seen == list(range(1, found.outcome.n_steps + 1))


def test_float32_stays_float32(tiny):
    field = tiny()
    single = FieldMap(field.geometry, field.field_ppm.float(), field.mask, field.weight.float())
    found = ndi(single, scan=scan_of(field)).chi_ppm
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), ndi(field, scan=scan_of(field)).chi_ppm, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step_size", 0.0), ("step_size", 4.5), ("regularisation", -1e-5), ("fidelity", "phase"), ("echo_time_s", 0.0), ("n_iterations", 0),
        ("tolerance", 1.0), ("weighting", "magnitude"), ("padding", 9.0),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name: str, value: object, tiny):
    with pytest.raises(InputError, match=name):
        ndi(tiny(), **{name: value})


def test_total_fields_and_foreign_echoes_are_refused(tiny):
    field = tiny()
    with pytest.raises(InputError, match="Remove the background field first"):
        ndi(replace(field, kind="total"))
    with pytest.raises(InputError, match="do not follow its field map"):
        ndi(field, scan=scan_of(field, offset_rad=2.0))
