"""Drawn protocols: inside their ranges, covering them, consistent, and physical relaxation at every field strength."""

import itertools
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.phantom.scanning.acquire import Acquisition, acquire
from qsmdl.phantom.scanning.protocol import DEAD_TIME_S, ProtocolParams, ProtocolRanges, draw_protocol
from qsmdl.phantom.tissue.field_strength import at_field_strength, r1_factor, r2star_factor
from qsmdl.scan import LABELS, Geometry, Phantom

WIDE = ProtocolRanges(
    b0_tesla=(1.5, 7.0),
    n_echoes=(1, 8),
    first_echo_s=(0.002, 0.008),
    last_echo_s=(0.018, 0.045),
    echo_spacing_s=(0.0015, 0.03),
    repetition_time_s=(0.025, 0.06),
    flip_angle_deg=(8.0, 25.0),
    voxel_size_mm=(0.5, 2.0),
    anisotropy_probability=0.4,
    anisotropy=(1.2, 3.0),
    tilt_probability=0.5,
)


def draws(ranges: ProtocolRanges, n: int = 400) -> list[ProtocolParams]:
    return [draw_protocol(ranges, np.random.default_rng([7, i])) for i in range(n)]


def _covers(values: list[float], low: float, high: float) -> bool:
    margin = 0.1 * (high - low)
    return low - 1e-9 <= min(values) < low + margin and high - margin < max(values) <= high + 1e-9


def test_numbers_lie_in_their_ranges_and_cover_them() -> None:
    drawn = draws(WIDE)
    assert _covers([p.b0_tesla for p in drawn], 1.5, 7)
    assert _covers([p.flip_angle_deg for p in drawn], 8, 25)
    assert _covers([math.log(p.peak_snr) for p in drawn], math.log(30), math.log(1500))
    assert _covers([min(p.voxel_size_mm) for p in drawn], 0.5, 2)
    assert {len(p.echo_times_s) for p in drawn} == set(range(1, 9))
    several = [p.echo_times_s for p in drawn if len(p.echo_times_s) > 1]
    assert _covers([t[0] for t in several], 0.002, 0.008)
    assert _covers([t[-1] for t in several], 0.018, 0.045)


def test_every_draw_is_consistent() -> None:
    for p in draws(WIDE):
        gaps = [b - a for a, b in itertools.pairwise(p.echo_times_s)]
        assert all(0.0015 - 1e-9 <= gap <= 0.03 + 1e-9 for gap in gaps)
        assert max(gaps, default=0) - min(gaps, default=0) < 1e-9
        assert p.echo_times_s[-1] + DEAD_TIME_S <= p.repetition_time_s + 1e-9
        assert p.repetition_time_s <= 0.06
        assert math.hypot(*p.b0_direction) == pytest.approx(1)
        geometry = p.geometry((164.0, 205.0, 205.0))
        assert geometry.b0_tesla == p.b0_tesla
        assert all(abs(have - want) <= 4 for have, want in zip(geometry.field_of_view_mm, (164, 205, 205), strict=True))
        assert p.acquisition(geometry.shape).echo_times_s == p.echo_times_s


def test_voxels_are_longer_along_one_random_axis_in_a_share_of_the_draws() -> None:
    stretched: list[tuple[int, float]] = []
    for p in draws(WIDE):
        size = min(p.voxel_size_mm)
        longer = [(axis, v / size) for axis, v in enumerate(p.voxel_size_mm) if v > size]
        assert len(longer) <= 1
        stretched += longer
        assert max(p.voxel_size_mm) <= 4
    assert len(stretched) == pytest.approx(160, abs=30)
    assert {axis for axis, _ in stretched} == {0, 1, 2}
    assert _covers([factor for _, factor in stretched], 1.2, 3)


def test_b0_is_uniform_on_the_sphere_or_on_a_cap() -> None:
    sphere = [p.b0_direction for p in draws(ProtocolRanges(tilt_probability=1.0), 800)]
    mean, square = np.mean(sphere, axis=0), np.mean(np.square(sphere), axis=0)
    assert np.abs(mean).max() < 0.08
    assert np.abs(square - 1 / 3).max() < 0.05
    cap = [p.b0_direction[2] for p in draws(ProtocolRanges(tilt_probability=1.0, max_tilt_deg=30.0))]
    # Uniform on the cap: the cosine is uniform between cos 30 and 1.
    assert _covers(cap, math.cos(math.radians(30)), 1)
    assert np.mean(cap) == pytest.approx((math.cos(math.radians(30)) + 1) / 2, abs=0.005)
    half = [p.b0_direction == (0, 0, 1) for p in draws(WIDE)]
    assert np.mean(half) == pytest.approx(0.5, abs=0.08)


def test_field_strengths_can_be_chosen_from_a_list() -> None:
    drawn = [p.b0_tesla for p in draws(ProtocolRanges(b0_choices_tesla=[1.5, 3, 7]))]  # type: ignore[arg-type]
    assert set(drawn) == {1.5, 3.0, 7.0}
    assert 90 < drawn.count(3.0) < 180


def test_the_default_is_the_protocol_of_the_challenge() -> None:
    p, usual = draws(ProtocolRanges(), 1)[0], Acquisition()
    assert p.echo_times_s == pytest.approx(usual.echo_times_s)
    assert (p.repetition_time_s, p.flip_angle_deg, p.b0_tesla) == (usual.repetition_time_s, usual.flip_angle_deg, 7.0)
    assert p.voxel_size_mm == (1, 1, 1)
    assert p.b0_direction == (0, 0, 1)


