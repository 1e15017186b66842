from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from qsmdl.errors import InputError
from qsmdl.physics.derivatives import Gradient
from qsmdl.physics.dipole import Dipole, dipole_kernel
from qsmdl.scan import FieldMap, Geometry, Scan
from qsmdl.solvers.heidi import diffuse, heidi
from qsmdl.solvers.weights import inner_pairs

LONG = {"n_iterations": 4000, "tolerance": 0.0, "padding": None, "penalty": 20.0}


def spectra(field: FieldMap, well: float) -> tuple[np.ndarray, np.ndarray]:
    """The field divided by D where |D| >= well, and an orthonormal basis of the maps without these frequencies and without a mean."""
    geometry = field.geometry
    kernel = dipole_kernel(geometry.shape, geometry.voxel_size_mm, geometry.b0_direction, half=False, dtype=torch.float64).numpy()
    known = np.abs(kernel) >= well
    divided = np.fft.ifftn(np.where(known, 1 / np.where(known, kernel, 1), 0) * np.fft.fftn(field.field_ppm.numpy())).real
    free = ~known
    free[0, 0, 0] = False
    units = np.eye(kernel.size).reshape(-1, *kernel.shape)
    values, vectors = np.linalg.eigh(np.stack([np.fft.ifftn(free * np.fft.fftn(u)).real.ravel() for u in units], axis=1))
    return divided.ravel(), vectors[:, values > 0.5]


def least_variation(known: np.ndarray, free: np.ndarray, gradient: np.ndarray, weight: np.ndarray) -> float:
    """The least sum weight |G (known + free y)| over y, a linear program."""
    n_free, n_steps = free.shape[1], len(gradient)
    across = gradient @ free
    above = np.concatenate([np.hstack([s * across, -np.eye(n_steps)]) for s in (1, -1)])
    limit = np.concatenate([-s * (gradient @ known) for s in (1, -1)])
    bounds = [(None, None)] * n_free + [(0, None)] * n_steps
    return linprog(np.concatenate([np.zeros(n_free), weight]), A_ub=above, b_ub=limit, bounds=bounds, method="highs").fun


def test_the_map_has_the_least_variation_of_all_with_its_frequencies(tiny, dense):
    """Where every voxel is an edge, the weight is the same everywhere, and without a transitional band the completed map is the map."""
    field = tiny()
    gradient = dense(field)[1]
    known, free = spectra(field, 0.2)
    found = heidi(field, ill=0.2, well=0.2, field_step=1e-12, edge_weight=1.0, **LONG).chi_ppm.numpy().ravel()
    change = found - known
    np.testing.assert_allclose(change, free @ (free.T @ change), atol=1e-12)
    least = least_variation(known, free, gradient, np.ones(len(gradient)))
    variation = np.abs(gradient @ found).sum()
    assert variation == pytest.approx(least, rel=1e-3)
    assert least < 0.97 * np.abs(gradient @ known).sum()


def test_edges_of_the_field_are_spared(tiny, dense):
    """Without smoothing in the way: a field of a block, whose weights follow from its own steps."""
    field = tiny()
    chi = torch.zeros_like(field.field_ppm)
    chi[1:4, 1:, 1:3] = 0.3
    field = replace(field, field_ppm=chi - chi.mean(), weight=torch.ones_like(chi))
    gradient = dense(field)[1]
    known, free = spectra(field, 0.3)
    steps = diffuse(field.field_ppm, inner_pairs(field.mask), Gradient(field.geometry.voxel_size_mm), 5).numpy().ravel()
    smooth = (np.abs(gradient @ steps) < 0.05) & np.tile(np.abs(gradient.T @ (gradient @ steps)) < 0.2, 3)
    assert 10 < smooth.sum() < len(smooth) - 10
    weight = np.where(smooth, 1.0, 0.1)
    settings = LONG | {"ill": 0.3, "well": 0.3, "field_step": 0.05, "field_curvature": 0.2}
    found = heidi(field, **settings).chi_ppm.numpy().ravel()
    least = least_variation(known, free, gradient, weight)
    assert (weight * np.abs(gradient @ found)).sum() == pytest.approx(least, rel=1e-3)


