from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import lsqr

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole, dipole_kernel
from qsmdl.scan import FieldMap, Geometry
from qsmdl.solvers.ilsqr import fast_qsm, ilsqr, least_squares
from qsmdl.solvers.problem import Problem


def larger(seed: int = 0, scale: float = 1.0, b0_tesla: float = 7.0) -> FieldMap:
    """A random field on a grid that holds more than one sphere of 3 mm, its mask short of the border."""
    geometry = Geometry((8, 7, 9), (1.0, 1.5, 0.8), (0.0, 0.6, 0.8), b0_tesla)
    field = scale * 0.1 * torch.randn(geometry.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask = torch.ones(geometry.shape, dtype=torch.bool)
    mask[0], mask[:, -1], mask[3, 3, 3] = False, False, False
    return FieldMap(geometry, field, mask, mask.double())


def rank(values: np.ndarray, percent: float) -> float:
    return np.sort(values)[max(int(np.ceil(percent / 100 * len(values))), 1) - 1]


def ramp(values: np.ndarray, within: np.ndarray, low: float, high: float) -> np.ndarray:
    a, b = rank(values[within], low), rank(values[within], high)
    return within * np.interp(values, [a, b], [1.0, 0.0])


def kernel_of(field: FieldMap, half: bool = False) -> np.ndarray:
    geometry = field.geometry
    return dipole_kernel(geometry.shape, geometry.voxel_size_mm, geometry.b0_direction, half=half, dtype=torch.float64).numpy()


def inner(field: FieldMap) -> np.ndarray:
    """Where both voxels of a difference lie in the mask, [3 * voxel]."""
    mask = field.mask.numpy()
    return np.concatenate([(mask & np.roll(mask, -1, axis)).ravel() for axis in range(3)])


def expected_first(field: FieldMap, dipole: np.ndarray, gradient: np.ndarray, n_steps: int) -> np.ndarray:
    mask = field.mask.numpy().ravel()
    data = field.field_ppm.numpy().ravel() * mask
    laplacian = -gradient.T @ (inner(field) * (gradient @ data))
    weight = ramp(laplacian, mask, 60, 99.9)
    system = dipole @ np.diag(weight) @ dipole
    return lsqr(system, dipole @ (weight * data), iter_lim=n_steps, atol=0, btol=0, conlim=0)[0]


def expected_fast(field: FieldMap) -> np.ndarray:
    mask, kernel, shape = field.mask.numpy(), kernel_of(field), field.geometry.shape
    strength = np.abs(kernel) ** 0.001
    half = (np.abs(kernel_of(field, half=True)) ** 0.001).ravel()
    share = np.clip((strength - rank(half, 1)) / (rank(half, 30) - rank(half, 1)), 0, 1)
    offsets = np.meshgrid(*(np.fft.fftfreq(n, 1 / n) * h for n, h in zip(shape, field.geometry.voxel_size_mm, strict=True)), indexing="ij")
    sphere = (sum(o**2 for o in offsets) <= 9).astype(float)
    assert 1 < sphere.sum() < sphere.size / 2
    passed = share + (1 - share) * np.fft.fftn(sphere / sphere.sum()).real
    passed[0, 0, 0] = 0
    x = np.fft.ifftn(np.sign(np.round(kernel, 9)) * passed * np.fft.fftn(field.field_ppm.numpy() * mask)).real * mask
    return np.fft.ifftn(passed * np.fft.fftn(x)).real * mask


def test_the_first_map_takes_the_steps_of_lsqr(dense):
    field = larger()
    dipole, gradient = dense(field)
    found = least_squares(Problem.of(field, padding=None, weighting="uniform"), 6, 0.0)
    np.testing.assert_allclose(found.x.numpy().ravel(), expected_first(field, dipole, gradient, 6), atol=1e-9)
    assert list(found.curve) == sorted(found.curve, reverse=True)


def test_the_fast_map_is_that_of_full_transforms():
    field = larger()
    found = fast_qsm(Problem.of(field, padding=None, weighting="uniform"))
    np.testing.assert_allclose(found.numpy(), expected_fast(field), atol=1e-12)


def test_the_map_lacks_the_streaks_of_its_smooth_regions(dense):
    """The whole chain against dense matrices; the second problem's few steps by LSQR as well."""
    field, n_steps = larger(), 6
    dipole, gradient = dense(field)
    mask = field.mask.numpy().ravel()
    first = expected_first(field, dipole, gradient, n_steps) * mask
    steps = np.abs(gradient @ expected_fast(field).ravel()).reshape(3, -1)
    weight = np.concatenate([ramp(step, pairs, 50, 70) for step, pairs in zip(steps, inner(field).reshape(3, -1), strict=True)])
    cone = np.abs(kernel_of(field)) < 0.2
    units = np.eye(cone.size).reshape(-1, *cone.shape)
    projection = np.stack([np.fft.ifftn(cone * np.fft.fftn(u)).real.ravel() for u in units], axis=1)
    streaks = lsqr(weight[:, None] * (gradient @ projection), weight * (gradient @ first), iter_lim=n_steps, atol=0, btol=0, conlim=0)[0]
    expected = mask * (first - projection @ streaks)
    assert np.linalg.norm(projection @ streaks) > 0.05 * np.linalg.norm(first)
    found = ilsqr(field, cone=0.2, n_iterations=n_steps, tolerance=0.0, padding=None)
    np.testing.assert_allclose(found.chi_ppm.numpy().ravel(), expected, atol=1e-8)
    assert found.outcome.n_steps == 2 * n_steps


def test_streaks_shrink_with_every_step(dense):
    field = larger(1)
    found = ilsqr(field, n_iterations=20, tolerance=0.0, padding=None)
    second = found.outcome.curve[len(found.outcome.curve) // 2 :]
    assert second[0] == 1.0
    assert list(second) == sorted(second, reverse=True)
    assert second[-1] < 0.95


def test_a_noise_free_map_keeps_most_of_its_amplitude_and_more_with_more_steps(nrmse):
    geometry = Geometry((21, 24, 19), (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.9
    chi = torch.where((x - 0.1) ** 2 + (y + 0.2) ** 2 + z**2 < 0.2, 0.1, 0.0)
    field = FieldMap(geometry, Dipole.of(geometry, 2.0)(chi) * mask, mask, mask.float())
    short, long = (nrmse(ilsqr(field, n_iterations=200, tolerance=t, padding=1.5), chi) for t in (1e-2, 1e-4))
    assert short[1] == pytest.approx(0.83, abs=0.05)
    assert 0.9 < long[1] < 1.05
    assert long[0] < short[0] < 30


def test_ilsqr_on_the_check_phantom(check_phantom, quiet_phantom, nrmse):
    """No published figure. No voxel has less weight for its noise, so the calcification costs more than in other methods."""
    for (field, chi), expected in ((check_phantom, 50.2), (quiet_phantom, 48.9)):
        error, slope = nrmse(ilsqr(field, padding=None), chi)
        assert error == pytest.approx(expected, abs=0.5)
        assert slope == pytest.approx(0.69, abs=0.02)


def test_the_map_scales_with_the_field_and_not_with_b0():
    settings = {"n_iterations": 8, "tolerance": 0.0}  # of a random field, many steps amplify rounding
    one, ten = (ilsqr(larger(scale=s), **settings).chi_ppm for s in (1.0, 10.0))
    torch.testing.assert_close(ten, 10 * one)
    torch.testing.assert_close(ilsqr(larger(b0_tesla=3.0), **settings).chi_ppm, one)


def test_the_mean_is_0_and_nothing_remains_outside_the_mask(tiny):
    assert abs(float(ilsqr(tiny(), padding=None).chi_ppm.mean())) < 1e-15
    field = larger()
    found = ilsqr(field)
    assert float(found.chi_ppm[~field.mask].abs().max()) == 0
    assert float(found.chi_ppm[field.mask].abs().max()) > 0


def test_a_zero_field_gives_a_zero_map(tiny):
    assert float(ilsqr(tiny(scale=0.0)).chi_ppm.abs().max()) == 0


def test_a_mask_of_one_slice_is_no_error(tiny):
    field = tiny()
    mask = torch.zeros_like(field.mask)
    mask[:, :, 1] = True
    assert bool(torch.isfinite(ilsqr(FieldMap(field.geometry, field.field_ppm, mask, mask.double())).chi_ppm).all())


def test_steps_of_both_problems_are_reported():
    seen: list[int] = []
    found = ilsqr(larger(), n_iterations=4, tolerance=0.0, on_step=lambda step, _: seen.append(step))
    assert seen == list(range(1, 9))
    assert found.outcome.n_steps == 8


@pytest.mark.parametrize(
    ("name", "value"), [("cone", 0.0), ("cone", 0.7), ("cone", float("nan")), ("n_iterations", 0), ("tolerance", 1.0), ("padding", 9.0)]
)
def test_settings_out_of_range_are_refused(name: str, value: float, tiny):
    with pytest.raises(InputError, match=name):
        ilsqr(tiny(), **{name: value})


def test_a_total_field_is_refused(tiny):
    with pytest.raises(InputError, match="total-field method"):
        ilsqr(replace(tiny(), kind="total"))
