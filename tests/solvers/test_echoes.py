"""The data terms of a field, voxel by voxel."""

import itertools
import math

import pytest
import torch
from scipy.optimize import minimize
from tiny_scans import ECHO_TIMES_S, scan_of

from qsmdl.errors import InputError
from qsmdl.scan import Geometry, Scan
from qsmdl.solvers.echoes import EchoMisfit, FieldMisfit, fit_decay
from qsmdl.solvers.problem import Problem


@pytest.fixture
def problem(tiny) -> Problem:
    return Problem.of(tiny(), padding=None)


def random_field(problem: Problem, scale: float = 0.05) -> torch.Tensor:
    return problem.measured + scale * torch.randn(problem.measured.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def check_slope(misfit, z: torch.Tensor) -> None:
    """Against central differences of the value, voxel by voxel."""
    for voxel in (0, 7, 31):
        step = torch.zeros_like(z)
        step[voxel] = 1e-5
        expected = (misfit.value(z + step) - misfit.value(z - step)) / 2e-5
        assert float(misfit.slope(z)[voxel]) == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_the_field_misfit_is_that_of_complex_signals(problem):
    misfit, z = FieldMisfit.of(problem, 0.004), random_field(problem)
    c = problem.radians(0.004)
    signals = torch.polar(misfit.weight, c * z) - torch.polar(misfit.weight, c * problem.measured)
    assert misfit.value(z) == pytest.approx(float(signals.abs().square().sum() / (2 * c**2)))
    check_slope(misfit, z)
    near = random_field(problem, 1e-6)
    assert misfit.value(near) == pytest.approx(0.5 * float((misfit.weight * (near - problem.measured)).square().sum()))
    torch.testing.assert_close(misfit.slope(near), misfit.curvature() * (near - problem.measured), rtol=1e-6, atol=0)


def test_a_misfit_beyond_half_a_turn_does_not_wrap(problem):
    misfit = FieldMisfit.of(problem, 0.004)
    turn = 2 * math.pi / problem.radians(0.004)
    far = problem.measured + 0.75 * turn
    assert float(misfit.slope(far).abs().max()) < 1e-15
    assert misfit.value(problem.measured + turn) == pytest.approx(misfit.value(problem.measured + turn / 2))


def test_rejection_turns_outliers_down(problem):
    misfit = FieldMisfit.of(problem, 0.004, rejection=True)
    z = random_field(problem, 1e-4)
    z[11] += 0.2
    revised = misfit.revised(z)
    ratio = revised.weight / misfit.weight
    assert float(ratio[11]) < 0.7
    others = torch.cat([ratio[:11], ratio[12:]])
    torch.testing.assert_close(others, others[:1].expand_as(others))
    assert float(revised.weight.mean()) == pytest.approx(float(misfit.weight.mean()))
    assert FieldMisfit.of(problem, 0.004).revised(z).weight is not revised.weight
    torch.testing.assert_close(FieldMisfit.of(problem, 0.004).revised(z).weight, misfit.weight)


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("free_offset", [False, True])
def test_the_echo_misfit_is_that_of_all_signals(problem, refit: bool, free_offset: bool):
    scan = scan_of(problem.grid.field, offset_rad=0.7 if free_offset else 0.0)
    misfit = EchoMisfit.of(scan, problem, unwrapped=False, refit=refit, free_offset=free_offset)
    z = random_field(problem, 0.01)
    misfit = misfit.revised(z)
    c = torch.tensor([problem.radians(te) for te in ECHO_TIMES_S], dtype=torch.float64)[:, None]
    measured = torch.polar(scan.magnitude, scan.phase_rad).flatten(1)
    scale = float(((c * measured.abs()).square().sum(0)).sqrt().mean())
    modelled = torch.polar(misfit.modelled * scale, c * z + misfit.offset_rad)
    assert misfit.value(z) == pytest.approx(0.5 * float((modelled - measured).abs().square().sum()) / scale**2)
    torch.testing.assert_close(misfit.curvature(), (c * misfit.modelled).square().sum(0))
    check_slope(misfit, z)
    if not refit:
        torch.testing.assert_close(misfit.modelled * scale, measured.abs())
    assert bool((misfit.offset_rad != 0).all()) == free_offset


def test_echoes_have_the_scale_of_the_field_map(problem):
    """Where only noise-free echoes are seen, the curvature is that of a weight of mean 1, and the minimum lies at the field."""
    misfit = EchoMisfit.of(scan_of(problem.grid.field, noise=0.0), problem)
    assert float(misfit.curvature().sqrt().mean()) == pytest.approx(1)
    assert misfit.value(problem.measured) == pytest.approx(0, abs=1e-20)
    assert float(misfit.slope(problem.measured).abs().max()) < 1e-14


def test_unwrapped_echoes_let_the_shorter_ones_lead(problem):
    """At 0.15 ppm from the field the echo of 20 ms is nearly a turn away: unwrapped it does not pull, wrapped it may pull the wrong way."""
    scan = scan_of(problem.grid.field, noise=0.0)
    away = problem.measured + 0.15
    assert bool((EchoMisfit.of(scan, problem).slope(away) > 0).all())
    assert bool((EchoMisfit.of(scan, problem, unwrapped=False).slope(away) < 0).any())


def test_refits_lower_the_misfit_to_its_least(problem):
    scan = scan_of(problem.grid.field, noise=0.1, offset_rad=-0.4)
    z = random_field(problem, 0.003)
    misfit = EchoMisfit.of(scan, problem, unwrapped=False, refit=True, free_offset=True)
    values = [misfit.value(z)]
    for _ in range(40):
        misfit = misfit.revised(z)
        values.append(misfit.value(z))
    assert all(later <= earlier + 1e-15 for earlier, later in itertools.pairwise(values))
    assert values[-1] < 0.9 * values[0]
    times = torch.tensor(ECHO_TIMES_S, dtype=torch.float64)
    turned = torch.stack([torch.polar(m, p - c * z) for m, p, c in zip(misfit.magnitude, misfit.phase_rad, misfit.rad_per_ppm, strict=True)])
    for voxel in (3, 20, 44):
        signal = turned[:, voxel]

        def cost(p, signal=signal) -> float:
            return float((p[0] * torch.exp(-p[1] * 30 * times) * complex(math.cos(p[2]), math.sin(p[2])) - signal).abs().square().sum())

        guess = (float(signal.abs().max()), 1.0, float(signal[0].angle()))
        best = min(minimize(cost, (*guess[:2], guess[2] + d), method="Nelder-Mead", tol=1e-14).fun for d in (0, 0.5))
        model = misfit.modelled[:, voxel] * torch.exp(1j * misfit.offset_rad[voxel])
        assert float((model - signal).abs().square().sum()) <= best * (1 + 1e-3) + 1e-12


def test_decays_are_fitted_and_never_get_worse():
    generator = torch.Generator().manual_seed(3)
    times = torch.tensor(ECHO_TIMES_S, dtype=torch.float64)[:, None]
    rate, level = 80 * torch.rand(50, generator=generator, dtype=torch.float64), torch.rand(50, generator=generator, dtype=torch.float64) + 0.5
    exact = level * torch.exp(-rate * times)
    torch.testing.assert_close(fit_decay(exact, exact, ECHO_TIMES_S), exact)
    signal = exact + 0.1 * torch.randn(exact.shape, generator=generator, dtype=torch.float64)
    fits = [fit_decay(signal, exact, ECHO_TIMES_S, n_steps=n) for n in (0, 1, 3, 30)]
    costs = [(fit - signal).square().sum(0) for fit in fits]
    assert all(bool((later <= earlier + 1e-15).all()) for earlier, later in itertools.pairwise(costs))
    rates = torch.arange(0.0, 1000.0, 0.5, dtype=torch.float64)
    decay = torch.exp(-rates * times)
    levels = (signal.T @ decay / decay.square().sum(0)).clamp(min=0)
    searched = (levels[None] * decay[:, None] - signal[:, :, None]).square().sum(0).min(1).values
    assert float((costs[-1] - searched).max()) < 1e-4


def test_echoes_that_do_not_belong_to_the_field_are_refused(problem):
    field = problem.grid.field
    with pytest.raises(InputError, match="do not follow its field map"):
        EchoMisfit.of(scan_of(field, offset_rad=2.0), problem)
    EchoMisfit.of(scan_of(field, offset_rad=2.0), problem, free_offset=True)
    scan = scan_of(field)
    other = Geometry((5, 3, 3))
    smaller = Scan(other, scan.echo_times_s, scan.magnitude[..., :3], scan.phase_rad[..., :3], scan.mask[..., :3])
    with pytest.raises(InputError, match="one grid"):
        EchoMisfit.of(smaller, problem)