def test_the_variation_falls(tiny, dense):
    field = tiny(1)
    gradient = dense(field)[1]
    settings = LONG | {"ill": 0.2, "well": 0.2, "field_step": 1e-12, "edge_weight": 1.0}
    found = [np.abs(gradient @ heidi(field, **(settings | {"n_iterations": n})).chi_ppm.numpy().ravel()).sum() for n in (1, 10, 100, 1000)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.95 * found[0]


def test_the_transitional_band_alone_is_smoothed(tiny):
    field = tiny()
    kernel = dipole_kernel(field.geometry.shape, field.geometry.voxel_size_mm, field.geometry.b0_direction, dtype=torch.float64).abs()
    sharp, smoothed = (torch.fft.rfftn(heidi(field, ill=0.1, n_diffusion=n, padding=None).chi_ppm) for n in (0, 8))
    band = (kernel >= 0.1) & (kernel < 0.23)
    assert 5 < int(band.sum()) < band.numel() - 5
    torch.testing.assert_close(smoothed[~band], sharp[~band])
    assert float((smoothed - sharp)[band].abs().max()) > 1e-3
    assert float(smoothed[band].abs().square().sum()) < float(sharp[band].abs().square().sum())


def test_the_magnitude_marks_edges_and_comes_from_the_scan(tiny):
    field = tiny(uniform=True)
    magnitude = torch.ones((2, *field.geometry.shape), dtype=torch.float64)
    scan = Scan(field.geometry, (0.004, 0.012), magnitude, torch.zeros_like(magnitude), field.mask)
    settings = {"field_step": 1e3, "field_curvature": 1e3, "padding": None}
    alone, flat = heidi(field, **settings).chi_ppm, heidi(field, scan=scan, **settings).chi_ppm
    torch.testing.assert_close(flat, alone)
    magnitude = magnitude.clone()
    magnitude[:, 2:] = 5.0
    step = heidi(field, scan=replace(scan, magnitude=magnitude), **settings).chi_ppm
    assert float((step - flat).norm()) > 0.01 * float(flat.norm())


def test_diffusion_levels_noise_and_leaves_steps_and_the_mean():
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros((12, 14, 10), dtype=torch.bool)
    mask[1:11, 2:12, 1:9] = True
    step = torch.zeros(mask.shape, dtype=torch.float64)
    step[6:] = 1.0
    noisy = (step + 0.02 * torch.randn(mask.shape, generator=generator, dtype=torch.float64)) * mask
    pairs, gradient = inner_pairs(mask), Gradient((1.0, 0.8, 1.2))
    found = diffuse(noisy, pairs, gradient, 8)
    assert float(found[mask].mean()) == pytest.approx(float(noisy[mask].mean()), abs=1e-12)
    assert float(found[~mask].abs().max()) == 0
    assert float((found - step)[mask].std()) < 0.6 * float((noisy - step)[mask].std())
    assert float((found[6] - found[5])[mask[5]].mean()) == pytest.approx(1.0, abs=0.05)
    torch.testing.assert_close(diffuse(10 * noisy, pairs, gradient, 8), 10 * found)
    assert torch.equal(diffuse(step * 0 + 3, pairs, gradient, 3), step * 0 + 3)


def test_a_noise_free_map_keeps_its_amplitude(nrmse):
    geometry = Geometry((21, 24, 19), (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.9
    chi = torch.where((x - 0.1) ** 2 + (y + 0.2) ** 2 + z**2 < 0.2, 0.1, 0.0)
    field = FieldMap(geometry, Dipole.of(geometry, 2.0)(chi) * mask, mask, mask.float())
    error, slope = nrmse(heidi(field, padding=1.5), chi)
    assert slope == pytest.approx(1.0, abs=0.05)
    assert error < 17


def test_heidi_on_the_check_phantom(check_phantom, quiet_phantom, nrmse):
    """No published figure."""
    for (field, chi), expected in ((check_phantom, 25.2), (quiet_phantom, 18.9)):
        error, slope = nrmse(heidi(field, padding=None), chi)
        assert error == pytest.approx(expected, abs=0.5)
        assert slope == pytest.approx(0.96, abs=0.02)


def test_the_map_scales_with_the_field_and_its_thresholds_and_not_with_b0(tiny):
    def at(scale: float, b0_tesla: float = 7.0) -> torch.Tensor:
        settings = {"field_step": 0.05 * scale, "field_curvature": 0.3 * scale, "penalty": 10 / scale}
        return heidi(tiny(scale=scale, b0_tesla=b0_tesla), padding=None, **settings).chi_ppm

    torch.testing.assert_close(at(10.0), 10 * at(1.0))
    torch.testing.assert_close(at(1.0, 3.0), at(1.0))


def test_the_mean_is_0_and_nothing_remains_outside_the_mask(tiny):
    field = tiny()
    assert abs(float(heidi(field, padding=None).chi_ppm.mean())) < 1e-15
    mask = field.mask.clone()
    mask[0], mask[:, :, 3] = False, False
    found = heidi(FieldMap(field.geometry, field.field_ppm, mask, field.weight * mask), n_iterations=5)
    assert float(found.chi_ppm[~mask].abs().max()) == 0
    assert float(found.chi_ppm[mask].abs().max()) > 0


def test_a_zero_field_gives_a_zero_map(tiny):
    assert float(heidi(tiny(scale=0.0)).chi_ppm.abs().max()) == 0


def test_steps_are_reported(tiny):
    seen: list[int] = []
    found = heidi(tiny(), n_iterations=4, tolerance=0.0, on_step=lambda step, _: seen.append(step))
    assert seen == [1, 2, 3, 4]
    assert found.outcome.n_steps == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ill", 0.0), ("ill", 0.3), ("well", 0.7), ("well", float("nan")), ("field_step", 0.0), ("field_curvature", -1.0), ("magnitude_step", 0.0),
        ("edge_weight", -0.1), ("penalty", 0.0), ("n_iterations", 0), ("tolerance", 1.0), ("n_diffusion", -1), ("padding", 9.0),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float, tiny):
    with pytest.raises(InputError, match=name):
        heidi(tiny(), **{name: value})


def test_a_total_field_is_refused(tiny):
    with pytest.raises(InputError, match="total-field method"):
        heidi(replace(tiny(), kind="total"))


def test_a_scan_on_another_grid_is_refused(tiny):
    geometry = Geometry((4, 3, 4))
    ones = torch.ones((1, *geometry.shape))
    with pytest.raises(InputError, match="both on one grid"):
        heidi(tiny(), scan=Scan(geometry, (0.004,), ones, ones, ones[0] > 0))
