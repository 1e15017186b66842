import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_scans import minimum, neumann_gradient, relative_distance, scan_of, smoothed

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import FieldMap, Geometry, Scan
from qsmdl.solvers.medi import medi
from qsmdl.units import rad_per_ppm

ALPHA, EPS, TE = 2e-3, 1e-2, 0.004
EXACT = {
    "regularisation": ALPHA, "smoothing": EPS, "echo_time_s": TE, "rejection": False, "n_iterations": 100, "tolerance": 1e-6, "cg_iterations": 100,
    "cg_tolerance": 1e-3, "padding": None,
}  # fmt: skip


def objective(field: FieldMap, dipole: np.ndarray, edges: np.ndarray | None = None, csf: np.ndarray | None = None, beta: float = 0.0):
    """sum w^2 / c^2 (1 - cos(c (D x - f))) + alpha ||M G x||_1, smoothed, + beta/2 ||x - mean x||^2 over the CSF, of a vector x."""
    weight = (field.weight / field.weight[field.mask].mean() * field.mask).flatten()
    system, gradient = torch.from_numpy(dipole), torch.from_numpy(neumann_gradient(field) if edges is None else neumann_gradient(field) * edges)
    data, c = field.field_ppm.flatten(), rad_per_ppm(field.geometry.b0_tesla, TE)

    def value(x):
        angle = (c * (system @ x - data)).clamp(-torch.pi, torch.pi)
        total = (weight.square() * (1 - torch.cos(angle))).sum() / c**2 + ALPHA * smoothed(gradient @ x, EPS)
        if csf is not None:
            total = total + beta / 2 * (x[csf] - x[csf].mean()).square().sum()
        return total

    return value


def test_the_map_is_the_minimiser(tiny, dense):
    field = tiny()
    expected = minimum(objective(field, dense(field)[0]), np.zeros(60))
    assert relative_distance(medi(field, **EXACT).chi_ppm.numpy().ravel(), expected) < 1e-3


def test_the_edges_of_the_magnitude_are_spared(tiny, dense):
    """Against an edge mask and a minimum made here: the 54 strongest of 180 components of the magnitude's gradient do not count."""
    field = tiny(2)
    scan = scan_of(field)
    strength = np.abs(neumann_gradient(field) @ scan.magnitude.square().sum(0).sqrt().numpy().ravel())
    mask = (strength <= np.sort(strength)[-55])[:, None].astype(float)
    expected = minimum(objective(field, dense(field)[0], mask), np.zeros(60))
    found = medi(field, scan=scan, edge_share=0.3, **EXACT).chi_ppm.numpy().ravel()
    assert relative_distance(found, expected) < 1e-3
    assert relative_distance(medi(field, **EXACT).chi_ppm.numpy().ravel(), expected) > 0.05
    by_weight = medi(field, edge_share=0.3, **EXACT).chi_ppm.numpy().ravel()
    strength = np.abs(neumann_gradient(field) @ field.weight.numpy().ravel())
    mask = (strength <= np.sort(strength)[-55])[:, None].astype(float)
    assert relative_distance(by_weight, minimum(objective(field, dense(field)[0], mask), np.zeros(60))) < 1e-3


def test_the_csf_becomes_uniform(tiny, dense):
    field = tiny(3)
    scan = scan_of(field, r2star_per_s=40.0, noise=0.0)
    slow = torch.zeros(field.geometry.shape, dtype=torch.bool)
    slow[1:4, 1:, 1:3] = True
    scan = Scan(scan.geometry, scan.echo_times_s, torch.where(slow, scan.magnitude[:1], scan.magnitude), scan.phase_rad, scan.mask)
    expected = minimum(objective(field, dense(field)[0], csf=slow.numpy().ravel(), beta=0.2), np.zeros(60))
    found = medi(field, scan=scan, csf_regularisation=0.2, **EXACT).chi_ppm
    assert relative_distance(found.numpy().ravel(), expected) < 1e-3
    assert float(found[slow].std()) < 0.8 * float(medi(field, **EXACT).chi_ppm[slow].std())


@pytest.mark.parametrize("cg_iterations", [3, 100])
def test_the_objective_falls(cg_iterations: int, tiny, dense):
    field = tiny(1, scale=3.0)
    found = medi(field, **(EXACT | {"cg_iterations": cg_iterations, "n_iterations": 20}))
    assert all(later <= earlier for earlier, later in itertools.pairwise(found.outcome.curve))
    value = float(objective(field, dense(field)[0])(found.chi_ppm.flatten()))
    assert value == pytest.approx(found.outcome.curve[-1])
    assert value < 0.7 * found.outcome.curve[0]


def test_the_map_depends_on_the_phase_alone(tiny):
    """Twice the field at half of B0: the same phases. In ppm the map doubles, and so must alpha and eps."""
    settings = {"n_iterations": 4, "tolerance": 0.0}
    one = medi(tiny(scale=3.0, b0_tesla=7.0), regularisation=ALPHA, smoothing=EPS, **settings).chi_ppm
    half = medi(tiny(scale=6.0, b0_tesla=3.5), regularisation=2 * ALPHA, smoothing=2 * EPS, **settings).chi_ppm
    torch.testing.assert_close(half, 2 * one, rtol=1e-5, atol=1e-8)


