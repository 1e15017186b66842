"""Validation volumes drawn from an engine: every kind of sample, effects and label maps included."""

import dataclasses

import pytest
import torch

from qsmdl.cli.build import build_recipe
from qsmdl.cli.label_maps import LabelMaps
from qsmdl.data.datamodule import PhantomData, ValidationPhantoms
from qsmdl.data.engine import Engine
from qsmdl.data.inputs import Prior, bounding_box
from qsmdl.data.recipe import Recipe, draw_volume, render_volume, volume_seed
from qsmdl.data.stream import training_volume
from qsmdl.errors import InputError
from qsmdl.io.label_table import BUILT_IN
from qsmdl.phantom.anatomy.label_atlas import LabelAtlas

FOV = (50.0, 45.0, 40.0)
PRIOR = Prior((0.05,))
PROTOCOL = {"voxel_size_mm": [2.5, 3.0], "n_echoes": [3, 3]}


def recipe(kind="texture", **effects):
    engine = {"kinds": {kind: 1}, "protocol": PROTOCOL, "effects": {name: {"probability": 1.0, **more} for name, more in effects.items()}}
    return Recipe(engine=Engine.from_settings(engine), field_of_view_mm=FOV)


def atlas():
    labels = torch.zeros(14, 13, 12, dtype=torch.int32)
    labels[2:12, 2:11, 2:10] = 2
    labels[5:8, 5:8, 5:8] = 12
    return LabelAtlas(labels, (3.5, 3.5, 3.5), BUILT_IN["freesurfer"], "box")


def test_effects_reach_the_field():
    """The offset is fitted and the wraps are left in, as in training: without being told of them the field would be another."""
    own = recipe(offset={"smooth_share": 1.0}, wraps={"radius_mm": [5.0, 8.0]}, erosion={})
    found = ValidationPhantoms(own, PRIOR, n_volumes=1, seed=4)[0]
    params = draw_volume(own, volume_seed("validation", 4, 0), contrast="sim1")
    scan, truth = render_volume(own, params)
    box = bounding_box(scan.mask)
    expected, without = training_volume(scan, truth, PRIOR, params.sample.effects), training_volume(scan, truth, PRIOR)
    assert torch.equal(found["field_ppm"], expected["field_ppm"][:, *box])
    difference = (found["field_ppm"] - without["field_ppm"][:, *box])[found["mask"]]
    assert float(difference.std()) > 0.02
    assert torch.equal(found["field_ppm"], ValidationPhantoms(own, PRIOR, n_volumes=1, seed=4)[0]["field_ppm"])


def test_label_maps_are_validated_on():
    phantoms = ValidationPhantoms(recipe("label_map"), PRIOR, n_volumes=2, seed=0, atlases=(atlas(),))
    volumes = [phantoms[i] for i in range(2)]
    assert all(float(v["chi_ppm"][v["mask"]].std()) > 0 for v in volumes)
    assert volumes[0]["chi_ppm"].shape != volumes[1]["chi_ppm"].shape or not torch.equal(volumes[0]["chi_ppm"], volumes[1]["chi_ppm"])
    data = PhantomData(recipe(), recipe("label_map"), PRIOR, atlases=(atlas(),), n_validation_volumes=1)
    assert float(data.validation[0]["chi_ppm"].std()) > 0
    with pytest.raises(InputError, match="none is given"):
        ValidationPhantoms(recipe("label_map"), PRIOR, n_volumes=1, seed=0)[0]


def test_label_maps_are_read_where_only_validation_draws_them():
    with pytest.raises(InputError, match="names none"):
        LabelMaps().read(recipe(), recipe("label_map"))
    assert LabelMaps().read(recipe(), recipe()) == ()


def test_total_fields_are_not_validated_on():
    with pytest.raises(InputError, match=r"removal_probability is 0\.5"):
        ValidationPhantoms(recipe(background={"removal_probability": 0.5}), PRIOR, n_volumes=1, seed=0)


PHANTOM = {"contrast": "random", "field_of_view_mm": FOV, "engine": {"kinds": {"texture": 1}}}
ACQUISITION = {"engine": {"protocol": PROTOCOL, "effects": {"erosion": {"probability": 0.5}}}}
OVERRIDES = {"voxel_size_mm": [1.8, 1.8], "peak_snr": [100.0, 100.0], "max_tilt_deg": 0.0}


def test_the_three_ways_to_say_which_engine_validates():
    training = build_recipe(PHANTOM, ACQUISITION)
    assert build_recipe(PHANTOM, ACQUISITION, {**OVERRIDES, "engine": None}).engine is None
    assert build_recipe(PHANTOM, ACQUISITION, {**OVERRIDES, "engine": "same"}).engine == training.engine
    own = build_recipe(PHANTOM, ACQUISITION, {**OVERRIDES, "engine": {"kinds": {"shapes": 1}}})
    assert own.engine.kinds == {"shapes": 1.0}
    assert own.engine.protocol.voxel_size_mm == (1.8, 1.8)
    assert own.engine.effects.erosion.probability == 0
    assert dataclasses.replace(own, engine=None).peak_snr == (100.0, 100.0)
    with pytest.raises(InputError, match="engine is 'other'; it must be null"):
        build_recipe(PHANTOM, ACQUISITION, {**OVERRIDES, "engine": "other"})
