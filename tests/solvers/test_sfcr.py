from dataclasses import replace

import numpy as np
import pytest
import torch
from brute_force import rounded, smooth_minimiser

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole, dipole_kernel
from qsmdl.scan import FieldMap, Geometry, Scan
from qsmdl.solvers.sfcr import sfcr

LONG = {
    "threshold": 0.2,
    "structure_fidelity": 50.0,
    "structure_penalty": 5.0,
    "structure_iterations": 600,
    "magnitude_edges": 0.2,
    "map_edges": 0.25,
    "regularisation": 3e-3,
    "n_iterations": 800,
    "tolerance": 0.0,
    "padding": None,
}


def scan_of(field: FieldMap) -> Scan:
    """Two echoes with a magnitude of their own, on the field map's grid."""
    generator = torch.Generator().manual_seed(11)
    magnitude = 1 + torch.rand((2, *field.geometry.shape), generator=generator, dtype=torch.float64)
    return Scan(field.geometry, (0.004, 0.012), magnitude, torch.zeros_like(magnitude), field.mask)


def blocks(field: FieldMap) -> FieldMap:
    """The field of a map of two values, with noise."""
    geometry = field.geometry
    chi = torch.zeros_like(field.field_ppm)
    chi[1:4, 1:, 1:3] = 0.3
    dipole = Dipole(geometry.shape, geometry.voxel_size_mm, geometry.b0_direction, fft_shape=geometry.shape, dtype=chi.dtype)
    return replace(field, field_ppm=dipole(chi) + 0.1 * field.field_ppm)


def without_edges(volume: np.ndarray, gradient: np.ndarray, share: float) -> np.ndarray:
    """1, and 0 at the strongest share of the components of the gradient."""
    strength = np.abs(gradient @ volume.ravel())
    weight = np.ones_like(strength)
    weight[np.argsort(strength)[len(strength) - round(share * len(strength)) :]] = 0
    return weight


def projection(keep: np.ndarray) -> np.ndarray:
    units = np.eye(keep.size).reshape(-1, *keep.shape)
    return np.stack([np.fft.ifftn(keep * np.fft.fftn(u)).real.ravel() for u in units], axis=1)


