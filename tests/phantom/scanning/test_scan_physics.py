"""A scan against analytic oracles: energy in k-space, and the field of a sphere and a cylinder through the whole chain."""

import math

import pytest
import torch
from analytic import cylinder_field, positions, sphere_field

from qsmdl.phantom.scanning.acquire import Acquisition, acquire
from qsmdl.phantom.scanning.waves import polar_parts, waves
from qsmdl.physics.dipole import Dipole
from qsmdl.physics.fieldmap import fit_field
from qsmdl.physics.fourier import crop_kspace, crop_kspace_of_box
from qsmdl.physics.signal import multi_echo_signal, steady_state
from qsmdl.scan import Geometry, Phantom

OBLIQUE = (0.36, 0.48, 0.8)


@pytest.mark.parametrize("shape", [(9, 20, 13), (16, 12, 7), (16, 11, 15)])
def test_cropping_a_box_is_cropping_the_whole(shape: tuple[int, int, int]) -> None:
    box = (slice(3, 12), slice(0, 17), slice(5, 15))
    whole = torch.zeros((16, 20, 15), dtype=torch.complex64)
    whole[box] = torch.randn((9, 17, 10), dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(crop_kspace_of_box(whole[box], box, (16, 20, 15), shape), crop_kspace(whole, shape), atol=1e-6)
    assert torch.allclose(crop_kspace_of_box(whole.real[box], box, (16, 20, 15), shape), crop_kspace(whole.real, shape), atol=1e-6)


def test_cropping_slab_by_slab_is_cropping_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    box = (slice(3, 12), slice(0, 17), slice(5, 15))
    volume = torch.randn((2, 9, 17, 10), dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    at_once = crop_kspace_of_box(volume, box, (16, 20, 15), (9, 13, 8))
    monkeypatch.setattr("qsmdl.physics.box._SLAB_VOXELS", 700)
    assert torch.allclose(crop_kspace_of_box(volume, box, (16, 20, 15), (9, 13, 8)), at_once, atol=1e-6)


@pytest.mark.parametrize("times", [(0.004, 0.012, 0.020, 0.028), (0.003, 0.010, 0.031), (0.02,)])
def test_echoes_that_follow_from_one_another_are_those_computed_at_once(times: tuple[float, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qsmdl.physics.box._SLAB_VOXELS", 50)
    generator = torch.Generator().manual_seed(4)
    field, m0, rate, offset = (torch.rand((5, 6, 7), generator=generator) for _ in range(4))
    protocol = {"repetition_time_s": 0.05, "flip_angle_deg": 15.0}
    magnitude = steady_state(m0, torch.ones_like(m0), **protocol)
    for phase in (offset, 0.3):
        found = torch.stack([wave.clone() for wave in waves(field, magnitude, 60 * rate, phase, times, 7.0)])
        expected = multi_echo_signal(
            field, m0, torch.ones_like(m0), 60 * rate, echo_times_s=times, b0_tesla=7.0, phase_offset_rad=phase, **protocol
        )
        assert torch.allclose(found, expected, rtol=1e-4, atol=2e-6)


def test_magnitude_and_phase_of_what_lies_in_a_box() -> None:
    box = (slice(1, 4), slice(0, 5), slice(2, 6))
    signal = torch.zeros((2, 5, 6, 7), dtype=torch.complex64)
    signal[:, *box] = torch.randn((2, 3, 5, 4), dtype=torch.complex64, generator=torch.Generator().manual_seed(5))
    magnitude, phase = polar_parts(signal, box)
    assert torch.allclose(magnitude, signal.abs())
    assert torch.allclose(phase, signal.angle())


def test_the_crop_keeps_the_energy_of_the_frequencies_that_it_keeps() -> None:
    """Parseval: the mean square of the crop is the energy of its frequencies in the fine spectrum, and no more."""
    fine, shape = (18, 20, 15), (9, 12, 11)
    volume = torch.randn(fine, dtype=torch.complex128, generator=torch.Generator().manual_seed(1)).to(torch.complex64)
    spectrum = torch.fft.fftn(volume.to(torch.complex128)) / math.prod(fine)
    kept = torch.ones(fine, dtype=torch.bool)
    for axis, (n, m) in enumerate(zip(fine, shape, strict=True)):
        k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
        inside = (k >= -(m // 2)) & (k <= (m - 1) // 2)
        kept &= inside.reshape([-1 if a == axis else 1 for a in range(3)])
    whole = (slice(0, 18), slice(0, 20), slice(0, 15))
    energy = float(crop_kspace_of_box(volume, whole, fine, shape).abs().square().mean())
    assert energy == pytest.approx(float(spectrum[kept].abs().square().sum()), rel=1e-5)


def test_energy_of_the_field_in_each_shell_of_k_space() -> None:
    """Parseval between chi and field: without padding each shell's energy is the sum of (1/3 - cos^2)^2 |chi|^2 over it."""
    geometry = Geometry((27, 45, 25), (1.0, 1.3, 1.7), OBLIQUE, 7.0)  # odd and fast: no Nyquist plane, no padding
    chi = torch.randn(geometry.shape, generator=torch.Generator().manual_seed(2))
    field = Dipole.of(geometry, 1.0)(chi)
    axes = [torch.fft.fftfreq(n, v, dtype=torch.float64) for n, v in zip(geometry.shape, geometry.voxel_size_mm, strict=True)]
    k = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    length = k.norm(dim=-1)
    cosine = (k @ torch.tensor(OBLIQUE, dtype=torch.float64)) / length.clamp_min(1e-12)
    expected = (1 / 3 - cosine.square()).square() * torch.fft.fftn(chi.double()).abs().square()
    measured = torch.fft.fftn(field.double()).abs().square()
    for low in (0.02, 0.1, 0.2, 0.3, 0.4):
        shell = (length >= low) & (length < low + 0.08)
        assert int(shell.sum()) > 50
        assert float(measured[shell].sum()) == pytest.approx(float(expected[shell].sum()), rel=1e-4)


FINE = Geometry((72, 66, 78), (0.8, 0.9, 0.75), OBLIQUE, 3.0)
COARSE = (36, 33, 39)


def _whole_chain(depth: torch.Tensor, chi_ppm: float) -> torch.Tensor:
    """Field fitted to the noiseless scan of a body of given depth [x, y, z] in mm in uniform tissue."""
    ones = torch.ones(FINE.shape)
    mask = torch.zeros(FINE.shape, dtype=torch.bool)
    mask[2:-2, 2:-2, 2:-2] = True
    voxel_mm = math.prod(FINE.voxel_size_mm) ** (1 / 3)
    chi = chi_ppm * (depth / voxel_mm + 0.5).clamp(0, 1) * mask
    body = Phantom(FINE, chi, ones, ones, 20 * ones, ones.to(torch.uint8), mask)
    acquisition = Acquisition(peak_snr=math.inf, shape=COARSE, echo_times_s=(0.003, 0.007, 0.011))
    scan, _ = acquire(body, acquisition, torch.Generator(), truth="crop", complete=False)
    return fit_field(scan, sigma=1e-6).field_ppm.double()


def _positions(shape: tuple[int, int, int]) -> torch.Tensor:
    size = tuple(n * v / m for n, v, m in zip(FINE.shape, FINE.voxel_size_mm, shape, strict=True))
    return positions(shape, size, tuple(n / 2 for n in shape))  # type: ignore[arg-type]


def test_the_whole_chain_gives_the_field_of_a_sphere() -> None:
    field = _whole_chain(7.0 - _positions(FINE.shape).norm(dim=-1).float(), 0.1)
    place = _positions(COARSE)
    distance = place.norm(dim=-1)
    expected = 0.1 * sphere_field(place, 7.0, OBLIQUE)
    # The k-space crop rings at the jump of the field on the surface, three voxels away by 5 %.
    outside = (distance > 7 + 4.5) & (distance < 22)
    error = (field - expected)[outside]
    assert float(error.square().mean().sqrt()) < 0.06 * float(expected[outside].square().mean().sqrt())
    assert abs(float(error.mean())) < 2e-5
    inside = distance < 7 - 2.5
    assert float(field[inside].abs().max()) < 0.08 * float(expected.abs().max())


@pytest.mark.parametrize("axis", [0, 2])
def test_the_whole_chain_gives_the_field_of_a_cylinder(axis: int) -> None:
    radial = _positions(FINE.shape).float()
    radial[..., axis] = 0
    field = _whole_chain(4.0 - radial.norm(dim=-1), 0.1)
    place = _positions(COARSE)
    expected = 0.1 * cylinder_field(place, 4.0, axis, OBLIQUE)
    across = place.clone()
    across[..., axis] = 0
    radius, along = across.norm(dim=-1), place[..., axis].abs()
    middle = (along < 6) & (radius < 16)
    outside, inside = middle & (radius > 4 + 2.5), middle & (radius < 4 - 2.0)
    # The mean of the field is 0 by convention, and this body fills a part of the grid.
    error = field - expected - (field - expected)[outside].mean()
    assert float(error[outside].square().mean().sqrt()) < 0.05 * float(expected[outside].abs().max())
    assert float(error[inside].abs().max()) < 0.2 * float(expected[inside].abs().max())
