"""The simulated scan: phase, noise, truth and the grid it lies on."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.phantom.anatomy.head import draw_head, render_head
from qsmdl.phantom.scanning.acquire import Acquisition, _field, acquire, make_truth, make_truths, scan_grid
from qsmdl.phantom.scanning.downsample import cell_average
from qsmdl.physics.box import mask_box
from qsmdl.physics.dipole import Dipole
from qsmdl.physics.fourier import crop_kspace
from qsmdl.physics.signal import add_noise, multi_echo_signal, steady_state
from qsmdl.scan import LABELS, Geometry, Phantom, Scan, Truth
from qsmdl.units import rad_per_ppm

OBLIQUE = (0.36, 0.48, 0.8)


@cache
def smooth_phantom() -> Phantom:
    """A smooth, weak source in a mask with room around it; tissue that does not vary, so that the crop changes the phase only."""
    geometry = Geometry((33, 40, 36), (1.2, 1.0, 1.1), OBLIQUE, 7.0)
    x, y, z = (torch.linspace(-1, 1, n) for n in geometry.shape)
    radius = (x[:, None, None] ** 2 + y[:, None] ** 2 + z**2).sqrt()
    mask = radius < 2
    ones = torch.ones(geometry.shape)
    chi = 0.02 * torch.exp(-((radius / 0.35) ** 2))
    labels = torch.full(geometry.shape, LABELS["white_matter"], dtype=torch.uint8)
    return Phantom(geometry, chi, ones, ones, 30 * ones, labels, mask)


@cache
def head() -> Phantom:
    return render_head(draw_head(2, contrast="sim2"), Geometry((60, 75, 73), (2.74, 2.74, 2.82)))


@cache
def scanned(peak_snr: float = 100.0, seed: int = 0) -> tuple[Scan, Truth]:
    return acquire(head(), Acquisition(peak_snr=peak_snr), torch.Generator().manual_seed(seed))


def _acquire(phantom: Phantom, acquisition: Acquisition) -> tuple[Scan, Truth]:
    return acquire(phantom, acquisition, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(33, 40, 36), (22, 27, 24)])
def test_noiseless_phase_is_that_of_the_field(shape: tuple[int, int, int]) -> None:
    phantom = smooth_phantom()
    scan, _ = _acquire(phantom, Acquisition(peak_snr=math.inf, shape=shape, echo_times_s=(0.003, 0.009), phase_offset_rad=0.4))
    field = crop_kspace(Dipole.of(phantom.geometry, 2.0)(phantom.chi_ppm), shape).real
    inner = (slice(3, -3),) * 3
    for echo, echo_time_s in enumerate(scan.echo_times_s):
        expected = rad_per_ppm(7.0, echo_time_s) * field + 0.4
        assert float((scan.phase_rad[echo] - expected)[inner].abs().max()) < 2e-3
    assert scan.frequency_ppm is not None
    assert float((scan.frequency_ppm - field)[inner].abs().max()) < 2e-4


def test_noise_has_the_stated_standard_deviation_in_every_echo() -> None:
    noisy, _ = scanned(100.0)
    clean, _ = scanned(math.inf)
    fine = head()
    first = steady_state(fine.m0, fine.r1_per_s, repetition_time_s=0.05, flip_angle_deg=15.0) * torch.exp(-0.004 * fine.r2star_per_s)
    sigma = float(first.max()) / 100
    for echo in range(4):
        difference = (torch.polar(noisy.magnitude, noisy.phase_rad) - torch.polar(clean.magnitude, clean.phase_rad))[echo][clean.mask]
        for part in (difference.real, difference.imag):
            assert float(part.std()) == pytest.approx(sigma, rel=0.03)


def test_white_matter_snr_is_that_of_the_challenge() -> None:
    """42 in the first echo and 16 in the last at a peak SNR of 100, as the challenge's data have; heads differ."""
    clean, truth = scanned(math.inf)
    noisy, _ = scanned(100.0)
    white = (truth.labels == LABELS["white_matter"]) & truth.mask
    noise = (noisy.magnitude - clean.magnitude)[0][white].std()
    assert 33 < float(clean.magnitude[0][white].mean() / noise) < 52
    assert 12 < float(clean.magnitude[3][white].mean() / noise) < 22


def test_same_generator_state_same_bits() -> None:
    again, truth = acquire(head(), Acquisition(), torch.Generator().manual_seed(0))
    scan, target = scanned(100.0)
    assert torch.equal(scan.magnitude, again.magnitude)
    assert torch.equal(scan.phase_rad, again.phase_rad)
    assert torch.equal(target.chi_ppm, truth.chi_ppm)
    other, _ = scanned(100.0, seed=5)
    assert not torch.equal(scan.magnitude, other.magnitude)