def test_same_seed_same_protocol() -> None:
    first, again, other = (draw_protocol(WIDE, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first == again != other
    assert ProtocolParams(**asdict(first)) == first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"b0_tesla": (0.1, 3)}, "b0_tesla is"),
        ({"b0_choices_tesla": (3, 70)}, "b0_choices_tesla is"),
        ({"n_echoes": (1, 9)}, "n_echoes is"),
        ({"n_echoes": (1.5, 4)}, "whole numbers"),
        ({"first_echo_s": (4, 6)}, "first_echo_s is"),
        ({"first_echo_s": (0.02, 0.03)}, "last echo must come after the first"),
        ({"repetition_time_s": (0.02, 0.029)}, "repetition_time_s is .* but last_echo_s reaches 0.028"),
        ({"echo_spacing_s": (0.001, 0.005)}, "4 echoes from first_echo_s"),
        ({"n_echoes": (8, 8), "echo_spacing_s": (0.01, 0.05)}, "8 echoes from first_echo_s"),
        ({"flip_angle_deg": (0, 10)}, "flip_angle_deg is"),
        ({"peak_snr": (100, 10)}, "peak_snr is"),
        ({"voxel_size_mm": (0, 1)}, "voxel_size_mm is"),
        ({"anisotropy": (0.5, 2)}, "anisotropy is"),
        ({"anisotropy_probability": 2}, "anisotropy_probability is 2"),
        ({"anisotropy_probability": 0.5, "anisotropy": (2, 3), "longest_edge_mm": 1.5}, "longest_edge_mm is 1.5"),
        ({"tilt_probability": -1}, "tilt_probability is -1"),
        ({"max_tilt_deg": 0}, "max_tilt_deg is 0"),
    ],
)
def test_bad_and_contradictory_ranges_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ProtocolRanges(**settings)  # type: ignore[arg-type]


def test_r2star_follows_the_published_ones() -> None:
    """T2* in ms at 1.5, 3 and 7 T (Peters et al., Magn Reson Imaging 2007)."""
    for times in ((84.0, 66.0, 33.2), (66.2, 53.2, 26.8), (58.8, 41.3, 19.9), (55.5, 31.5, 16.1)):
        for b0_tesla, time in zip((1.5, 3.0, 7.0), times, strict=True):
            assert r2star_factor(b0_tesla) == pytest.approx(times[2] / time, abs=0.09)
    assert r2star_factor(5.0) - r2star_factor(3.0) == pytest.approx(r2star_factor(3.0) - r2star_factor(1.0))


def test_r1_follows_the_published_ones() -> None:
    """T1 in ms at 1.5, 3 and 7 T (Wright et al., MAGMA 2008)."""
    published = {"white_matter": (646, 838, 1126), "grey_matter": (1197, 1607, 1939), "putamen": (1084, 1332, 1644), "caudate": (1109, 1395, 1684)}
    for label, times in published.items():
        for b0_tesla, time in zip((1.5, 3.0, 7.0), times, strict=True):
            assert r1_factor(label, b0_tesla) == pytest.approx(times[2] / time, rel=0.09)
    assert r1_factor("csf", 1.5) == 1


def _slab(b0_tesla: float) -> Phantom:
    """White matter beside CSF."""
    geometry = Geometry((12, 14, 16), b0_tesla=b0_tesla)
    ones = torch.ones(geometry.shape)
    labels = torch.full(geometry.shape, LABELS["white_matter"], dtype=torch.uint8)
    labels[6:] = LABELS["csf"]
    return Phantom(geometry, 0 * ones, ones, 0.8 * ones, 40 * ones, labels, ones > 0)


def test_a_phantom_is_turned_into_one_of_its_own_field_strength() -> None:
    at_7, at_3 = _slab(7.0), at_field_strength(_slab(3.0))
    assert at_field_strength(at_7) is at_7
    assert float(at_3.r1_per_s[0, 0, 0]) == pytest.approx(0.8 * (7 / 3) ** 0.36)
    assert float(at_3.r1_per_s[-1, 0, 0]) == pytest.approx(0.8)
    assert torch.allclose(at_3.r2star_per_s, torch.full_like(at_3.r2star_per_s, 40 * r2star_factor(3.0)))
    assert torch.equal(at_3.chi_ppm, at_7.chi_ppm)


def test_rates_are_scaled_in_a_box_alone_where_one_is_named() -> None:
    phantom, box = _slab(3.0), (slice(2, 9), slice(0, 14), slice(3, 5))
    whole, part = at_field_strength(phantom), at_field_strength(phantom, box)
    for name in ("r1_per_s", "r2star_per_s"):
        expected = getattr(phantom, name).clone()
        expected[box] = getattr(whole, name)[box]
        assert torch.equal(getattr(part, name), expected)
    assert torch.equal(phantom.r2star_per_s, _slab(3.0).r2star_per_s)


@pytest.mark.parametrize("follows", [False, True])
def test_one_switch_scales_the_decay(follows: bool) -> None:
    acquisition = Acquisition(peak_snr=math.inf, shape=(12, 14, 16), echo_times_s=(0.005, 0.025), relaxation_follows_field=follows)
    scan, _ = acquire(_slab(3.0), acquisition, torch.Generator(), complete=False)
    rate = math.log(float(scan.magnitude[0, 3, 7, 8] / scan.magnitude[1, 3, 7, 8])) / 0.02
    assert rate == pytest.approx(40 * (r2star_factor(3.0) if follows else 1), rel=1e-3)


def test_field_strengths_far_off_are_refused() -> None:
    with pytest.raises(InputError, match="b0_tesla is 70"):
        r2star_factor(70)
