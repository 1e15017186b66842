import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_scans import minimum, neumann_gradient, relative_distance, scan_of, smoothed

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import FieldMap, Geometry
from qsmdl.solvers.medi import medi
from qsmdl.solvers.msdi import msdi, sphere
from qsmdl.units import rad_per_ppm

ALPHA, EPS, TE = 2e-3, 1e-2, 0.004
EXACT = {
    "regularisation": ALPHA, "smoothing": EPS, "echo_time_s": TE, "rejection": False, "n_iterations": 100, "tolerance": 1e-6, "cg_iterations": 100,
    "cg_tolerance": 1e-3, "padding": None,
}  # fmt: skip


def ball(field: FieldMap, radius_mm: float) -> np.ndarray:
    """The mean over a sphere around every voxel of a periodic grid, as a matrix; voxels at the surface count in part."""
    shape, size = field.geometry.shape, np.array(field.geometry.voxel_size_mm)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1).reshape(-1, 3)
    apart = np.abs(index[:, None] - index[None])
    distance = np.linalg.norm(np.minimum(apart, np.array(shape) - apart) * size, axis=-1)
    weight = np.clip(0.5 + (radius_mm - distance) / size.mean(), 0, 1)
    return weight / weight.sum(1, keepdims=True)


def test_the_cascade_against_dense_matrices(tiny, dense):
    """A sphere of 0.6 mm reaches the next voxels in part; every scale is minimised by other means, and its field taken off the data of the next."""
    field = tiny(uniform=True)
    noise = 0.5 + torch.rand(field.geometry.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    field = replace(field, weight=1 / noise)
    dipole, gradient, c = dense(field)[0], torch.from_numpy(neumann_gradient(field)), rad_per_ppm(7.0, TE)
    data, total = field.field_ppm.numpy().ravel(), np.zeros(60)
    base = (field.weight / field.weight.mean()).numpy().ravel()
    mean = ball(field, 0.6)
    for high_pass, weight in ((np.eye(60) - mean, 1 / np.sqrt(mean @ base**-2.0 + base**-2.0)), (np.eye(60), base)):
        weight = torch.from_numpy(weight / weight.mean())
        system, left = torch.from_numpy(high_pass @ dipole), torch.from_numpy(high_pass @ (data - dipole @ total))

        def objective(x, weight=weight, system=system, left=left):
            angle = (c * (system @ x - left)).clamp(-torch.pi, torch.pi)
            return (weight.square() * (1 - torch.cos(angle))).sum() / c**2 + ALPHA * smoothed(gradient @ x, EPS)

        total = total + minimum(objective, np.zeros(60))
    found = msdi(field, radii_mm=(0.6, 0.0), **EXACT)
    assert relative_distance(found.chi_ppm.numpy().ravel(), total) < 1e-3


def test_without_a_sphere_it_is_medi(tiny):
    field = tiny()
    scan = scan_of(field)
    for share in (0.0, 0.3):
        settings = EXACT | {"scan": scan, "edge_share": share}
        torch.testing.assert_close(msdi(field, radii_mm=(0.0,), **settings).chi_ppm, medi(field, **settings).chi_ppm)


def test_spheres_stay_inside_the_mask():
    """What lies outside the mask, where the field is 0, must not enter a mean: a constant field passes no high-pass."""
    geometry = Geometry((16, 15, 14), (1.0, 1.0, 1.2))
    mask = torch.zeros(geometry.shape, dtype=torch.bool)
    mask[2:14, 2:13, 2:12] = True
    field = FieldMap(geometry, 0.05 * mask.double(), mask, mask.double())
    found = msdi(field, radii_mm=(3.0,), n_iterations=2)
    assert float(found.chi_ppm.abs().max()) < 1e-10


def test_the_objective_falls_at_every_scale(tiny):
    found = msdi(tiny(1), radii_mm=(0.6, 0.0), **(EXACT | {"n_iterations": 8, "tolerance": 0.0}))
    assert found.outcome.n_steps == 16
    for curve in (found.outcome.curve[:9], found.outcome.curve[9:]):
        assert all(later <= earlier for earlier, later in itertools.pairwise(curve))


def test_a_noise_free_map_keeps_its_amplitude(nrmse):
    geometry = Geometry((21, 24, 19), (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.9
    chi = torch.where((x - 0.1) ** 2 + (y + 0.2) ** 2 + z**2 < 0.2, 0.1, 0.0)
    field = FieldMap(geometry, Dipole.of(geometry, 2.0)(chi) * mask, mask, mask.float())
    found = msdi(field, radii_mm=(3.0, 0.0), regularisation=1e-5, smoothing=1e-5, padding=1.5, tolerance=0.01, n_iterations=20, rejection=False)
    error, slope = nrmse(found, chi)
    assert slope == pytest.approx(1.0, abs=0.03)
    assert error < 10


def test_the_map_depends_on_the_phase_alone(tiny):
    settings = {"n_iterations": 3, "tolerance": 0.0, "cg_tolerance": 1e-4, "radii_mm": (0.6, 0.0), "padding": None}
    one = msdi(tiny(b0_tesla=7.0), regularisation=ALPHA, smoothing=EPS, **settings).chi_ppm
    half = msdi(tiny(scale=2.0, b0_tesla=3.5), regularisation=2 * ALPHA, smoothing=2 * EPS, **settings).chi_ppm
    torch.testing.assert_close(half, 2 * one, rtol=1e-5, atol=1e-8)


def test_b0_does_not_matter_to_weak_fields(tiny):
    settings = {
        "regularisation": 1e-3 * ALPHA, "smoothing": 1e-3 * EPS, "n_iterations": 3, "tolerance": 0.0, "cg_tolerance": 1e-6, "radii_mm": (0.6, 0.0),
        "rejection": False, "padding": None,
    }  # fmt: skip
    at_7, at_3 = (msdi(tiny(scale=1e-3, b0_tesla=b), **settings).chi_ppm for b in (7.0, 3.0))
    torch.testing.assert_close(at_3, at_7, rtol=1e-3, atol=1e-9)


def test_a_sphere_has_the_sum_1_and_its_radius():
    found = sphere((40, 36, 44), (1.0, 1.2, 0.8), 8.0, like=torch.zeros(1, dtype=torch.float64))
    assert float(found.sum()) == pytest.approx(1)
    assert float(found[0, 0, 0]) == pytest.approx(0.96 / (4 / 3 * np.pi * 8**3), rel=0.02)
    assert torch.equal(found[1:], found[1:].flip(0))
    assert (float(found[7, 0, 0]) > 0, float(found[9, 0, 0])) == (True, 0)


def test_zero_field_mean_mask_and_steps(tiny):
    settings = {"radii_mm": (0.6, 0.0), "padding": None}
    assert float(msdi(tiny(scale=0.0), **settings).chi_ppm.abs().max()) == 0
    field, seen = tiny(), []
    found = msdi(field, on_step=lambda step, _: seen.append(step), **settings)
    assert abs(float(found.chi_ppm.mean())) < 1e-15
    assert seen == list(range(1, found.outcome.n_steps + 1))
    mask = field.mask.clone()
    mask[0], mask[:, :, 3] = False, False
    masked = FieldMap(field.geometry, field.field_ppm.float(), mask, field.weight.float() * mask)
    found = msdi(masked, radii_mm=(0.0,))
    assert found.chi_ppm.dtype == torch.float32
    assert float(found.chi_ppm[~mask].abs().max()) == 0
    assert float(found.chi_ppm[mask].abs().max()) > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("radii_mm", ()), ("radii_mm", (-1.0,)), ("radii_mm", (50.0,)), ("radii_mm", (float("nan"),)), ("regularisation", 0.0), ("echo_time_s", 0.0),
        ("smoothing", 0.0), ("edge_share", 1.0), ("n_iterations", 0), ("tolerance", 1.0), ("weighting", "magnitude"), ("padding", 9.0),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name: str, value: object, tiny):
    with pytest.raises(InputError, match=name):
        msdi(tiny(), **({"radii_mm": (0.0,)} | {name: value}))


def test_a_total_field_is_refused(tiny):
    with pytest.raises(InputError, match="Remove the background field first"):
        msdi(replace(tiny(), kind="total"))
