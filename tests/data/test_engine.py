"""The phantom engine: draws in their ranges, reproducible, each switch for itself, and refused settings."""

import dataclasses
import json
import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from qsmdl.data.engine import KINDS, Engine, draw_sample
from qsmdl.data.inputs import Prior
from qsmdl.data.recipe import Recipe, draw_volume, fine_geometry, render_phantom, render_volume, volume_seed
from qsmdl.data.stream import PhantomStream
from qsmdl.data.survey import shares, survey
from qsmdl.errors import InputError
from qsmdl.io.label_table import BUILT_IN
from qsmdl.phantom.anatomy.label_atlas import LabelAtlas
from qsmdl.phantom.anatomy.params import HeadParams
from qsmdl.scan import LABELS

FOV = (164.0, 205.0, 205.0)
EVERYTHING = {
    "kinds": {"head": 2, "shapes": 1, "texture": 1},
    "sign_flip": 0.3,
    "veins": {"probability": 0.5},
    "blood": {"probability": 0.5},
    "vessels": {"probability": 0.5, "count": [2, 4], "generations": [1, 2]},
    "lesions": {
        "calcification": {"probability": 0.5},
        "haemorrhage": {"probability": 0.5, "radius_mm": [3.0, 6.0]},
        "microbleed": {"probability": 0.5},
        "iron": {"probability": 0.5},
    },
    "added_texture": {"probability": 0.5},
    "protocol": {
        "b0_choices_tesla": [1.5, 3.0, 7.0],
        "relaxation_follows_field": True,
        "n_echoes": [1, 5],
        "last_echo_s": [0.02, 0.04],
        "voxel_size_mm": [1.0, 2.0],
        "anisotropy_probability": 0.5,
        "tilt_probability": 0.5,
    },
    "effects": {
        name: {"probability": 0.5} for name in ("offset", "background", "flow", "dropouts", "slab", "wraps", "erosion", "holes", "low_signal")
    },
}
ENGINE = Engine.from_settings(EVERYTHING)
SMALL = Recipe(engine=dataclasses.replace(ENGINE, max_voxels=30_000), oversampling=1.3)


def samples(n=400, engine=ENGINE):
    return [draw_sample(engine, seed, FOV) for seed in range(n)]


def test_draws_lie_in_their_ranges_and_fill_them():
    found = survey(ENGINE, samples())
    assert {"b0_tesla", "peak_snr", "head cortex_mm", "veins radius_factor", "calcification chi_ppm", "iron factor", "slab factor"} <= set(found)
    for name, (values, (low, high)) in found.items():
        assert min(values) >= low - 1e-9, name
        assert max(values) <= high + 1e-9, name
        # Longest edges cut the anisotropy; all else comes close to both ends.
        if len(values) > 300 and name != "anisotropy":
            assert min(values) <= low + 0.1 * (high - low), name
            assert max(values) >= high - 0.1 * (high - low), name


def test_switches_are_on_as_often_as_asked():
    drawn = samples()
    for name, (share, wanted) in shares(ENGINE, drawn).items():
        assert abs(share - wanted) < 0.13, name
    assert {sample.kind for sample in drawn} == set(KINDS) - {"label_map"}


def test_one_switch_changes_its_part_alone():
    changed = Engine.from_settings({**EVERYTHING, "effects": {**EVERYTHING["effects"], "slab": {"probability": 1.0}}})
    differing = 0
    for seed in range(30):
        one, other = draw_sample(ENGINE, seed, FOV), draw_sample(changed, seed, FOV)
        differing += one != other
        assert dataclasses.replace(one, effects=None) == dataclasses.replace(other, effects=None)
        assert dataclasses.replace(one.effects, slab=None) == dataclasses.replace(other.effects, slab=None)
        assert other.effects.slab is not None
    assert differing > 5


def test_recipes_survive_json_and_name_themselves():
    again = Recipe(**json.loads(json.dumps(SMALL.to_plain())))
    assert again == SMALL
    assert again.digest == SMALL.digest
    assert Recipe().digest != SMALL.digest
    code = "from qsmdl.data.recipe import Recipe; print(Recipe(engine={'kinds': {'texture': 1, 'head': 2}}).digest)"
    elsewhere = set()
    for seed in "12":
        run = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)
        elsewhere.add(run.stdout.strip())
    assert elsewhere == {Recipe(engine={"kinds": {"head": 2.0, "texture": 1.0}}).digest}


