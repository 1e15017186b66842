"""Scans outside of what a network was trained on are told, and those inside are not."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from tiny_scans import scan_of

from qsmdl.data.chi_range import chi_range_ppm
from qsmdl.data.engine import Engine, draw_sample
from qsmdl.data.envelope import extremes, outside_envelope, peak_snr
from qsmdl.data.recipe import Recipe
from qsmdl.phantom.anatomy.params import HeadParams
from qsmdl.phantom.tissue.contrast import chi_bounds_ppm, draw_contrast
from qsmdl.physics.fieldmap import fit_field
from qsmdl.scan import FieldMap, Geometry

ENVELOPE = {
    "voxel_size_mm": [4.0, 6.0], "anisotropy": [1.0, 1.5], "peak_snr": [50.0, 200.0], "max_tilt_deg": 30.0, "b0_tesla": [3.0, 7.0],
    "n_echoes": [2, 6], "contrast": "random", "chi_ppm": [-3.5, 0.6],
}  # fmt: skip


def found(field, scan=None, chi=None, **changes):
    return outside_envelope(ENVELOPE | changes, field, scan, chi)


def test_within_nothing_is_told(sample, sample_field):
    assert found(sample_field, sample[0], sample[1].chi_ppm) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"voxel_size_mm": [1.0, 1.8]}, r"voxels have edges of [45\.\d, ]+ mm, but the network was trained with 1 to 1.8 mm"),
        ({"b0_tesla": 3.0}, "B0 is 7 T, but the network was trained with 3 T only"),
        ({"b0_tesla": [1.5, 3.0]}, "B0 is 7 T, but the network was trained with 1.5 to 3 T"),
        ({"n_echoes": [5, 8]}, "the number of echoes is 4, but the network was trained with 5 to 8"),
        ({"chi_ppm": [-0.1, 0.1]}, r"the map reaches -0\.2\d+ ppm, but the network was trained with -0.1 to 0.1 ppm"),
        ({"peak_snr": [300.0, 1500.0]}, r"the peak SNR is about \d\d\.\d+, but the network was trained with 300 to 1500"),
    ],
)
def test_what_lies_outside_is_named_with_value_and_range(sample, sample_field, changes, words):
    told = found(sample_field, sample[0], sample[1].chi_ppm, **changes)
    assert len(told) == 1
    assert re.fullmatch(words, told[0]), told


@pytest.mark.parametrize(("b0", "tilt"), [((0.0, 0.6, 0.8), "36.9"), ((0.0, 0.6, -0.8), "36.9"), ((1.0, 0.0, 0.0), "90.0")])
def test_tilt_and_long_voxels(sample_field, b0, tilt):
    geometry = dataclasses.replace(sample_field.geometry, voxel_size_mm=(4.0, 4.0, 8.0), b0_direction=b0)
    assert found(dataclasses.replace(sample_field, geometry=geometry)) == (
        "voxels have edges of 8 mm, but the network was trained with 4 to 6 mm",
        "the longest over the shortest edge is 2, but the network was trained with 1 to 1.5",
        f"B0 is tilted by {tilt} degrees from the z axis, but the network was trained with up to 30",
    )
    opposite = dataclasses.replace(sample_field.geometry, b0_direction=(0.0, 0.0, -1.0))
    assert found(dataclasses.replace(sample_field, geometry=opposite)) == ()


@pytest.mark.parametrize("noise", [0.005, 0.02])
def test_the_peak_snr_is_estimated(noise, generator):
    geometry = Geometry((14, 15, 16), (1.0, 2.0, 1.5))
    mask = torch.rand(geometry.shape, generator=generator) > 0.3
    field = 0.02 * torch.randn(geometry.shape, generator=generator) * mask
    weight = (0.5 + torch.rand(geometry.shape, generator=generator)) * mask
    scan = scan_of(FieldMap(geometry, field, mask, weight), noise=noise)
    assert peak_snr(fit_field(scan), scan) == pytest.approx(float(scan.magnitude[0].max()) / noise, rel=0.1)


def test_the_brain_alone_is_less_bright_than_the_head(sample, sample_field):
    """Which is why the estimate may lie this far below a recipe's peak SNR: 100 here."""
    scan, field = sample[0], sample_field
    assert 40 < peak_snr(field, scan) < 60
    assert found(field, scan, peak_snr=[100.0, 100.0]) == ()
    assert peak_snr(field, None) is None
    assert peak_snr(dataclasses.replace(field, noise_ppm=None), scan) is None


