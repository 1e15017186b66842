from dataclasses import replace

import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import FieldMap, Geometry
from qsmdl.solvers.swim import swim


def by_full_transforms(field, threshold, vessel_ppm, n_passes):
    """The passes of the docstring with full complex transforms."""
    shape, size, b0 = field.geometry.shape, field.geometry.voxel_size_mm, field.geometry.b0_direction
    k = np.meshgrid(*(np.fft.fftfreq(n, h) for n, h in zip(shape, size, strict=True)), indexing="ij")
    mirrored = [np.roll(np.flip(c), 1, (0, 1, 2)) for c in k]
    with np.errstate(invalid="ignore"):
        kernels = [1 / 3 - sum(b * c for b, c in zip(b0, axes, strict=True)) ** 2 / sum(c**2 for c in axes) for axes in (k, mirrored)]
    kernel = np.nan_to_num(sum(kernels) / 2)
    kernel[0, 0, 0] = 0.0
    size_of = np.abs(kernel)
    inverse = np.where(size_of >= threshold, 1 / np.where(kernel == 0, 1, kernel), np.sign(kernel) * size_of**2 / threshold**3)
    start = inverse * np.fft.fftn(field.field_ppm.numpy() * field.mask.numpy())
    x = np.fft.ifftn(start).real * field.mask.numpy()
    for _ in range(n_passes):
        filled = np.where(size_of >= threshold, start, np.fft.fftn(np.where(np.abs(x) > vessel_ppm, x, 0.0)))
        filled[0, 0, 0] = 0.0
        x = np.fft.ifftn(filled).real * field.mask.numpy()
    return x


def test_the_passes_are_those_of_the_description(tiny):
    field = tiny()
    mask = field.mask.clone()
    mask[:, 0] = False
    field = FieldMap(field.geometry, field.field_ppm * mask, mask, field.weight * mask)
    found = swim(field, threshold=0.2, vessel_ppm=0.05, n_iterations=3, tolerance_ppm=0.0, padding=None)
    np.testing.assert_allclose(found.chi_ppm.numpy(), by_full_transforms(field, 0.2, 0.05, 3), atol=1e-12)
    assert found.outcome.n_steps == 3


def test_a_vein_comes_out_with_more_of_its_value_than_before():
    """One vein in a void: what the threshold finds is the truth, so the passes fill the cone with it."""
    geometry = Geometry((24, 27, 20))
    chi = torch.zeros(geometry.shape, dtype=torch.float64)
    chi[11:13, 13:15, 3:17] = 0.4
    dipole = Dipole(geometry.shape, (1, 1, 1), (0, 0, 1), fft_shape=geometry.shape, dtype=torch.float64)
    everywhere = torch.ones(geometry.shape, dtype=torch.bool)
    field = FieldMap(geometry, dipole(chi), everywhere, everywhere.double())
    few, many = (swim(field, n_iterations=n, tolerance_ppm=0.0, padding=None).chi_ppm for n in (1, 10))
    errors = [float((m - m.mean() - chi + chi.mean()).norm() / (chi - chi.mean()).norm()) for m in (few, many)]
    assert errors[1] < errors[0] < 0.35
    assert errors[1] < 0.15


def test_it_stops_when_nothing_changes(tiny):
    found = swim(tiny(scale=1e-3), n_iterations=9)
    assert (found.outcome.n_steps, found.outcome.stopped) == (1, "tolerance reached")
    assert float(swim(tiny(scale=0.0)).chi_ppm.abs().max()) == 0


def test_it_scales_with_field_and_vessel_threshold_at_any_field_strength(tiny):
    one = swim(tiny(), vessel_ppm=0.05).chi_ppm
    torch.testing.assert_close(swim(tiny(scale=10.0), vessel_ppm=0.5, tolerance_ppm=0.04).chi_ppm, 10 * one)
    torch.testing.assert_close(swim(tiny(b0_tesla=3.0), vessel_ppm=0.05).chi_ppm, one)


@pytest.mark.parametrize(
    ("name", "value"), [("threshold", 0.0), ("threshold", 0.7), ("vessel_ppm", -0.1), ("tolerance_ppm", float("nan")), ("n_iterations", 0)]
)
def test_settings_out_of_range_are_refused(name: str, value: float, tiny):
    with pytest.raises(InputError, match=name):
        swim(tiny(), **{name: value})


def test_a_total_field_is_refused(tiny):
    with pytest.raises(InputError, match="total-field method"):
        swim(replace(tiny(), kind="total"))
