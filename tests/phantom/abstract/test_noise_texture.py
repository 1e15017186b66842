"""Texture: its spectrum, its amplitude, how far the maps share it, and texture on top of another sample."""

import json
import math
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.phantom.abstract.noise_texture import (
    AddedTextureRanges,
    TextureFieldParams,
    TextureNoiseParams,
    TextureNoiseRanges,
    add_texture,
    draw_added_texture,
    draw_noise_texture,
    power_law_noise,
    render_noise_texture,
    texture_fields,
)
from qsmdl.phantom.abstract.outline import OutlineParams
from qsmdl.phantom.drawing.sampling import Lattice, grid_axes, seeded
from qsmdl.scan import LABELS, Geometry, Phantom

VIEW = (60.0, 63.0, 64.0)
GRID = Geometry((30, 28, 32), (2.0, 2.25, 2.0))
MAPS = ("r2star_per_s", "r1_per_s", "m0")


def fields_of(**settings: object) -> TextureFieldParams:
    base = TextureFieldParams(5, VIEW, 2.0, 0.02, (0.5, -0.7, 0.3), (0.2, 0.1, 0.1), spacing_mm=2.0)
    return replace(base, **settings)  # type: ignore[arg-type]


def drawn(seed: int, **settings: object) -> TextureNoiseParams:
    return draw_noise_texture(TextureNoiseRanges(spacing_mm=2.0, **settings), np.random.default_rng(seed), VIEW)  # type: ignore[arg-type]


@cache
def rendered(seed: int = 0) -> Phantom:
    return render_noise_texture(drawn(seed), GRID)


