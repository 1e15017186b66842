import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_scans import ECHO_TIMES_S, minimum, neumann_gradient, relative_distance, scan_of, smoothed

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import FieldMap, Geometry, Scan
from qsmdl.solvers.mctfi import mctfi
from qsmdl.units import rad_per_ppm

ALPHA, EPS = 5e-4, 1e-2
EXACT = {
    "regularisation": ALPHA, "smoothing": EPS, "n_iterations": 100, "tolerance": 1e-5, "cg_iterations": 100, "cg_tolerance": 1e-3, "padding": None,
}  # fmt: skip


def consistent(field: FieldMap, dipole: np.ndarray, scale: float = 1.0) -> FieldMap:
    """A field that a map can explain: that of the field map's own values, taken as a map. Others have several minima."""
    values = scale * dipole @ field.field_ppm.numpy().ravel()
    return replace(field, field_ppm=torch.from_numpy(values).reshape(field.geometry.shape))


def objective(scan: Scan, field: FieldMap, dipole: np.ndarray, csf: np.ndarray | None = None, beta: float = 0.0):
    """1/2 sum_j |m_0 exp(-R2* TE_j) exp(i (c_j D x + phi_0)) - s_j|^2 / k^2 + the regularisers, of map, R2* (in 30 / s), m_0 and phi_0 in one vector;
    R2* and phi_0 or both may be left out: a vector of 60 or 180 numbers.
    """
    system, gradient = torch.from_numpy(dipole), torch.from_numpy(neumann_gradient(field))
    measured = torch.polar(scan.magnitude, scan.phase_rad).flatten(1)
    c = torch.tensor([rad_per_ppm(field.geometry.b0_tesla, te) for te in ECHO_TIMES_S], dtype=torch.float64)[:, None]
    times = torch.tensor(ECHO_TIMES_S, dtype=torch.float64)[:, None]
    scale = (c * measured.abs()).square().sum(0).sqrt().mean()

    def value(v):
        parts = v.reshape(-1, 60)
        x = parts[0]
        magnitude = measured.abs() if len(parts) == 1 else parts[2] * torch.exp(-30 * parts[1] * times)
        offset = parts[3] if len(parts) == 4 else 0.0
        modelled = torch.polar(magnitude, c * (system @ x) + offset)
        total = 0.5 * (modelled - measured).abs().square().sum() / scale**2 + ALPHA * smoothed(gradient @ x, EPS)
        return total if csf is None else total + beta / 2 * (x[csf] - x[csf].mean()).square().sum()

    return value


def test_the_map_is_the_minimiser_with_the_measured_magnitudes(tiny, dense):
    field = consistent(tiny(), dense(tiny())[0])
    scan = scan_of(field)
    expected = minimum(objective(scan, field, dense(field)[0]), np.zeros(60))
    found = mctfi(field, scan=scan, refit=False, **EXACT)
    assert relative_distance(found.chi_ppm.numpy().ravel(), expected) < 1e-3
    assert all(later <= earlier for earlier, later in itertools.pairwise(found.outcome.curve))


@pytest.mark.parametrize("free_offset", [False, True])
def test_the_map_is_the_minimiser_over_all_unknowns(free_offset: bool, tiny, dense):
    field = consistent(tiny(), dense(tiny())[0])
    scan = scan_of(field, offset_rad=0.1 if free_offset else 0.0)
    start = [np.zeros(60), np.ones(60), field.weight.numpy().ravel()] + [np.zeros(60)] * free_offset
    value = objective(scan, field, dense(field)[0])
    expected = minimum(value, np.concatenate(start))
    found = mctfi(field, scan=scan, free_offset=free_offset, **EXACT)
    assert relative_distance(found.chi_ppm.numpy().ravel(), expected[:60]) < 1e-3
    assert all(later <= earlier for earlier, later in itertools.pairwise(found.outcome.curve))
    assert found.outcome.curve[-1] == pytest.approx(float(value(torch.from_numpy(expected))), rel=1e-4)


def test_the_csf_becomes_uniform(tiny, dense):
    field = consistent(tiny(3), dense(tiny(3))[0])
    scan = scan_of(field, r2star_per_s=40.0, noise=0.0)
    slow = torch.zeros(field.geometry.shape, dtype=torch.bool)
    slow[1:4, 1:, 1:3] = True
    scan = replace(scan, magnitude=torch.where(slow, scan.magnitude[:1], scan.magnitude))
    expected = minimum(objective(scan, field, dense(field)[0], csf=slow.numpy().ravel(), beta=0.2), np.zeros(60))
    found = mctfi(field, scan=scan, refit=False, csf_regularisation=0.2, **EXACT).chi_ppm
    assert relative_distance(found.numpy().ravel(), expected) < 1e-3


def test_turns_are_taken_from_the_field_map(tiny, dense):
    """Fields of up to a turn either way at the last echo: from x = 0 the map comes close to the true one, where wrapped echoes end in other turns."""
    truth = 3 * tiny(5).field_ppm.numpy().ravel()
    field = consistent(tiny(5), dense(tiny(5))[0], 3.0)
    assert float(field.field_ppm.abs().max()) * rad_per_ppm(7.0, ECHO_TIMES_S[-1]) > 1.9 * np.pi
    settings = EXACT | {"scan": scan_of(field, noise=0.0), "refit": False, "regularisation": 1e-4}
    unwrapped, wrapped = (mctfi(field, unwrapped=u, **settings).chi_ppm.numpy().ravel() for u in (True, False))
    seen = relative_distance(dense(field)[0] @ unwrapped, dense(field)[0] @ truth)
    assert seen < 0.1 < 0.3 < relative_distance(dense(field)[0] @ wrapped, dense(field)[0] @ truth)


