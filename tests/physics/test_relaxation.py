import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.physics.relaxation import MAX_R2STAR_PER_S, combined_magnitude, fit_r2star
from qsmdl.scan import Geometry, Scan

TIMES = (0.004, 0.012, 0.020, 0.028)


def decaying(rate: torch.Tensor, start: torch.Tensor, noise: float = 0.0, times: tuple[float, ...] = TIMES) -> Scan:
    """A scan whose magnitudes fall by exp(-R2* TE), on the grid of `rate`; the first plane lies outside the mask."""
    generator = torch.Generator().manual_seed(0)
    magnitude = torch.stack([start * torch.exp(-te * rate) for te in times])
    magnitude = (magnitude + noise * torch.randn(magnitude.shape, generator=generator, dtype=magnitude.dtype)).abs()
    mask = torch.ones(rate.shape, dtype=torch.bool)
    mask[0] = False
    return Scan(Geometry(tuple(rate.shape), (1.0, 1.2, 0.8)), times, magnitude, torch.zeros_like(magnitude), mask)


def maps(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return 5 + 100 * torch.rand((6, 5, 7), generator=generator, dtype=dtype), 0.5 + torch.rand((6, 5, 7), generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_exponential_decay_is_recovered_inside_the_mask(dtype: torch.dtype):
    rate, start = maps(dtype)
    scan = decaying(rate, start)
    found_rate, found_start = fit_r2star(scan)
    torch.testing.assert_close(found_rate, rate * scan.mask, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found_start, start * scan.mask)
    assert found_rate.dtype == found_start.dtype == dtype


def test_the_unit_of_the_magnitude_does_not_matter():
    rate, start = maps()
    torch.testing.assert_close(fit_r2star(decaying(rate, 3000 * start))[0], fit_r2star(decaying(rate, start))[0])


def test_weights_by_the_square_keep_the_noise_of_late_echoes_out():
    """At 150 / s the last echo is down to 1.5 %; an unweighted line follows its Rician floor."""
    rate, start = torch.full((20, 15, 16), 150.0, dtype=torch.float64), torch.ones((20, 15, 16), dtype=torch.float64)
    scan = decaying(rate, start, noise=0.02)
    found = fit_r2star(scan)[0][scan.mask]
    times = torch.tensor(TIMES, dtype=torch.float64)
    logarithm = scan.magnitude[:, scan.mask].log()
    unweighted = -((times - times.mean())[:, None] * logarithm).sum(0) / (times - times.mean()).square().sum()
    assert float((found - 150).square().mean()) < 0.5 * float((unweighted - 150).square().mean())
    assert float(found.median()) == pytest.approx(150, rel=0.06)


def test_rates_stay_between_0_and_the_limit():
    rate, start = maps()
    assert float(fit_r2star(decaying(-rate, start))[0].abs().max()) == 0
    fast = fit_r2star(decaying(rate * 0 + 5000, start))[0]
    assert float(fast.max()) <= MAX_R2STAR_PER_S


def test_voxels_without_signal_get_0():
    rate, start = maps()
    start[2, 1, 3] = 0
    found = fit_r2star(decaying(rate, start))
    assert [float(v[2, 1, 3]) for v in found] == [0, 0]
    assert bool(torch.isfinite(found[0]).all())


def test_one_echo_has_no_rate():
    rate, start = maps()
    with pytest.raises(InputError, match="at least two"):
        fit_r2star(decaying(rate, start, times=(0.004,)))


def test_the_combined_magnitude_is_the_root_of_the_sum_of_squares():
    rate, start = maps()
    scan = decaying(rate, start)
    expected = scan.magnitude.square().sum(0).sqrt() * scan.mask
    torch.testing.assert_close(combined_magnitude(scan), expected)
    assert float(combined_magnitude(scan)[0].abs().max()) == 0
