import math

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.physics.box import mask_box
from qsmdl.physics.unwrap import unwrap_spatial, unwrap_temporal

SHAPE = (25, 32, 21)


def wrap(phase: torch.Tensor) -> torch.Tensor:
    return torch.atan2(torch.sin(phase), torch.cos(phase))


def ball(shape: tuple[int, int, int] = SHAPE, radius: float = 0.95) -> torch.Tensor:
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    return sum(a**2 for a in axes).sqrt() < radius


def bump(height: float) -> torch.Tensor:
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    return height * torch.exp(-sum(a**2 for a in axes) / 0.3) - 1.0


def test_a_smooth_phase_of_several_turns_is_recovered_inside_the_mask_and_0_outside():
    mask, truth = ball(), bump(14.0)
    unwrapped = unwrap_spatial(wrap(truth), mask)
    assert float((wrap(truth) - truth)[mask].abs().max()) > 6
    torch.testing.assert_close(unwrapped[mask], truth[mask], atol=1e-5, rtol=0)
    assert float(unwrapped[~mask].abs().max()) == 0


def test_only_whole_turns_are_added_to_a_noisy_phase():
    mask = ball()
    wrapped = wrap(bump(14.0) + 0.4 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)))
    turns = ((unwrap_spatial(wrapped, mask) - wrapped) / (2 * math.pi))[mask]
    assert float((turns - turns.round()).abs().max()) < 1e-5
    assert float(turns.max() - turns.min()) >= 2


def test_a_phase_without_jumps_is_returned_as_it_is():
    mask, phase = ball(), bump(2.0)
    assert torch.equal(unwrap_spatial(phase, mask)[mask], phase[mask])


@pytest.mark.parametrize("turns", [-2, 1, 3])
def test_a_common_multiple_of_a_turn_is_taken_off(turns: int):
    mask, phase = ball(), bump(2.0)
    unwrapped = unwrap_spatial(phase + 2 * math.pi * turns, mask)
    torch.testing.assert_close(unwrapped[mask], phase[mask], atol=1e-5, rtol=0)


def test_every_part_of_the_mask_gets_its_own_multiple():
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[1:10, 2:29, 1:19], mask[13:22, 2:29, 1:19] = True, True
    truth = torch.linspace(0, 6, SHAPE[1])[None, :, None].expand(SHAPE) - 2.0
    unwrapped = unwrap_spatial(wrap(truth), mask)
    torch.testing.assert_close(unwrapped[mask], truth[mask], atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(9, 1, 12), (1, 1, 30)])
def test_planes_and_lines_are_unwrapped_too(shape: tuple[int, int, int]):
    truth = torch.linspace(-7, 7, shape[2]).expand(shape).clone()
    torch.testing.assert_close(unwrap_spatial(wrap(truth), torch.ones(shape, dtype=torch.bool)), truth, atol=1e-5, rtol=0)


def test_what_lies_outside_the_mask_does_not_matter():
    mask, truth = ball(), bump(14.0)
    dirty = torch.where(mask, wrap(truth), torch.nan)
    torch.testing.assert_close(unwrap_spatial(dirty, mask), unwrap_spatial(wrap(truth), mask))


def test_later_echoes_follow_the_slope_of_the_earlier_ones():
    slope = torch.linspace(-700, 700, 301).reshape(7, 43, 1)
    times = (0.004, 0.012, 0.020, 0.028)
    truth = torch.stack([slope * t for t in times])
    unwrapped = unwrap_temporal(torch.cat([truth[:1], wrap(truth[1:])]), times)
    assert float((truth - wrap(truth)).abs().max()) > 18
    torch.testing.assert_close(unwrapped, truth, atol=2e-5, rtol=0)


def test_an_echo_without_weight_does_not_lead_astray():
    times = (0.004, 0.012, 0.020)
    truth = torch.tensor([300.0 * t for t in times]).reshape(3, 1, 1, 1)
    wrapped = wrap(truth)
    wrapped[1] += 2.5
    weight = torch.tensor([1.0, 0.0, 1.0]).reshape(3, 1, 1, 1)
    torch.testing.assert_close(unwrap_temporal(wrapped, times, weight)[2], truth[2], atol=1e-5, rtol=0)
    assert float((unwrap_temporal(wrapped, times) - truth)[2].abs()) > 6
    assert bool(torch.isfinite(unwrap_temporal(wrapped, times, torch.zeros_like(weight))).all())


def test_the_box_of_a_mask():
    mask = torch.zeros(5, 7, 9, dtype=torch.bool)
    mask[1, 2, 3] = mask[3, 6, 3] = True
    assert mask_box(mask) == (slice(1, 4), slice(2, 7), slice(3, 4))
    with pytest.raises(InputError, match="mask is empty"):
        mask_box(torch.zeros(5, 7, 9, dtype=torch.bool))


def test_inputs_that_do_not_fit_are_refused():
    mask = ball()
    with pytest.raises(InputError, match="one echo at a time"):
        unwrap_spatial(torch.zeros(2, *SHAPE), mask)
    with pytest.raises(InputError, match="boolean"):
        unwrap_spatial(torch.zeros(SHAPE), mask.float())
    with pytest.raises(InputError, match="NaN"):
        unwrap_spatial(torch.full(SHAPE, torch.nan), mask)
    with pytest.raises(InputError, match="2 echoes"):
        unwrap_temporal(torch.zeros(2, 3, 3, 3), (0.004,))
    with pytest.raises(InputError, match="ascend"):
        unwrap_temporal(torch.zeros(2, 3, 3, 3), (0.012, 0.004))
    with pytest.raises(InputError, match="one weight per phase"):
        unwrap_temporal(torch.zeros(2, 3, 3, 3), (0.004, 0.012), torch.ones(3, 3, 3))


def test_nothing_but_the_phase_decides():
    """Voxels at the ends of the grid, too: scikit-image alone lets them depend on what its memory held before."""
    generator = torch.Generator().manual_seed(2)
    mask = torch.rand(16, 11, 14, generator=generator) < 0.6
    phase = 6 * torch.rand(mask.shape, generator=generator) - 3
    first = unwrap_spatial(phase, mask)
    for repeat in range(20):
        _ = [torch.rand(size * (repeat + 1)) for size in (50, 700, 9000)]  # what lies in memory that is given back
        assert torch.equal(unwrap_spatial(phase, mask), first)