@pytest.mark.parametrize("kind", ["head", "shapes", "texture"])
def test_same_seed_same_bits(kind):
    recipe = dataclasses.replace(SMALL, engine=dataclasses.replace(SMALL.engine, kinds={kind: 1.0}))
    params = draw_volume(recipe, volume_seed("train", 0, 1))
    assert params.sample.kind == kind
    assert params == draw_volume(recipe, volume_seed("train", 0, 1)) != draw_volume(recipe, volume_seed("train", 0, 2))
    json.dumps(dataclasses.asdict(params))
    (scan, truth), (again, truth_again) = (render_volume(recipe, params) for _ in range(2))
    assert torch.equal(scan.phase_rad, again.phase_rad)
    assert torch.equal(truth.chi_ppm, truth_again.chi_ppm)
    assert scan.geometry.shape == params.shape
    assert float(truth.chi_ppm[truth.mask].std()) > 0


def test_scans_keep_their_number_of_voxels_and_the_fine_grid_is_nearly_cubic():
    for index in range(20):
        params = draw_volume(SMALL, volume_seed("train", 0, index))
        assert params.shape[0] * params.shape[1] * params.shape[2] < 1.1 * 30_000
        fine = fine_geometry(SMALL, params)
        assert max(fine.voxel_size_mm) / min(fine.voxel_size_mm) < 1.05
        assert max(fine.voxel_size_mm) < 1.02 * min(params.voxel_size_mm) / SMALL.oversampling
        assert fine.b0_tesla == params.sample.protocol.b0_tesla
        assert all(b > a for a, b in pairwise(params.sample.protocol.echo_times_s))


def test_heads_take_iron_blood_and_sign():
    heads = [s for s in samples(200) if isinstance(s.anatomy, HeadParams)]
    blood = LABELS["blood"]
    assert len({head.anatomy.contrast.r1_per_s[blood] for head in heads}) > 20
    assert {head.anatomy.contrast.chi_ppm[blood] < 0 for head in heads} == {True, False}
    assert not any(head.anatomy.has_calcification for head in heads)


def test_a_label_map_becomes_a_sample():
    labels = torch.zeros(20, 24, 22, dtype=torch.int32)
    labels[4:16, 4:20, 4:18] = 2
    labels[7:12, 8:14, 8:14] = 12
    atlas = LabelAtlas(labels, (8.0, 8.0, 9.0), BUILT_IN["freesurfer"], "boxes")
    recipe = dataclasses.replace(SMALL, engine=dataclasses.replace(SMALL.engine, kinds={"label_map": 1.0}))
    params = draw_volume(recipe, 5, atlases=(atlas,))
    phantom = render_phantom(recipe, params, (atlas,))
    assert LABELS["putamen"] in phantom.labels.unique().tolist()
    with pytest.raises(InputError, match="none is given"):
        draw_volume(recipe, 5)
    with pytest.raises(InputError, match="label map number 0"):
        render_phantom(recipe, params)


def test_the_stream_takes_an_engine():
    engine = dataclasses.replace(SMALL.engine, protocol=dataclasses.replace(ENGINE.protocol, n_echoes=(2, 4)))
    stream = PhantomStream(
        dataclasses.replace(SMALL, engine=engine), Prior((0.05,)), patch_size=(16, 16, 16), batch_size=2, batches_per_volume=1, n_lanes=1, seed=3
    )
    batches = [stream.batch(index) for index in range(2)]
    for batch in batches:
        assert batch["field_ppm"].shape == (2, 1, 16, 16, 16)
        assert all(bool(torch.isfinite(values.float()).all()) for values in batch.values())
    assert torch.equal(stream.batch(1)["chi_ppm"], batches[1]["chi_ppm"])


def test_total_fields_are_not_trained_on():
    engine = Engine.from_settings({"effects": {"background": {"probability": 0.1, "removal_probability": 0.5}}})
    with pytest.raises(InputError, match=r"removal_probability is 0\.5"):
        PhantomStream(Recipe(engine=engine), Prior(), patch_size=(8, 8, 8), batch_size=1, batches_per_volume=1, n_lanes=1, seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": {"heads": 1.0}}, r"kinds holds \['heads'\]"),
        ({"kinds": {"head": 0.0}}, "one must be positive"),
        ({"sign_flip": 2.0}, "sign_flip is 2"),
        ({"max_voxels": 3.0}, "max_voxels is 3"),
        ({"anatomy": {"cortex": [1, 2]}}, "cortex_mm"),
        ({"anatomy": {"cortex_mm": [4.0, 2.0]}}, r"cortex_mm is \[4.0, 2.0\]"),
        ({"protocol": {"voxel_size_mm": "1"}}, "voxel_size_mm"),
        ({"effects": {"slabs": {}}}, "slab"),
        ({"lesions": {"calcification": {"radius_mm": [3.0, 1.0]}}}, "radius_mm"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(InputError, match=message):
        Engine.from_settings(settings)
