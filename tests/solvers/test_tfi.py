import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_scans import minimum, neumann_gradient, relative_distance, scan_of, smoothed

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.physics.relaxation import fit_r2star
from qsmdl.scan import FieldMap, Geometry, Scan
from qsmdl.solvers.medi import medi
from qsmdl.solvers.tfi import preconditioned, tfi, tfipc
from qsmdl.units import rad_per_ppm

ALPHA, EPS, TE = 2e-3, 1e-2, 0.004
EXACT = {
    "regularisation": ALPHA, "smoothing": EPS, "echo_time_s": TE, "rejection": False, "n_iterations": 100, "tolerance": 1e-6, "cg_iterations": 200,
    "cg_tolerance": 1e-3, "padding": None,
}  # fmt: skip


def case(tiny, seed: int = 0, scale: float = 1.0, b0_tesla: float = 7.0) -> tuple[FieldMap, Scan]:
    field = tiny(seed, scale=scale, b0_tesla=b0_tesla)
    return field, scan_of(field, r2star_per_s=60.0)


def head(shape: tuple[int, int, int] = (18, 17, 16)) -> tuple[FieldMap, Scan, torch.Tensor]:
    """A noise-free ball with a strong source of high R2*, with echoes: a field in float32, and its truth."""
    geometry = Geometry(shape, (1.0, 0.9, 1.1), (0.0, 0.6, 0.8))
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.9
    source = (x - 0.1) ** 2 + (y + 0.2) ** 2 + z**2 < 0.15
    chi = torch.where(source, 0.2, 0.02 * (3 * x).sin() * mask)
    field_ppm = Dipole.of(geometry, 2.0)(chi) * mask
    field = FieldMap(geometry, field_ppm, mask, mask.float())
    rate = 20 + 20 * torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 90 * source
    times = (0.004, 0.012, 0.020)
    phase = torch.stack([rad_per_ppm(7.0, te) * field_ppm for te in times])
    scan = Scan(geometry, times, torch.stack([torch.exp(-te * rate) * mask for te in times]), phase, mask)
    return field, scan, chi


@pytest.mark.parametrize("seed", [0, 1])
def test_the_minimum_is_that_of_the_objective_whatever_the_strength(seed: int, tiny, dense):
    field, scan = case(tiny, seed, scale=0.5)
    weight, c = (field.weight / field.weight.mean()).flatten(), rad_per_ppm(7.0, TE)
    system, gradient, data = torch.from_numpy(dense(field)[0]), torch.from_numpy(neumann_gradient(field)), field.field_ppm.flatten()
    strength = torch.where(fit_r2star(scan)[0] > 70, 5.0, 1.0).double().flatten()
    assert 5 < int((strength > 1).sum()) < 55

    def objective(y):
        x = strength * y
        angle = (c * (system @ x - data)).clamp(-torch.pi, torch.pi)
        return (weight.square() * (1 - torch.cos(angle))).sum() / c**2 + ALPHA * smoothed(gradient @ x, EPS)

    expected = strength.numpy() * minimum(objective, np.zeros(60))
    found = tfi(field, scan=scan, strength=5.0, r2star_per_s=70.0, **EXACT).chi_ppm.numpy().ravel()
    assert relative_distance(found, expected) < 1e-3
    assert relative_distance(medi(field, **EXACT).chi_ppm.numpy().ravel(), expected) < 1e-3


@pytest.mark.parametrize("method", [tfi, tfipc])
def test_the_objective_falls(method):
    field, scan, _ = head()
    found = method(field, scan=scan, rejection=False, cg_iterations=5, n_iterations=8, tolerance=0.0)
    assert found.outcome.n_steps == 8
    assert all(later <= earlier for earlier, later in itertools.pairwise(found.outcome.curve))
    assert found.outcome.curve[-1] < 0.2 * found.outcome.curve[0]


def test_few_steps_reach_strong_sources_first():
    """What the preconditioner is for: after one truncated step more of the map lies where R2* is high than without."""
    field, scan, chi = head()
    maps = [tfi(field, scan=scan, strength=s, r2star_per_s=70.0, rejection=False, n_iterations=1, cg_iterations=2).chi_ppm for s in (1.0, 5.0)]
    plain, strong = (float(m[chi == 0.2].square().sum() / m.square().sum()) for m in maps)
    assert strong > 1.1 * plain