def test_the_scan_lies_on_the_coarser_grid_and_is_zero_far_outside() -> None:
    scan, truth = scanned()
    assert scan.geometry.shape == (38, 48, 47) == tuple(truth.chi_ppm.shape)
    assert scan.geometry.field_of_view_mm == pytest.approx(head().geometry.field_of_view_mm)
    near = torch.nn.functional.max_pool3d(scan.mask[None, None].float(), 5, 1, 2)[0, 0] > 0
    assert float(scan.magnitude[:, ~near].max()) == 0
    assert float(scan.phase_rad[:, ~near].abs().max()) == 0
    rim = near & ~scan.mask
    assert float((scan.magnitude[:, rim] > 0).float().mean()) > 0.99
    assert float(truth.chi_ppm[~truth.mask].abs().max()) == 0
    volume = float(scan.mask.sum()) / scan.mask.numel()
    assert volume == pytest.approx(float(head().mask.float().mean()), rel=0.02)


def test_the_truth_rings_less_than_the_crop() -> None:
    """Around a calcification the cropped truth swings to positive values that the tissue does not have."""
    phantom = smooth_phantom()
    chi = torch.zeros(phantom.geometry.shape)
    chi[12:21, 15:24, 13:22] = -2.5
    stone = replace(phantom, chi_ppm=chi)
    acquisition = Acquisition(peak_snr=math.inf, shape=(22, 27, 24))
    _, cropped = acquire(stone, acquisition, torch.Generator(), truth="crop")
    _, unrung = acquire(stone, acquisition, torch.Generator())
    assert float(unrung.chi_ppm.max()) < 0.6 * float(cropped.chi_ppm.max())
    assert float(unrung.chi_ppm.clamp_min(0).sum()) < 0.6 * float(cropped.chi_ppm.clamp_min(0).sum())


def test_the_cell_truth_is_the_mean_over_each_voxel() -> None:
    """Cells of two and three fine voxels around the coarse centres, which sit on fine voxels 0, 2, 4 ... and 0, 3, 6 ..."""
    fine = torch.randn((16, 15, 12), generator=torch.Generator().manual_seed(0))
    pairs = (0.5 * fine[1:-2:2] + fine[2:-1:2] + 0.5 * fine[3::2]) / 2
    expected = (pairs[:, 2:-2:3] + pairs[:, 3:-1:3] + pairs[:, 4::3]) / 3
    assert torch.allclose(cell_average(fine, (8, 5, 12))[1:, 1:], expected, atol=1e-6)


def test_truths_of_several_kinds_are_those_of_each() -> None:
    phantom, acquisition = head(), Acquisition()
    geometry, mask = scan_grid(phantom, acquisition)
    together = make_truths(phantom, geometry, mask, ("unrung", "crop", "cell"))
    for kind, truth in together.items():
        alone = make_truth(phantom, geometry, mask, kind)
        assert torch.equal(alone.chi_ppm, truth.chi_ppm)
        assert torch.equal(alone.labels, truth.labels)
        _, scanned_truth = acquire(phantom, acquisition, torch.Generator().manual_seed(0), truth=kind)
        assert torch.equal(scanned_truth.chi_ppm, truth.chi_ppm)
    # means of neighbours stay within the range of what they average; the crop overshoots
    assert float(together["cell"].chi_ppm.min()) >= float(phantom.chi_ppm.min())
    assert not torch.allclose(together["cell"].chi_ppm, together["crop"].chi_ppm, atol=1e-3)


def test_vessels_survive_the_coarser_grid() -> None:
    _, truth = scanned()
    blood = (truth.labels == LABELS["blood"]) & truth.mask
    fine = (head().labels == LABELS["blood"]) & head().mask
    share, fine_share = float(blood.sum() / truth.mask.sum()), float(fine.sum() / head().mask.sum())
    assert 0.5 * fine_share < share < 2 * fine_share
    assert float(truth.chi_ppm[blood].median()) > 0.03


def test_dephasing_comes_from_the_crop() -> None:
    """Without a field the echoes decay as R2* alone; next to a strong source they lose more, but only where voxels grow."""
    acquisition = Acquisition(peak_snr=math.inf, shape=(22, 27, 24))
    calm = replace(smooth_phantom(), chi_ppm=torch.zeros(33, 40, 36))
    chi = torch.zeros(33, 40, 36)
    chi[15:18, 18:21, 16:19] = -2.5
    strong = replace(calm, chi_ppm=chi)
    inner, beside = (slice(3, -3),) * 3, (slice(9, 13), slice(11, 15), slice(10, 14))
    expected = math.exp(-0.024 * 30)
    magnitude = _acquire(calm, acquisition)[0].magnitude
    assert float((magnitude[3] / magnitude[0] - expected)[inner].abs().max()) < 1e-3
    magnitude = _acquire(strong, acquisition)[0].magnitude
    assert float(magnitude[3][beside].mean() / magnitude[0][beside].mean()) < 0.8 * expected
    uncropped = _acquire(strong, replace(acquisition, shape=(33, 40, 36)))[0].magnitude
    assert float((uncropped[3] / uncropped[0] - expected)[inner].abs().max()) < 1e-3