def test_a_strength_changes_the_way_but_not_the_end(tiny):
    field = tiny(scale=0.3)
    scan = scan_of(field, r2star_per_s=60.0)
    settings = {"scan": scan, "refit": False, "r2star_per_s": 70.0}
    plain, strong = (mctfi(field, strength=s, **settings, **EXACT).chi_ppm for s in (1.0, 4.0))
    torch.testing.assert_close(strong, plain, rtol=1e-2, atol=1e-4)
    few = EXACT | {"n_iterations": 1, "cg_iterations": 2}
    plain, strong = (mctfi(field, strength=s, **settings, **few).chi_ppm for s in (1.0, 4.0))
    assert float((strong - plain).abs().max()) > 1e-3


def test_a_noise_free_map_keeps_its_amplitude(nrmse):
    geometry = Geometry((21, 24, 19), (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.9
    chi = torch.where((x - 0.1) ** 2 + (y + 0.2) ** 2 + z**2 < 0.2, 0.1, 0.0)
    field = FieldMap(geometry, Dipole.of(geometry, 2.0)(chi) * mask, mask, mask.float())
    found = mctfi(
        field, scan=scan_of(field, noise=0.0), regularisation=1e-5, smoothing=1e-5, padding=1.5, tolerance=0.01, n_iterations=20, cg_tolerance=0.03
    )
    error, slope = nrmse(found, chi)
    assert slope == pytest.approx(1.0, abs=0.03)
    assert error < 10


def test_the_map_depends_on_the_phase_alone(tiny):
    settings = {"n_iterations": 3, "tolerance": 0.0, "cg_tolerance": 1e-4}
    one, half = tiny(b0_tesla=7.0), tiny(scale=2.0, b0_tesla=3.5)
    expected = mctfi(one, scan=scan_of(one), regularisation=ALPHA, smoothing=EPS, **settings).chi_ppm
    found = mctfi(half, scan=scan_of(half), regularisation=2 * ALPHA, smoothing=2 * EPS, **settings).chi_ppm
    torch.testing.assert_close(found, 2 * expected, rtol=1e-5, atol=1e-8)


def test_b0_does_not_matter_to_weak_fields(tiny):
    settings = {"regularisation": 1e-3 * ALPHA, "smoothing": 1e-3 * EPS, "n_iterations": 3, "tolerance": 0.0, "cg_tolerance": 1e-6}
    fields = [tiny(scale=1e-3, b0_tesla=b) for b in (7.0, 3.0)]
    at_7, at_3 = (mctfi(field, scan=scan_of(field, noise=0.0), **settings).chi_ppm for field in fields)
    torch.testing.assert_close(at_3, at_7, rtol=1e-3, atol=1e-9)


def test_the_unit_of_the_magnitude_does_not_matter(tiny):
    field = tiny()
    scan = scan_of(field)
    loud = replace(scan, magnitude=3000 * scan.magnitude)
    torch.testing.assert_close(mctfi(field, scan=loud, n_iterations=2).chi_ppm, mctfi(field, scan=scan, n_iterations=2).chi_ppm, rtol=1e-4, atol=1e-8)


def test_zero_field_mean_and_mask(tiny):
    empty = tiny(scale=0.0)
    assert float(mctfi(empty, scan=scan_of(empty, noise=0.0)).chi_ppm.abs().max()) == 0
    field = tiny()
    assert abs(float(mctfi(field, scan=scan_of(field), padding=None).chi_ppm.mean())) < 1e-15
    mask = field.mask.clone()
    mask[0], mask[:, :, 3] = False, False
    found = mctfi(FieldMap(field.geometry, field.field_ppm, mask, field.weight * mask), scan=scan_of(field), n_iterations=2)
    assert float(found.chi_ppm[~mask].abs().max()) == 0
    assert float(found.chi_ppm[mask].abs().max()) > 0


def test_float32_stays_float32(tiny):
    field = tiny()
    single = FieldMap(field.geometry, field.field_ppm.float(), field.mask, field.weight.float())
    settings = EXACT | {"n_iterations": 3, "strength": 2.0}
    found = mctfi(single, scan=scan_of(field), **settings).chi_ppm
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), mctfi(field, scan=scan_of(field), **settings).chi_ppm, rtol=2e-2, atol=2e-4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("regularisation", 0.0), ("regularisation", float("nan")), ("smoothing", 0.0), ("strength", 0.0), ("r2star_per_s", -1.0), ("edge_share", 1.0),
        ("csf_regularisation", -1.0), ("csf_r2star_per_s", 0.0), ("n_iterations", 0), ("tolerance", 1.0), ("padding", 9.0),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name: str, value: object, tiny):
    field = tiny()
    with pytest.raises(InputError, match=name):
        mctfi(field, scan=scan_of(field), **{name: value})


def test_total_fields_missing_scans_single_and_foreign_echoes_are_refused(tiny):
    field = tiny()
    scan = scan_of(field)
    with pytest.raises(InputError, match="Remove the background field first"):
        mctfi(replace(field, kind="total"), scan=scan)
    with pytest.raises(InputError, match="no scan was given"):
        mctfi(field)
    with pytest.raises(InputError, match="do not follow its field map"):
        mctfi(field, scan=scan_of(field, offset_rad=2.0))
    one = Scan(scan.geometry, scan.echo_times_s[:1], scan.magnitude[:1], scan.phase_rad[:1], scan.mask)
    with pytest.raises(InputError, match="at least two"):
        mctfi(field, scan=one)
    assert mctfi(field, scan=one, refit=False, n_iterations=1).outcome.n_steps == 1