def expected_map(field: FieldMap, magnitude: np.ndarray, dipole: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Both steps by descent on their objectives, and the merge by full transforms."""
    geometry = field.geometry
    kernel = dipole_kernel(geometry.shape, geometry.voxel_size_mm, geometry.b0_direction, half=False, dtype=torch.float64).numpy()
    strength, data = np.abs(kernel), field.field_ppm.numpy()
    trusted = strength > 0.2
    divided = np.fft.ifftn(np.where(trusted, 1 / np.where(trusted, kernel, 1), 0) * np.fft.fftn(data)).real.ravel()
    keep, steps, system = (torch.from_numpy(v) for v in (projection(trusted), gradient, dipole))
    weight, flat = torch.from_numpy((field.weight / field.weight.mean()).numpy().ravel()), torch.from_numpy(data.ravel())
    edges = torch.from_numpy(without_edges(magnitude, gradient, 0.2))
    known = torch.from_numpy(divided)
    # 1e-9 of the square settles what neither term sees.
    structure = smooth_minimiser(
        lambda x, eps: 25 * (keep @ x - known).square().sum() + (edges * rounded(steps @ x, eps)).sum() + 1e-9 * x.square().sum(), known
    )
    spared = torch.from_numpy(without_edges(structure.numpy(), gradient, 0.25))
    fit = smooth_minimiser(
        lambda x, eps: 0.5 * (weight * (system @ x - flat)).square().sum() + 3e-3 * (spared * rounded(steps @ x, eps)).sum(), structure
    )
    share = np.where(strength > 0.25, 1.0, np.where(strength < 0.15, 0.0, 0.5))
    share[0, 0, 0] = 1.0
    merged = share * np.fft.fftn(structure.numpy().reshape(kernel.shape)) + (1 - share) * np.fft.fftn(fit.numpy().reshape(kernel.shape))
    merged[0, 0, 0] = 0
    return np.fft.ifftn(merged).real


def test_the_map_merges_the_minimisers_of_both_steps(tiny, dense):
    field = blocks(tiny())
    dipole, gradient = dense(field)
    scan = scan_of(field)
    expected = expected_map(field, torch.linalg.vector_norm(scan.magnitude, dim=0).numpy(), dipole, gradient)
    found = sfcr(field, scan=scan, n_rejections=0, **LONG).chi_ppm.numpy()
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


def test_without_a_scan_the_confidence_stands_in_for_the_magnitude(tiny):
    field = tiny()
    scan = Scan(field.geometry, (0.004,), field.weight[None], torch.zeros_like(field.weight[None]), field.mask)
    alone, same, other = (sfcr(field, scan=s, padding=None).chi_ppm for s in (None, scan, scan_of(field)))
    assert torch.equal(alone, same)
    assert float((alone - other).norm()) > 0.01 * float(alone.norm())


def test_each_step_approaches_its_minimum(tiny, dense):
    """The merged map comes closer to its end with every tenfold of steps."""
    field = blocks(tiny())
    settings = LONG | {"n_rejections": 0}
    end = sfcr(field, **settings).chi_ppm
    distances = [float((sfcr(field, **(settings | {"structure_iterations": n, "n_iterations": n})).chi_ppm - end).norm()) for n in (2, 20, 200)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.02 * distances[0]


def test_misfitting_voxels_lose_weight_in_the_second_pass(check_phantom, nrmse):
    field, chi = check_phantom
    wrong = field.field_ppm.clone()
    wrong[20, 24, 20:24] += 2.0
    field = replace(field, field_ppm=wrong)
    kept, rejected = (nrmse(sfcr(field, n_rejections=n, padding=None), chi)[0] for n in (0, 1))
    assert rejected < 0.9 * kept


def test_a_noise_free_map_keeps_its_amplitude(nrmse):
    geometry = Geometry((21, 24, 19), (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.9
    chi = torch.where((x - 0.1) ** 2 + (y + 0.2) ** 2 + z**2 < 0.2, 0.1, 0.0)
    field = FieldMap(geometry, Dipole.of(geometry, 2.0)(chi) * mask, mask, mask.float())
    error, slope = nrmse(sfcr(field, regularisation=1e-5, padding=1.5), chi)
    assert slope == pytest.approx(1.0, abs=0.04)
    assert error < 10


def test_sfcr_on_the_check_phantom(check_phantom, nrmse):
    """No published figure; the magnitude is almost flat, so that a share of edges marks noise."""
    field, chi = check_phantom
    error, slope = nrmse(sfcr(field, padding=None), chi)
    assert error == pytest.approx(17.9, abs=0.5)
    assert slope == pytest.approx(0.976, abs=0.01)


def test_the_map_scales_with_the_field_and_not_with_b0(tiny):
    def at(scale: float, b0_tesla: float = 7.0) -> torch.Tensor:
        settings = {"structure_fidelity": 50 / scale, "structure_penalty": 5 / scale, "regularisation": 3e-3 * scale, "tolerance": 0.0}
        return sfcr(tiny(scale=scale, b0_tesla=b0_tesla), n_iterations=30, padding=None, **settings).chi_ppm

    torch.testing.assert_close(at(10.0), 10 * at(1.0))
    torch.testing.assert_close(at(1.0, 3.0), at(1.0))


def test_the_mean_is_0_and_nothing_remains_outside_the_mask(tiny):
    field = tiny()
    assert abs(float(sfcr(field, padding=None).chi_ppm.mean())) < 1e-15
    mask = field.mask.clone()
    mask[0], mask[:, :, 3] = False, False
    found = sfcr(FieldMap(field.geometry, field.field_ppm, mask, field.weight * mask), n_iterations=5)
    assert float(found.chi_ppm[~mask].abs().max()) == 0
    assert float(found.chi_ppm[mask].abs().max()) > 0


def test_a_zero_field_gives_a_zero_map(tiny):
    assert float(sfcr(tiny(scale=0.0)).chi_ppm.abs().max()) == 0


def test_steps_of_all_passes_are_reported(tiny):
    seen: list[int] = []
    found = sfcr(tiny(), structure_iterations=3, n_iterations=4, tolerance=0.0, on_step=lambda step, _: seen.append(step))
    assert seen == list(range(1, 12))
    assert (found.outcome.n_steps, len(found.outcome.curve)) == (11, 11)


@pytest.mark.parametrize("name", ["structure_fidelity", "structure_penalty", "regularisation", "penalty", "data_penalty"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_settings_that_are_not_positive_are_refused(name: str, value: float, tiny):
    with pytest.raises(InputError, match=name):
        sfcr(tiny(), **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threshold", 0.05), ("threshold", 0.65), ("n_rejections", -1), ("n_iterations", 0), ("structure_iterations", 0), ("tolerance", 1.0),
        ("weighting", "magnitude"), ("padding", 9.0), ("magnitude_edges", 1.0), ("map_edges", -0.1),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: object, tiny):
    what = {"structure_iterations": "n_iterations", "magnitude_edges": "share", "map_edges": "share"}.get(name, name)
    with pytest.raises(InputError, match=what):
        sfcr(tiny(), **{name: value})


def test_a_total_field_is_refused(tiny):
    with pytest.raises(InputError, match="total-field method"):
        sfcr(replace(tiny(), kind="total"))


def test_a_scan_on_another_grid_is_refused(tiny):
    geometry = Geometry((4, 3, 4))
    ones = torch.ones((1, *geometry.shape))
    with pytest.raises(InputError, match="both on one grid"):
        sfcr(tiny(), scan=Scan(geometry, (0.004,), ones, ones, ones[0] > 0))
