from dataclasses import replace

import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole, dipole_kernel
from qsmdl.physics.fourier import irfft3, rfft3
from qsmdl.scan import FieldMap, Geometry
from qsmdl.solvers.direct import half_spectrum_mean, l2, sdi, tkd, tsvd

GEOMETRIES = [Geometry((9, 12, 7), (1.0, 1.3, 0.9), (0.0, 0.6, 0.8)), Geometry((8, 7, 10), (1.1, 0.8, 1.0), (0.48, 0.6, 0.64))]


def random_map(geometry: Geometry) -> torch.Tensor:
    return torch.randn(geometry.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def field_of(field: torch.Tensor, geometry: Geometry) -> FieldMap:
    mask = torch.ones(geometry.shape, dtype=torch.bool)
    return FieldMap(geometry, field, mask, torch.ones_like(field))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_tkd_is_exact_where_the_kernel_exceeds_the_threshold(geometry: Geometry):
    kernel = dipole_kernel(geometry.shape, geometry.voxel_size_mm, geometry.b0_direction, dtype=torch.float64)
    chi = irfft3(rfft3(random_map(geometry)) * (kernel.abs() > 0.15), geometry.shape)
    field = irfft3(rfft3(chi) * kernel, geometry.shape)
    torch.testing.assert_close(tkd(field_of(field, geometry), threshold=0.15, padding=None).chi_ppm, chi)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_tkd_clamps_the_rest_with_its_sign(geometry: Geometry):
    kernel = dipole_kernel(geometry.shape, geometry.voxel_size_mm, geometry.b0_direction, half=False, dtype=torch.float64).numpy()
    field = random_map(geometry)
    inverse = np.where(np.abs(kernel) > 0.15, 1 / np.where(kernel == 0, 1, kernel), np.sign(np.round(kernel, 9)) / 0.15)
    expected = np.fft.ifftn(inverse * np.fft.fftn(field.numpy())).real
    found = tkd(field_of(field, geometry), threshold=0.15, padding=None).chi_ppm
    torch.testing.assert_close(found, torch.from_numpy(expected))
    corrected = tkd(field_of(field, geometry), threshold=0.15, padding=None, slope_correction=True).chi_ppm
    torch.testing.assert_close(corrected, torch.from_numpy(expected / (kernel * inverse).mean()))


def test_noise_on_the_magic_angle_is_not_amplified():
    """At k = (1, 1, 1) / n the kernel is 0 up to rounding, in float32 as in float64."""
    geometry = Geometry((12, 12, 12))
    index = torch.arange(12.0)
    wave = torch.cos(2 * torch.pi * (index[:, None, None] + index[:, None] + index) / 12)
    assert float(tkd(field_of(wave, geometry), threshold=0.1, padding=None).chi_ppm.abs().max()) < 1e-4


@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 3, 6), (2, 5, 1)])
def test_the_mean_over_the_spectrum_counts_every_column(shape: tuple[int, int, int]):
    volume = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    even = torch.fft.fftn(volume).abs()
    assert half_spectrum_mean(even[..., : shape[2] // 2 + 1], shape) == pytest.approx(float(even.mean()))


def test_l2_solves_its_normal_equations(tiny, dense):
    field = tiny()
    dipole, gradient = dense(field)
    normal = dipole.T @ dipole + 0.02 * gradient.T @ gradient
    expected = np.linalg.lstsq(normal, dipole.T @ field.field_ppm.numpy().ravel(), rcond=1e-10)[0]
    np.testing.assert_allclose(l2(field, regularisation=0.02, padding=None).chi_ppm.numpy().ravel(), expected, atol=1e-12)


@pytest.mark.parametrize("solver", [tkd, l2])
def test_the_mean_of_the_map_is_0_and_a_zero_field_gives_a_zero_map(solver, tiny):
    field = tiny()
    assert abs(float(solver(field, padding=None).chi_ppm.mean())) < 1e-15
    empty = tiny(scale=0.0)
    found = solver(empty)
    assert float(found.chi_ppm.abs().max()) == 0
    assert (found.outcome.n_steps, found.outcome.stopped) == (0, "closed form")


@pytest.mark.parametrize("solver", [tkd, l2])
def test_the_padded_grid_follows_the_mask(solver):
    """The map of a mask in a corner of a large grid is that of the mask's box alone, and 0 around it."""
    small, box = GEOMETRIES[0], (slice(4, 13), slice(0, 12), slice(9, 16))
    field, inside = random_map(small), random_map(small) > -0.5
    large = Geometry((20, 14, 17), small.voxel_size_mm, small.b0_direction)
    whole, mask = torch.full(large.shape, 7.0, dtype=torch.float64), torch.zeros(large.shape, dtype=torch.bool)
    inside[0], inside[-1], inside[:, 0], inside[:, -1], inside[..., 0], inside[..., -1] = (True,) * 6
    whole[box], mask[box] = field, inside
    found = solver(FieldMap(large, whole, mask, mask.double()), padding=1.3)
    expected = solver(FieldMap(small, field, inside, inside.double()), padding=1.3)
    torch.testing.assert_close(found.chi_ppm[box], expected.chi_ppm)
    assert float(found.chi_ppm[~mask].abs().max()) == 0


@pytest.mark.parametrize(
    ("threshold", "corrected", "expected", "slope"),
    [(0.1, False, 44.69, 0.87), (0.2, False, 43.29, 0.79), (0.1, True, 48.68, 0.99), (0.2, True, 49.65, 1.03)],
)
def test_tkd_on_the_check_phantom(threshold: float, corrected: bool, expected: float, slope: float, check_phantom, nrmse):
    field, chi = check_phantom
    found = nrmse(tkd(field, threshold=threshold, slope_correction=corrected, padding=None), chi)
    assert found[0] == pytest.approx(expected, abs=0.1)
    assert found[1] == pytest.approx(slope, abs=0.01)


@pytest.mark.parametrize(("regularisation", "expected", "slope"), [(1e-3, 36.59, 0.86), (5e-3, 38.01, 0.77)])
def test_l2_on_the_check_phantom(regularisation: float, expected: float, slope: float, check_phantom, nrmse):
    field, chi = check_phantom
    found = nrmse(l2(field, regularisation=regularisation, padding=None), chi)
    assert found[0] == pytest.approx(expected, abs=0.1)
    assert found[1] == pytest.approx(slope, abs=0.01)


def test_padding_helps_where_the_field_was_made_without_copies(nrmse):
    geometry = Geometry((24, 21, 22), (1.0, 1.0, 1.2))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 1
    chi = mask * torch.exp(-((x - 0.4) ** 2 + y**2 + z**2) / 0.1)
    field = FieldMap(geometry, Dipole.of(geometry, 3.0)(chi) * mask, mask, mask.float())
    assert nrmse(l2(field, padding=1.5), chi)[0] < nrmse(l2(field, padding=1.0), chi)[0]


@pytest.mark.parametrize("threshold", [0.0, -0.1, 0.7, float("nan")])
def test_thresholds_out_of_range_are_refused(threshold: float, tiny):
    with pytest.raises(InputError, match="threshold"):
        tkd(tiny(), threshold=threshold)


@pytest.mark.parametrize("regularisation", [0.0, -1.0, float("inf")])
def test_regularisations_out_of_range_are_refused(regularisation: float, tiny):
    with pytest.raises(InputError, match="regularisation"):
        l2(tiny(), regularisation=regularisation)


@pytest.mark.parametrize("solver", [tkd, l2])
def test_total_fields_and_odd_paddings_are_refused(solver, tiny):
    field = tiny()
    total = FieldMap(field.geometry, field.field_ppm, field.mask, field.weight, kind="total")
    with pytest.raises(InputError, match="Remove the background field first"):
        solver(total)
    with pytest.raises(InputError, match="padding factor"):
        solver(field, padding=0.5)


@pytest.mark.parametrize(("threshold", "expected", "slope"), [(0.1, 44.66, 0.80)])
def test_tsvd_on_the_check_phantom(threshold: float, expected: float, slope: float, check_phantom, nrmse):
    field, chi = check_phantom
    found = nrmse(tsvd(field, threshold=threshold, padding=None), chi)
    assert found == (pytest.approx(expected, abs=0.1), pytest.approx(slope, abs=0.01))


@pytest.mark.parametrize(("threshold", "expected"), [(0.1, 48.68), (0.2, 49.65)])
def test_sdi_on_the_check_phantom(threshold: float, expected: float, check_phantom, nrmse):
    field, chi = check_phantom
    assert nrmse(sdi(field, threshold=threshold, padding=None), chi)[0] == pytest.approx(expected, abs=0.1)


def test_tsvd_drops_what_tkd_clamps(geometry: Geometry):
    """What is left of a map is the part of its spectrum where |D| exceeds the threshold."""
    chi = torch.randn(geometry.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    kernel = dipole_kernel(geometry.shape, geometry.voxel_size_mm, geometry.b0_direction, half=False, dtype=torch.float64)
    operator = Dipole(geometry.shape, geometry.voxel_size_mm, geometry.b0_direction, fft_shape=geometry.shape, dtype=torch.float64)
    expected = torch.fft.ifftn(torch.fft.fftn(chi) * (kernel.abs() > 0.15)).real
    found = tsvd(field_of(operator(chi), geometry), threshold=0.15, padding=None).chi_ppm
    torch.testing.assert_close(found, expected)
    share = float((kernel.abs() > 0.15).double().mean())
    corrected = tsvd(field_of(operator(chi), geometry), threshold=0.15, slope_correction=True, padding=None).chi_ppm
    torch.testing.assert_close(corrected, expected / share)


@pytest.mark.parametrize("solver", [tsvd, sdi])
@pytest.mark.parametrize("threshold", [0.0, -0.1, 2 / 3, 1.0, float("nan")])
def test_relatives_of_tkd_refuse_thresholds_out_of_range(solver, threshold: float, tiny):
    with pytest.raises(InputError, match="threshold"):
        solver(tiny(), threshold=threshold)


@pytest.mark.parametrize("solver", [tsvd, sdi])
def test_relatives_of_tkd_refuse_a_total_field(solver, tiny):
    with pytest.raises(InputError, match="total-field method"):
        solver(replace(tiny(), kind="total"))