def shell_slope(volume: torch.Tensor, spacing_mm: tuple[float, float, float], low: float, high: float) -> float:
    """Slope of log power density over log |k| between two frequencies, from the mean in shells of the discrete Fourier transform."""
    power = torch.fft.fftn(volume - volume.mean()).abs().square()
    k = torch.stack(torch.meshgrid(*(torch.fft.fftfreq(n, v) for n, v in zip(volume.shape, spacing_mm, strict=True)), indexing="ij")).norm(dim=0)
    edges = np.geomspace(low, high, 9)
    shells = [(k >= a) & (k < b) for a, b in pairwise(edges)]
    points = [(math.log(float(k[s].mean())), math.log(float(power[s].mean()))) for s in shells]
    return float(np.polyfit(*np.array(points).T, 1)[0])


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0, 4.5])
def test_the_power_density_falls_with_the_exponent(exponent: float) -> None:
    lattice = Lattice((72, 80, 75), 1.3)
    noise = power_law_noise(lattice, seeded(1, 2), exponent)
    assert shell_slope(noise, (1.3,) * 3, 0.03, 0.29) == pytest.approx(-exponent, abs=0.12)
    assert float(noise.std()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("exponent", [1.0, 3.0])
def test_a_rendered_texture_has_the_same_spectrum(exponent: float) -> None:
    """On an anisotropic grid, below the frequencies that interpolation weakens; the whole grid, as a mask's edge would leak."""
    geometry = Geometry((48, 56, 42), (1.25, 1.125, 1.5))
    chi = texture_fields(fields_of(exponent=exponent, field_of_view_mm=geometry.field_of_view_mm, spacing_mm=1.5), grid_axes(geometry))[0]
    # A Hann window keeps the jump from one face to the other out of the spectrum.
    for axis, n in enumerate(chi.shape):
        chi = chi * torch.hann_window(n).reshape([-1 if a == axis else 1 for a in range(3)])
    assert shell_slope(chi, geometry.voxel_size_mm, 0.05, 0.18) == pytest.approx(-exponent, abs=0.3)


def test_a_profile_along_a_line_is_two_powers_flatter() -> None:
    lattice = Lattice((96, 96, 96), 1.0)
    noise = power_law_noise(lattice, seeded(3, 2), 4.0)
    power = torch.fft.rfft(noise, dim=0).abs().square().mean((1, 2))[3:18]
    k = torch.arange(3, 18, dtype=torch.float32)
    assert float(np.polyfit(k.log().numpy(), power.log().numpy(), 1)[0]) == pytest.approx(-2, abs=0.4)


def test_chi_has_its_amplitude_and_is_zero_outside() -> None:
    for exponent, low in ((1.0, 0.85), (3.0, 0.8)):
        params = drawn(0, exponent=(exponent, exponent))
        phantom = render_noise_texture(params, GRID)
        ratio = float(phantom.chi_ppm[phantom.mask].std()) / params.fields.amplitude_ppm
        assert low < ratio < 1.15
        assert float(phantom.chi_ppm[~phantom.mask].abs().max()) == 0
        assert float(phantom.chi_ppm.abs().max()) <= 3 * params.fields.amplitude_ppm + 1e-6
    assert phantom.labels[phantom.mask].unique().tolist() == [LABELS["white_matter"]]
    assert phantom.labels[~phantom.mask].unique().tolist() == [LABELS["csf"]]


def test_maps_share_as_much_with_chi_as_drawn() -> None:
    geometry = Geometry((40, 42, 44), (1.5, 1.5, 1.5))
    params = fields_of(exponent=1.0, correlation=(0.2, -0.8, 0.5), spacing_mm=1.5)
    chi, *others = texture_fields(params, grid_axes(geometry))
    for field, expected in zip(others, params.correlation, strict=True):
        assert float(torch.corrcoef(torch.stack((chi.flatten(), field.flatten())))[0, 1]) == pytest.approx(expected, abs=0.05)
        assert float(field.std()) == pytest.approx(0.9, abs=0.12)
    # What R2* and R1 do not share with chi, they do not share with each other.
    first, second = (field - c * chi for field, c in zip(others[:2], params.correlation[:2], strict=True))
    assert abs(float(torch.corrcoef(torch.stack((first.flatten(), second.flatten())))[0, 1])) < 0.05


def test_rates_have_their_means_and_spreads_and_stay_positive() -> None:
    params = drawn(3, rate_spread=(0.3, 0.3), exponent=(1.0, 1.0))
    phantom = render_noise_texture(params, GRID)
    for name in MAPS:
        values = getattr(phantom, name)
        assert float(values.mean()) == pytest.approx(getattr(params, name), rel=0.03)
        assert float(values.std() / values.mean()) == pytest.approx(0.3, abs=0.06)
        assert float(values.min()) > 0


def test_what_is_drawn_fills_its_ranges() -> None:
    ranges = TextureNoiseRanges()
    params = [drawn(seed) for seed in range(150)]
    for name in ("exponent", "amplitude_ppm", *MAPS):
        values, (low, high) = [getattr(p.fields if name in ("exponent", "amplitude_ppm") else p, name) for p in params], getattr(ranges, name)
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    correlations = np.array([p.fields.correlation for p in params])
    assert 0.2 <= np.abs(correlations).min() < 0.22
    assert 0.78 < np.abs(correlations).max() <= 0.8
    assert np.mean(correlations > 0) == pytest.approx(0.5, abs=0.1)
    # log-uniform
    assert np.median([p.fields.amplitude_ppm for p in params]) == pytest.approx(math.sqrt(0.005 * 0.05), rel=0.2)


def test_same_seed_same_bits_and_parameters_survive_json() -> None:
    params = drawn(0)
    assert params == drawn(0)
    assert params != drawn(1)
    again = TextureNoiseParams.from_dict(json.loads(json.dumps(params.as_dict())))
    assert again == params
    phantom = render_noise_texture(again, GRID)
    for name in ("chi_ppm", *MAPS):
        assert torch.equal(getattr(phantom, name), getattr(rendered(), name))
    assert not torch.equal(phantom.chi_ppm, rendered(1).chi_ppm)


def test_a_finer_grid_shows_the_same_texture() -> None:
    fine = render_noise_texture(drawn(0), Geometry((60, 56, 64), (1.0, 1.125, 1.0)))
    every = (slice(None, None, 2),) * 3
    assert torch.equal(fine.mask[every], rendered().mask)
    assert torch.allclose(fine.chi_ppm[every], rendered().chi_ppm, atol=1e-6)
    assert torch.allclose(fine.m0[every], rendered().m0, atol=1e-5)


def plain_phantom() -> Phantom:
    mask = torch.zeros(GRID.shape, dtype=torch.bool)
    mask[5:25, 4:24, 6:28] = True
    ones = torch.ones(GRID.shape)
    return Phantom(GRID, 0.05 * ones * mask, 0.8 * ones, ones, 30 * ones, mask.to(torch.uint8), mask, {"seed": 3})


def test_added_texture_lies_on_top_inside_the_mask_only() -> None:
    before, params = plain_phantom(), fields_of(amplitude_ppm=0.01)
    after = add_texture(before, params)
    chi, r2star, *_ = texture_fields(params, grid_axes(GRID))
    inside = before.mask
    assert torch.allclose((after.chi_ppm - before.chi_ppm)[inside], 0.01 * chi[inside], atol=1e-6)
    assert torch.allclose(after.r2star_per_s[inside], 30 * (1 + 0.2 * r2star[inside]), rtol=1e-5)
    for name in ("chi_ppm", *MAPS):
        assert torch.equal(getattr(after, name)[~inside], getattr(before, name)[~inside])
    assert after.params["seed"] == 3
    assert TextureFieldParams(**after.params["added_texture"]) == params
    assert add_texture(before, None) is before


def test_added_texture_is_off_by_default_and_drawn_as_strong_as_asked() -> None:
    assert all(draw_added_texture(AddedTextureRanges(), np.random.default_rng(s), VIEW) is None for s in range(20))
    ranges = AddedTextureRanges(probability=0.5, strength=(0.3, 1.0), amplitude_ppm=(0.02, 0.02))
    lots = [draw_added_texture(ranges, np.random.default_rng(s), VIEW) for s in range(200)]
    drawn_ones = [p for p in lots if p is not None]
    assert len(drawn_ones) == pytest.approx(100, abs=25)
    amplitudes = [p.amplitude_ppm for p in drawn_ones]
    assert 0.006 <= min(amplitudes) < 0.007
    assert 0.019 < max(amplitudes) <= 0.02


@pytest.mark.parametrize("kind", [TextureNoiseRanges, AddedTextureRanges])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"exponent": (3, 1)}, "exponent is"),
        ({"exponent": (-1, 1)}, "exponent is"),
        ({"amplitude_ppm": (0, 0.1)}, "amplitude_ppm is"),
        ({"correlation": (0.2, 1.5)}, "correlation is"),
        ({"rate_spread": (0.1, 0.5)}, "rate_spread is"),
        ({"spacing_mm": 0.1}, "spacing_mm is 0.1"),
    ],
)
def test_bad_ranges_are_refused(kind: type, setting: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**setting)


def test_other_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="r2star_per_s is"):
        TextureNoiseRanges(r2star_per_s=(-3, 10))
    with pytest.raises(InputError, match="m0 is"):
        TextureNoiseRanges(m0=(0, 1))
    with pytest.raises(InputError, match="probability is 2"):
        AddedTextureRanges(probability=2)
    with pytest.raises(InputError, match="strength is"):
        AddedTextureRanges(strength=(-1, 1))
    with pytest.raises(InputError, match="must lie between -1 and 1"):
        fields_of(correlation=(0.1, 1.2, 0.3))
    with pytest.raises(InputError, match="rate_spread"):
        fields_of(rate_spread=(0.1, 0.5, 0.1))
    with pytest.raises(InputError, match="amplitude_ppm -1"):
        fields_of(amplitude_ppm=-1)
    with pytest.raises(InputError, match="must be at least 0"):
        TextureNoiseParams(fields_of(), OutlineParams(0, (9.0, 9.0, 9.0)), -1.0, 1.0, 1.0)
    with pytest.raises(InputError, match="field_of_view_mm is"):
        draw_noise_texture(TextureNoiseRanges(), np.random.default_rng(0), (10.0, -1.0, 10.0))
