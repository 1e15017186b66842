import math

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.scan import Geometry, Scan
from qsmdl.solvers.phase import integrate_differences, phase_differences
from qsmdl.units import rad_per_ppm

TIMES = (0.004, 0.012, 0.020)


def wrapped_scan(noise: float = 0.0, magnitude: tuple[float, ...] = (1.0, 0.8, 0.6)) -> tuple[Scan, torch.Tensor]:
    """Echoes of a smooth field that wraps many times in the last one, in an ellipsoid."""
    geometry = Geometry((12, 10, 11), (1.0, 1.3, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in geometry.shape), indexing="ij")
    field, mask = 0.5 * x**2 + 0.3 * y - 0.2 * z * x, x**2 + y**2 + z**2 < 1
    generator = torch.Generator().manual_seed(0)
    echoes = []
    for time, size in zip(TIMES, magnitude, strict=True):
        signal = size * torch.polar(torch.ones_like(field), field * rad_per_ppm(geometry.b0_tesla, time))
        signal = signal + noise * torch.randn(signal.shape, generator=generator, dtype=torch.complex128)
        echoes.append(signal)
    signal = torch.stack(echoes)
    return Scan(geometry, TIMES, signal.abs(), signal.angle(), mask), field


@pytest.mark.parametrize("echo_time_s", [None, 0.004, 0.007])
def test_the_field_comes_back_from_wrapped_phases(echo_time_s):
    scan, field = wrapped_scan()
    assert float((scan.phase_rad[2] - field * rad_per_ppm(7.0, TIMES[2]))[scan.mask].abs().max()) > 2 * math.pi
    found = integrate_differences(phase_differences(scan, echo_time_s), scan.mask, scan.geometry.voxel_size_mm, tolerance=1e-12)
    expected = torch.where(scan.mask, field - field[scan.mask].mean(), 0.0)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_later_echoes_lower_the_noise():
    errors = []
    for echo_time_s in (0.004, None):
        scan, field = wrapped_scan(noise=0.02)
        difference = phase_differences(scan, echo_time_s)[0, :-1] - field.diff(dim=0)
        pair = scan.mask[:-1] & scan.mask[1:]
        errors.append(float(difference[pair].square().mean().sqrt()))
        assert float(phase_differences(scan, echo_time_s)[0, :-1][~pair].abs().max()) == 0
    assert errors[1] < 0.4 * errors[0]


def test_a_phase_without_signal_in_one_echo_does_no_harm():
    scan, field = wrapped_scan(magnitude=(1.0, 0.8, 0.0))
    found = integrate_differences(phase_differences(scan), scan.mask, scan.geometry.voxel_size_mm, tolerance=1e-12)
    torch.testing.assert_close(found, torch.where(scan.mask, field - field[scan.mask].mean(), 0.0), atol=1e-5, rtol=0)


def test_the_integral_is_the_least_squares_one():
    """Against the pseudo-inverse, for differences that belong to no map."""
    shape, size = (4, 3, 5), (1.0, 1.5, 0.7)
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(shape, generator=generator) > 0.2
    differences = torch.randn((3, *shape), generator=generator, dtype=torch.float64)
    index = torch.arange(mask.numel()).reshape(shape)
    rows, data = [], []
    for axis in range(3):
        n = shape[axis] - 1
        here, there = index.narrow(axis, 0, n), index.narrow(axis, 1, n)
        for a, b, d in zip(here.flatten(), there.flatten(), differences[axis].narrow(axis, 0, n).flatten(), strict=True):
            if mask.flatten()[a] and mask.flatten()[b]:
                row = torch.zeros(mask.numel(), dtype=torch.float64)
                row[b], row[a] = 1 / size[axis], -1 / size[axis]
                rows.append(row)
                data.append(d / size[axis])
    expected = torch.linalg.pinv(torch.stack(rows)) @ torch.stack(data)
    found = integrate_differences(differences, mask, size, n_iterations=300, tolerance=1e-13)
    gradient = torch.stack(rows)
    torch.testing.assert_close(gradient @ found.flatten(), gradient @ expected, atol=1e-8, rtol=0)
    assert abs(float(found[mask].mean())) < 1e-12
    assert float(found[~mask].abs().max()) == 0


@pytest.mark.parametrize("echo_time_s", [0.0, -0.004, 4.0])
def test_echo_times_out_of_range_are_refused(echo_time_s: float):
    with pytest.raises(InputError, match="echo_time_s"):
        phase_differences(wrapped_scan()[0], echo_time_s)