def test_one_echo_gives_a_scan_without_frequency() -> None:
    scan, _ = _acquire(smooth_phantom(), Acquisition(echo_times_s=(0.01,), shape=(20, 20, 20)))
    assert scan.frequency_ppm is None
    assert scan.magnitude.shape == (1, 20, 20, 20)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"echo_times_s": (4, 12)}, "given in ms"),
        ({"echo_times_s": (0.012, 0.004)}, "must ascend"),
        ({"echo_times_s": ()}, "echo_times_s is"),
        ({"peak_snr": -1}, "peak_snr is -1"),
        ({"repetition_time_s": 0.02}, "must exceed the last echo"),
        ({"flip_angle_deg": 0}, "flip_angle_deg is 0"),
        ({"factor": 0.5}, "factor 0.5 at least 1"),
        ({"phase_offset_rad": math.nan}, "must be finite"),
    ],
)
def test_bad_protocols_are_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Acquisition(**setting)  # type: ignore[arg-type]


def test_a_scan_finer_than_the_phantom_and_an_unknown_truth_are_refused() -> None:
    with pytest.raises(InputError, match="finer than the phantom"):
        _acquire(smooth_phantom(), Acquisition(shape=(34, 40, 36)))
    with pytest.raises(InputError, match="truth is 'sharp'"):
        make_truth(smooth_phantom(), smooth_phantom().geometry, smooth_phantom().mask, "sharp")  # type: ignore[arg-type]


def _naive(phantom: Phantom, acquisition: Acquisition, shape: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
    """The noisy echoes from whole volumes at once, without boxes and buffers."""
    box = mask_box(phantom.mask)
    field = torch.zeros(phantom.geometry.shape)
    field[box] = _field(phantom, box, acquisition.field_padding)
    protocol = {"repetition_time_s": acquisition.repetition_time_s, "flip_angle_deg": acquisition.flip_angle_deg}
    whole = multi_echo_signal(
        field, phantom.m0, phantom.r1_per_s, phantom.r2star_per_s, echo_times_s=acquisition.echo_times_s, b0_tesla=7.0, **protocol
    )
    cropped = torch.stack([crop_kspace(echo * phantom.mask, shape) for echo in whole])
    sigma = float(whole[0].abs().max()) / acquisition.peak_snr
    return add_noise(cropped, sigma, generator)


def test_without_effects_the_scan_is_the_plain_one() -> None:
    shape = (38, 48, 47)
    expected = _naive(head(), Acquisition(shape=shape), shape, torch.Generator().manual_seed(0))
    scan, _ = acquire(head(), Acquisition(shape=shape), torch.Generator().manual_seed(0), truth="crop")
    support = scan.magnitude[0] > 0
    measured = torch.polar(scan.magnitude, scan.phase_rad)
    assert float((measured - expected)[:, support].abs().max()) < 2e-6 * float(expected.abs().max())


def test_what_outshines_the_brain_unseen_sets_the_noise() -> None:
    """A phantom without its scalp is as noisy as with it."""
    phantom = smooth_phantom()
    bright = replace(phantom, brightest=(3.0, 2.8, 40.0))
    protocol = {"repetition_time_s": 0.05, "flip_angle_deg": 15.0}
    fat = steady_state(torch.tensor(3.0), torch.tensor(2.8), **protocol) * math.exp(-0.004 * 40)
    tissue = steady_state(torch.tensor(1.0), torch.tensor(1.0), **protocol) * math.exp(-0.004 * 30)
    quiet, plain, loud = (_acquire(p, Acquisition(peak_snr=snr)) for p, snr in ((phantom, math.inf), (phantom, 50.0), (bright, 50.0)))
    noise = [float((s.magnitude - quiet[0].magnitude)[0][s.mask].std()) for s, _ in (plain, loud)]
    assert noise[1] / noise[0] == pytest.approx(float(fat / tissue), rel=0.02)


def test_a_phantom_without_sources_has_a_truth_of_0() -> None:
    empty = replace(smooth_phantom(), chi_ppm=torch.zeros(33, 40, 36))
    assert float(_acquire(empty, Acquisition(shape=(22, 27, 24)))[1].chi_ppm.abs().max()) == 0


def test_a_scan_can_do_without_the_frequency() -> None:
    scan, _ = acquire(smooth_phantom(), Acquisition(), torch.Generator().manual_seed(1), complete=False)
    assert scan.frequency_ppm is None
    assert torch.equal(scan.phase_rad, _acquire(smooth_phantom(), Acquisition())[0].phase_rad)
