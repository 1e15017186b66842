"""All effects of one scan: drawn apart from each other, carried as plain numbers, and together as reproducible as alone."""

import dataclasses
import json
from functools import cache

import numpy as np
import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.phantom.scanning.acquire import Acquisition, acquire
from qsmdl.phantom.scanning.background import BackgroundRanges
from qsmdl.phantom.scanning.effects import EffectRanges, Effects, draw_effects
from qsmdl.phantom.scanning.masking import ErosionRanges, HoleRanges, LowSignalRanges
from qsmdl.phantom.scanning.offset import OffsetRanges
from qsmdl.phantom.scanning.phase_errors import DropoutRanges, FlowRanges, SlabRanges, WrapRanges
from qsmdl.scan import LABELS, Geometry, Phantom, Scan, Truth
from qsmdl.validation import from_settings

ALL = EffectRanges(
    OffsetRanges(1.0),
    BackgroundRanges(1.0),
    FlowRanges(1.0),
    DropoutRanges(1.0),
    SlabRanges(1.0),
    WrapRanges(1.0),
    ErosionRanges(1.0, (1.0, 2.0)),
    HoleRanges(1.0),
    LowSignalRanges(1.0),
)
NAMES = [f.name for f in dataclasses.fields(Effects)]


@cache
def phantom() -> Phantom:
    geometry = Geometry((33, 40, 36), (1.6, 1.5, 1.7), (0.36, 0.48, 0.8), 3.0)
    x, y, z = (torch.linspace(-1, 1, n) for n in geometry.shape)
    radius, ones = (x[:, None, None] ** 2 + y[:, None] ** 2 + z**2).sqrt(), torch.ones(geometry.shape)
    labels = torch.full(geometry.shape, LABELS["white_matter"], dtype=torch.uint8)
    labels[10:14, 15:25] = LABELS["blood"]
    return Phantom(geometry, 0.02 * torch.exp(-((radius / 0.3) ** 2)), ones, ones, 30 * ones, labels, radius < 0.8)


def scanned(effects: Effects) -> tuple[Scan, Truth]:
    return acquire(phantom(), Acquisition(shape=(22, 27, 24)), torch.Generator().manual_seed(1), effects=effects, truth="crop")


def _drawn(seed: int, ranges: EffectRanges = ALL) -> Effects:
    return draw_effects(ranges, np.random.default_rng(seed))


def test_everything_is_off_by_default() -> None:
    assert _drawn(0, EffectRanges()) == Effects()


def test_everything_is_drawn_when_on_and_differs_between_seeds() -> None:
    first, again, other = _drawn(1), _drawn(1), _drawn(2)
    assert first == again
    for name in NAMES:
        assert getattr(first, name) is not None
        assert getattr(first, name) != getattr(other, name)


@pytest.mark.parametrize("name", NAMES)
def test_a_switch_changes_its_own_effect_alone(name: str) -> None:
    off = dataclasses.replace(ALL, **{name: dataclasses.replace(getattr(ALL, name), probability=0.0)})
    without, whole = _drawn(5, off), _drawn(5)
    assert getattr(without, name) is None
    assert dataclasses.replace(without, **{name: getattr(whole, name)}) == whole


def test_effects_survive_json() -> None:
    effects = _drawn(3)
    assert Effects.from_dict(json.loads(json.dumps(dataclasses.asdict(effects)))) == effects
    with pytest.raises(InputError, match=r"unknown names \['moustache'\]"):
        Effects.from_dict({"moustache": None})


def test_ranges_come_from_a_configuration() -> None:
    ranges = from_settings("effects", EffectRanges, {"erosion": {"probability": 0.3, "depth_mm": [1.0, 2.0]}, "slab": {"probability": 0.1}})
    assert ranges == EffectRanges(erosion=ErosionRanges(0.3, (1.0, 2.0)), slab=SlabRanges(0.1))
    with pytest.raises(InputError, match="no setting 'depth'"):
        from_settings("effects", EffectRanges, {"erosion": {"depth": [1.0, 2.0]}})


def test_all_together_give_a_valid_scan_with_the_same_bits_again() -> None:
    (scan, truth), (again, _), (plain, whole) = scanned(_drawn(4)), scanned(_drawn(4)), scanned(Effects())
    for name in ("magnitude", "phase_rad", "mask", "frequency_ppm"):
        assert torch.equal(getattr(scan, name), getattr(again, name)), name
    assert 0.1 * int(plain.mask.sum()) < int(scan.mask.sum()) < 0.9 * int(plain.mask.sum())
    assert not bool((scan.mask & ~plain.mask).any())
    assert torch.equal(truth.chi_ppm, whole.chi_ppm * scan.mask)
    assert bool((truth.mask == scan.mask).all())
    assert float(scan.phase_rad.abs().max()) <= torch.pi + 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_each_effect_changes_the_scan_and_its_absence_does_not(name: str) -> None:
    plain = scanned(Effects())[0]
    changed = scanned(Effects(**{name: getattr(_drawn(6), name)}))[0]
    volumes = {"erosion": "mask", "holes": "mask", "low_signal": "mask", "wraps": "frequency_ppm", "dropouts": "magnitude"}
    volume = volumes.get(name, "phase_rad")
    if name != "low_signal":  # uniform tissue has no voxels of low signal
        assert not torch.equal(getattr(changed, volume), getattr(plain, volume))
    untouched = {"erosion", "holes", "low_signal", "wraps"}
    assert (name in untouched) == torch.equal(changed.phase_rad, plain.phase_rad)