def test_extremes_leave_single_voxels_out():
    values = torch.linspace(-1, 1, 200_000).reshape(40, 50, 100)
    mask = torch.ones(values.shape, dtype=torch.bool)
    values[0, 0, 0], values[3, 4, 5] = -70.0, 90.0
    low, high = extremes(values, mask)
    assert (low, high) == pytest.approx((-1, 1), abs=1e-3)
    mask[20:] = False
    assert extremes(torch.where(mask, values, -1e6), mask)[1] < 90.1


@pytest.mark.parametrize(
    "envelope",
    [{}, {"contrast": "random"}, {"voxel_size_mm": None, "b0_tesla": "7", "peak_snr": [1, 2, 3], "chi_ppm": [None, 1], "max_tilt_deg": True}],
)
def test_cards_that_say_less_or_nonsense_judge_nothing(sample, sample_field, envelope):
    assert outside_envelope(envelope, sample_field, sample[0], sample[1].chi_ppm) == ()


@pytest.mark.parametrize("name", ["sim1", "sim2", "random"])
def test_drawn_tissues_lie_within_their_bounds(name):
    low, high = (np.array(bound) for bound in chi_bounds_ppm(name))
    drawn = np.array([draw_contrast(np.random.default_rng(seed), name).chi_ppm for seed in range(400)])
    assert (drawn >= low - 1e-12).all()
    assert (drawn <= high + 1e-12).all()
    # and the bounds are not much wider than what is drawn
    assert (drawn.max(0) - drawn.min(0) >= 0.6 * (high - low) - 1e-12).all()


ENGINES = {
    "heads": {},
    "iron, sign and blood": {"sign_flip": 0.5, "lesions": {"iron": {"probability": 0.7}}, "blood": {"probability": 0.5}},
    "lesions": {"lesions": {"calcification": {"probability": 1.0}, "haemorrhage": {"probability": 1.0}, "microbleed": {"probability": 1.0}}},
}


@pytest.mark.parametrize("name", ENGINES)
def test_what_the_engine_draws_lies_within_its_range(name):
    engine = Engine.from_settings(ENGINES[name])
    low, high = chi_range_ppm("random", engine)
    values = [0.0]
    for seed in range(60):
        drawn = draw_sample(engine, seed, (164.0, 205.0, 205.0))
        if isinstance(drawn.anatomy, HeadParams):
            values += [v for label, v in enumerate(drawn.anatomy.contrast.chi_ppm) if label != 16]
        values += [] if drawn.lesions is None else [blob.chi_ppm for blob in drawn.lesions.blobs]
    assert low <= min(values) < 0 < max(values) <= high
    assert max(values) - min(values) > 0.5 * (high - low)


def test_a_rim_and_bodies_widen_the_range():
    plain = Engine.from_settings({"kinds": {"texture": 1.0}})
    assert chi_range_ppm("random", plain) == pytest.approx((-0.1, 0.1))
    assert chi_range_ppm("random", Engine.from_settings({"kinds": {"texture": 0.5, "shapes": 0.5}})) == pytest.approx((-1.0, 1.0))
    bleeding = Engine.from_settings({"kinds": {"texture": 1.0}, "lesions": {"haemorrhage": {"probability": 0.1}}})
    assert chi_range_ppm("random", bleeding) == pytest.approx((-0.1, 4.0))


def test_the_recipe_says_so_in_its_envelope():
    envelope = Recipe(contrast="sim1", peak_snr=(50, 60)).envelope
    assert envelope["chi_ppm"] == pytest.approx((-2.8, 0.2128))
    assert envelope["anisotropy"] == (1.0, 1.0)
    engine = Recipe(engine={"protocol": {"anisotropy_probability": 0.5, "anisotropy": [1.0, 2.5]}, "kinds": {"head": 1.0}})
    assert engine.envelope["anisotropy"] == (1.0, 2.5)
    assert engine.envelope["voxel_size_mm"] == (1.0, 2.5)
    assert Recipe(echo_times_s=(0.01, 0.02, 0.03)).envelope["n_echoes"] == (3, 3)
    assert Recipe(engine={"protocol": {"n_echoes": [2, 5]}}).envelope["n_echoes"] == (2, 5)
    assert all(math.isfinite(v) for v in engine.envelope["chi_ppm"])