def test_b0_does_not_matter_to_weak_fields(tiny):
    settings = {"regularisation": 1e-3 * ALPHA, "smoothing": 1e-3 * EPS, "n_iterations": 4, "tolerance": 0.0}
    at_7, at_3 = (medi(tiny(scale=1e-3, b0_tesla=b), **settings).chi_ppm for b in (7.0, 3.0))
    torch.testing.assert_close(at_3, at_7, rtol=1e-4, atol=1e-9)


def test_rejection_lets_a_bad_voxel_go(tiny):
    """One voxel whose field is wrong by 0.15 ppm no longer draws on the map: it comes closer to the map of the true field."""
    field = tiny(4, uniform=True)
    chi = Dipole(field.geometry.shape, field.geometry.voxel_size_mm, field.geometry.b0_direction, fft_shape=field.geometry.shape, dtype=torch.float64)
    true = replace(field, field_ppm=chi(field.field_ppm))
    wrong = true.field_ppm.clone()
    wrong[2, 1, 2] += 0.3
    settings = EXACT | {"n_iterations": 30, "regularisation": 1e-3}
    expected = medi(true, **settings).chi_ppm.numpy()
    kept, rejected = (medi(replace(true, field_ppm=wrong), **(settings | {"rejection": r})).chi_ppm.numpy() for r in (False, True))
    assert relative_distance(rejected, expected) < 0.7 * relative_distance(kept, expected)


def test_medi_on_the_check_phantom(check_phantom, nrmse):
    """11.51 with lambda 1000 in rad for a weight of mean 1, without edge mask and rejection, by the original's truncation."""
    field, chi = check_phantom
    s = rad_per_ppm(7.0, 0.004)
    found = medi(
        field, regularisation=1 / (2 * 1000 * s), smoothing=1e-3 / s, echo_time_s=0.004, rejection=False, cg_tolerance=0.01, cg_iterations=100,
        n_iterations=10, tolerance=0.1, padding=None,
    )  # fmt: skip
    error, slope = nrmse(found, chi)
    assert error == pytest.approx(11.51, abs=0.3)
    assert slope == pytest.approx(0.98, abs=0.01)
    assert found.outcome.stopped == "tolerance reached"


def test_a_noise_free_map_keeps_its_amplitude(nrmse):
    geometry = Geometry((21, 24, 19), (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.9
    chi = torch.where((x - 0.1) ** 2 + (y + 0.2) ** 2 + z**2 < 0.2, 0.1, 0.0)
    field = FieldMap(geometry, Dipole.of(geometry, 2.0)(chi) * mask, mask, mask.float())
    error, slope = nrmse(medi(field, regularisation=1e-5, smoothing=1e-5, padding=1.5, tolerance=0.01, n_iterations=20), chi)
    assert slope == pytest.approx(1.0, abs=0.02)
    assert error < 8


def test_zero_field_mean_and_mask(tiny):
    assert float(medi(tiny(scale=0.0)).chi_ppm.abs().max()) == 0
    field = tiny()
    assert abs(float(medi(field, padding=None).chi_ppm.mean())) < 1e-15
    mask = field.mask.clone()
    mask[0], mask[:, :, 3] = False, False
    found = medi(FieldMap(field.geometry, field.field_ppm, mask, field.weight * mask))
    assert float(found.chi_ppm[~mask].abs().max()) == 0
    assert float(found.chi_ppm[mask].abs().max()) > 0


def test_float32_stays_float32(tiny):
    field = tiny()
    single = FieldMap(field.geometry, field.field_ppm.float(), field.mask, field.weight.float())
    settings = EXACT | {"edge_share": 0.2, "n_iterations": 5}
    found = medi(single, **settings)
    assert found.chi_ppm.dtype == torch.float32
    torch.testing.assert_close(found.chi_ppm.double(), medi(field, **settings).chi_ppm, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("regularisation", 0.0), ("regularisation", float("nan")), ("echo_time_s", -0.004), ("smoothing", 0.0), ("edge_share", 1.0),
        ("edge_share", -0.1), ("csf_regularisation", -1.0), ("csf_r2star_per_s", 0.0), ("n_iterations", 0), ("tolerance", 1.0), ("cg_iterations", 0),
        ("cg_tolerance", -0.1), ("weighting", "magnitude"), ("padding", 9.0),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name: str, value: object, tiny):
    with pytest.raises(InputError, match="n_iterations" if name == "cg_iterations" else "tolerance" if name == "cg_tolerance" else name):
        medi(tiny(), **{name: value})


def test_total_fields_and_missing_scans_are_refused(tiny):
    field = tiny()
    with pytest.raises(InputError, match="Remove the background field first"):
        medi(replace(field, kind="total"))
    with pytest.raises(InputError, match="no scan was given"):
        medi(field, csf_regularisation=0.05)
    scan = scan_of(field)
    smaller = Scan(Geometry((5, 3, 3)), scan.echo_times_s, scan.magnitude[..., :3], scan.phase_rad[..., :3], scan.mask[..., :3])
    for settings in ({"edge_share": 0.3}, {"csf_regularisation": 0.05}):
        with pytest.raises(InputError, match="one grid"):
            medi(field, scan=smaller, **settings)