def test_the_automatic_strength_is_that_of_the_first_map():
    field, scan, _ = head()
    settings = {"n_iterations": 2, "tolerance": 0.0, "cg_iterations": 3}
    auto, plain = tfipc(field, scan=scan, **settings).chi_ppm, tfi(field, scan=scan, strength=1.0, rejection=True, **settings).chi_ppm
    assert float((auto - plain).abs().max()) > 1e-3
    # A logistic that may not exceed 1 is no preconditioner at all.
    capped = tfipc(field, scan=scan, largest_strength=1.0, **settings).chi_ppm
    torch.testing.assert_close(capped, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", [tfi, tfipc])
def test_a_noise_free_map_keeps_its_amplitude(method, nrmse):
    field, scan, chi = head()
    found = method(
        field, scan=scan, regularisation=1e-5, smoothing=1e-5, padding=1.5, tolerance=0.01, n_iterations=20, rejection=False, cg_iterations=100,
        cg_tolerance=0.03,
    )  # fmt: skip
    error, slope = nrmse(found, chi * field.mask)
    assert slope == pytest.approx(1.0, abs=0.05)
    assert error < 15


def test_the_map_depends_on_the_phase_alone(tiny):
    settings = {"n_iterations": 3, "tolerance": 0.0, "r2star_per_s": 70.0}
    (one, scan), (half, half_scan) = case(tiny, scale=3.0), case(tiny, scale=6.0, b0_tesla=3.5)
    expected = tfi(one, scan=scan, regularisation=ALPHA, smoothing=EPS, **settings).chi_ppm
    torch.testing.assert_close(tfi(half, scan=half_scan, regularisation=2 * ALPHA, smoothing=2 * EPS, **settings).chi_ppm, 2 * expected)


def test_b0_does_not_matter_to_weak_fields(tiny):
    settings = {"regularisation": 1e-3 * ALPHA, "smoothing": 1e-3 * EPS, "n_iterations": 3, "tolerance": 0.0, "cg_tolerance": 1e-6}
    scan = case(tiny)[1]
    at_7, at_3 = (tfi(tiny(scale=1e-3, b0_tesla=b), scan=scan, **settings).chi_ppm for b in (7.0, 3.0))
    torch.testing.assert_close(at_3, at_7, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("method", [tfi, tfipc])
def test_zero_field_mean_and_mask(method):
    field, scan, _ = head()
    empty = replace(field, field_ppm=torch.zeros_like(field.field_ppm))
    silent = Scan(scan.geometry, scan.echo_times_s, scan.magnitude, torch.zeros_like(scan.phase_rad), scan.mask)
    assert float(method(empty, scan=silent).chi_ppm.abs().max()) == 0
    found = method(field, scan=scan, n_iterations=2)
    assert float(found.chi_ppm[~field.mask].abs().max()) == 0
    assert found.chi_ppm.dtype == torch.float32


def test_the_mean_stays_at_rounding_level(tiny):
    field, scan = case(tiny)
    assert abs(float(tfi(field, scan=scan, padding=None).chi_ppm.mean())) < 1e-15


def test_any_expected_strength_may_be_given(tiny):
    field, scan = case(tiny)
    rest = EXACT | {"edge_share": 0.0, "weighting": "noise", "scan": scan, "on_step": None}
    ones = preconditioned(field, torch.ones_like(field.field_ppm), **rest).chi_ppm
    torch.testing.assert_close(ones, medi(field, **EXACT).chi_ppm, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        (tfi, "strength", 0.0), (tfi, "r2star_per_s", -1.0), (tfipc, "largest_strength", 0.5), (tfipc, "threshold", 0.0),
        *((m, n, v) for m in (tfi, tfipc) for n, v in (
            ("regularisation", 0.0), ("echo_time_s", float("inf")), ("smoothing", -1e-3), ("edge_share", 1.0), ("n_iterations", 0),
            ("tolerance", 1.0), ("weighting", "magnitude"), ("padding", 9.0),
        )),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(method, name: str, value: object):
    field, scan, _ = head()
    with pytest.raises(InputError, match=name):
        method(field, scan=scan, **{name: value})


@pytest.mark.parametrize("method", [tfi, tfipc])
def test_total_fields_and_missing_scans_are_refused(method):
    field, scan, _ = head()
    with pytest.raises(InputError, match="Remove the background field first"):
        method(replace(field, kind="total"), scan=scan)
    with pytest.raises(InputError, match="no scan was given"):
        method(field)
    with pytest.raises(InputError, match="one grid"):
        method(field, scan=head((18, 17, 14))[1])
