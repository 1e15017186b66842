import math
from dataclasses import replace

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.physics.fieldmap import estimate_noise, fit_field, fit_line, phase_difference_field
from qsmdl.physics.noise import phase_information, sigma_from_air, sigma_from_residuals
from qsmdl.physics.signal import add_noise, multi_echo_signal
from qsmdl.scan import Geometry, Scan
from qsmdl.units import rad_per_ppm

SHAPE = (30, 33, 28)
TIMES = (0.004, 0.012, 0.020, 0.028)
GEOMETRY = Geometry(SHAPE, (1.0, 1.2, 0.9), (0.0, 0.6, 0.8))
SIGMA = 2.5


def head(scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A brain mask and the field of a few sources in it."""
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.9
    chi = 0.05 * torch.sin(3 * x) * torch.cos(2 * y)
    chi += 0.2 * torch.exp(-((x - 0.2) ** 2 + y**2 + z**2) / 0.06)
    chi -= 0.1 * torch.exp(-((x + 0.4) ** 2 + (y - 0.1) ** 2 + z**2) / 0.05)
    return mask, scale * Dipole.of(GEOMETRY)(chi)


def scan_of(
    field: torch.Tensor, mask: torch.Tensor, *, times: tuple[float, ...] = TIMES, sigma: float = SIGMA, offset: torch.Tensor | float = 0.0
) -> Scan:
    r2star = 20 + 30 * torch.linspace(0, 1, SHAPE[2]).expand(SHAPE)
    m0 = 1500 * mask + 300.0
    signal = multi_echo_signal(
        field,
        m0,
        torch.ones(SHAPE),
        r2star,
        echo_times_s=times,
        repetition_time_s=0.05,
        flip_angle_deg=15.0,
        b0_tesla=7.0,
        phase_offset_rad=offset,
    )
    signal = add_noise(signal, sigma, torch.Generator().manual_seed(11))
    return Scan(GEOMETRY, times, signal.abs(), signal.angle(), mask)


def pull(fitted: torch.Tensor, truth: torch.Tensor, noise: torch.Tensor, mask: torch.Tensor) -> float:
    """Reduced chi-square of the error against the noise that was predicted."""
    return float(((fitted - truth) / noise)[mask].square().mean())


@pytest.mark.parametrize("scale", [1.0, 15.0])
def test_the_fit_errs_by_the_noise_it_predicts(scale: float):
    mask, field = head(scale)
    found = fit_field(scan_of(field, mask))
    assert found.noise_ppm is not None
    assert pull(found.field_ppm, field, found.noise_ppm, mask) == pytest.approx(1, abs=0.05)
    assert float(found.field_ppm[~mask].abs().max()) == 0
    assert float(found.weight[~mask].abs().max()) == 0
    assert float(found.weight[mask].mean()) == pytest.approx(1, rel=1e-5)


def test_strong_sources_wrap_even_the_first_echo():
    mask, field = head(15.0)
    first_echo = (field * rad_per_ppm(7.0, TIMES[0]))[mask]
    assert float(first_echo.abs().max()) > 1.2 * math.pi


def test_an_offset_is_fitted_and_costs_noise():
    mask, field = head(3.0)
    x = torch.linspace(-1, 1, SHAPE[0]).reshape(-1, 1, 1).expand(SHAPE)
    scan = scan_of(field, mask, offset=2.0 + 3.0 * x)
    found, plain = fit_field(scan, offset=True), fit_field(scan_of(field, mask))
    assert found.noise_ppm is not None
    assert plain.noise_ppm is not None
    assert pull(found.field_ppm, field, found.noise_ppm, mask) == pytest.approx(1, abs=0.05)
    assert float(found.noise_ppm[mask].median() / plain.noise_ppm[mask].median()) == pytest.approx(1.7, abs=0.25)
    biased = fit_field(scan)
    assert pull(biased.field_ppm, field, found.noise_ppm, mask) > 50


@pytest.mark.parametrize("times", [TIMES, (0.005, 0.013)])
def test_phase_differences_err_by_the_noise_they_predict(times: tuple[float, ...]):
    mask, field = head(5.0)
    scan = scan_of(field, mask, times=times, offset=1.0)
    found = phase_difference_field(scan, sigma=SIGMA)
    assert found.noise_ppm is not None
    assert pull(found.field_ppm, field, found.noise_ppm, mask) == pytest.approx(1, abs=0.05)


def test_phase_differences_are_weighted_as_published():
    """One voxel by hand: Robinson et al. 2017, w = 1 / v."""
    mask = torch.ones(1, 1, 1, dtype=torch.bool)
    magnitude = torch.tensor([4.0, 3.0, 2.0]).reshape(3, 1, 1, 1)
    phase = torch.tensor([0.3, 0.5, 1.1]).reshape(3, 1, 1, 1)
    scan = Scan(Geometry((1, 1, 1)), (0.004, 0.012, 0.020), magnitude, phase, mask)
    weights = [(4 * m) ** 2 * dt**2 / (16 + m**2) for m, dt in ((3, 0.008), (2, 0.016))]
    expected = (weights[0] * 0.2 / 0.008 + weights[1] * 0.8 / 0.016) / sum(weights) / rad_per_ppm(7.0, 1.0)
    assert float(phase_difference_field(scan, sigma=1.0).field_ppm) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("times", "offset"), [(TIMES, False), (TIMES, True), (TIMES[:2], False), (TIMES[:3], True)])
def test_the_noise_is_found_from_the_residuals(times: tuple[float, ...], offset: bool):
    mask, field = head()
    assert estimate_noise(scan_of(field, mask, times=times), offset=offset) == pytest.approx(SIGMA, rel=0.03)


def test_the_noise_does_not_mind_voxels_that_do_not_fit():
    mask, field = head()
    scan = scan_of(field, mask)
    phase = scan.phase_rad.clone()
    phase[:, 5:10] = math.pi * (2 * torch.rand(phase[:, 5:10].shape, generator=torch.Generator().manual_seed(1)) - 1)
    assert estimate_noise(replace(scan, phase_rad=phase)) == pytest.approx(SIGMA, rel=0.2)


@pytest.mark.parametrize(("times", "offset"), [(TIMES[:1], False), (TIMES[:2], True)])
def test_without_residuals_the_noise_comes_from_air(times: tuple[float, ...], offset: bool):
    mask, field = head()
    scan = scan_of(field, mask, times=times)
    noise = torch.randn((2, *scan.magnitude.shape), generator=torch.Generator().manual_seed(2)).square().sum(0).sqrt()
    with_air = replace(scan, magnitude=torch.where(mask, scan.magnitude, SIGMA * noise))
    assert sigma_from_air(with_air) == pytest.approx(SIGMA, rel=0.03)
    assert estimate_noise(with_air, offset=offset) == pytest.approx(SIGMA, rel=0.03)
    found = fit_field(with_air, offset=offset)
    assert found.noise_ppm is not None
    assert pull(found.field_ppm, field, found.noise_ppm, mask) == pytest.approx(1, abs=0.08)


def test_without_residuals_or_air_sigma_is_asked_for():
    mask, field = head()
    scan = scan_of(field, mask, times=TIMES[:1])
    silent = replace(scan, magnitude=scan.magnitude * mask)
    with pytest.raises(InputError, match="Give sigma"):
        fit_field(silent)
    assert fit_field(silent, sigma=SIGMA).noise_ppm is not None
    with pytest.raises(InputError, match="degrees of freedom"):
        sigma_from_residuals(torch.zeros(1, 5), torch.ones(1, 5), 1)


def test_voxels_without_signal_stay_finite_and_count_little():
    mask, field = head()
    scan = scan_of(field, mask)
    magnitude = scan.magnitude.clone()
    magnitude[:, 15, 15, 14] = 0
    found = fit_field(replace(scan, magnitude=magnitude))
    assert found.noise_ppm is not None
    assert bool(torch.isfinite(found.field_ppm).all())
    assert bool(torch.isfinite(found.noise_ppm).all())
    assert float(found.weight[15, 15, 14]) < 0.01
    assert bool(torch.isfinite(phase_difference_field(replace(scan, magnitude=magnitude)).noise_ppm).all())
    with pytest.raises(InputError, match="0 everywhere"):
        fit_field(replace(scan, magnitude=0 * magnitude))


def test_voxels_of_two_frequencies_get_more_noise():
    mask, field = head()
    scan = scan_of(field, mask)
    phase = scan.phase_rad.clone()
    phase[2, 15, 15, 14] += 1.5
    dephased, plain = fit_field(replace(scan, phase_rad=phase), misfit_noise=True), fit_field(scan)
    assert torch.equal(fit_field(replace(scan, phase_rad=phase)).field_ppm, dephased.field_ppm)
    assert dephased.noise_ppm is not None
    assert plain.noise_ppm is not None
    assert float(dephased.noise_ppm[15, 15, 14] / plain.noise_ppm[15, 15, 14]) > 5
    grown = dephased.noise_ppm[mask] > 1.01 * plain.noise_ppm[mask]
    assert float(grown.float().mean()) == pytest.approx(0.001, abs=0.0008)
    assert bool((dephased.noise_ppm[mask] >= 0.999 * plain.noise_ppm[mask]).all())


def test_a_scan_without_noise_keeps_finite_weights():
    mask, field = head()
    found = fit_field(scan_of(field, mask, sigma=0.0))
    torch.testing.assert_close(found.field_ppm[mask], field[mask], atol=1e-6, rtol=0)
    assert bool(torch.isfinite(found.weight).all())


def test_the_line_is_differentiable_and_exact():
    slope, start = torch.tensor([120.0, -40.0]), torch.tensor([0.4, -1.0])
    times = torch.tensor(TIMES).reshape(-1, 1)
    phase = (start + slope * times).requires_grad_()
    weight = (torch.rand(4, 2, generator=torch.Generator().manual_seed(4)) + 0.1).requires_grad_()
    fit = fit_line(phase, weight, TIMES, offset=True)
    torch.testing.assert_close(fit.slope_rad_per_s, slope, rtol=1e-4, atol=0)
    torch.testing.assert_close(fit.offset_rad, start, rtol=1e-3, atol=0)
    fit.slope_rad_per_s.sum().backward()
    assert phase.grad is not None
    assert weight.grad is not None
    torch.testing.assert_close((phase.grad * times).sum(0), torch.ones(2), rtol=1e-4, atol=0)


def test_magnitudes_lose_their_rician_bias():
    information = phase_information(torch.tensor([[100.0, 2.0, 1.0]]), 1.0)
    torch.testing.assert_close(information, torch.tensor([[9998.0, 2.0, 0.01]]))


def test_what_cannot_be_fitted_is_refused():
    mask, field = head()
    scan = scan_of(field, mask, times=TIMES[:1])
    with pytest.raises(InputError, match="at least two"):
        phase_difference_field(scan)
    with pytest.raises(InputError, match="at least two"):
        fit_field(scan, offset=True)
    for sigma in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="positive and finite"):
            fit_field(scan, sigma=sigma)


def test_the_kind_and_the_name_are_handed_on():
    mask, field = head()
    scan = replace(scan_of(field, mask), name="Sim1")
    assert (fit_field(scan, kind="total").kind, fit_field(scan).name) == ("total", "Sim1")
