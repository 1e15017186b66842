"""Samples rendered, scanned and cut on another device than the CPU: nothing mixes devices."""

import numpy as np
import pytest
import torch
from other_device import OTHER, MixedDevices, OtherTensor, other_device

from qsmdl.data.engine import Engine
from qsmdl.data.inputs import Prior
from qsmdl.data.recipe import Recipe, draw_volume, render_volume, volume_seed
from qsmdl.data.stream import PhantomStream
from qsmdl.io.label_table import BUILT_IN
from qsmdl.phantom.anatomy.label_atlas import LabelAtlas
from qsmdl.physics.unwrap import unwrap_spatial

EVERY_EFFECT = {
    "kinds": {"head": 1},
    "sign_flip": 0.0,
    "veins": {"probability": 1.0},
    "blood": {"probability": 1.0},
    "vessels": {"probability": 1.0, "count": [2, 2], "generations": [1, 2]},
    "lesions": {
        "calcification": {"probability": 1.0},
        "haemorrhage": {"probability": 1.0, "radius_mm": [3.0, 6.0]},
        "microbleed": {"probability": 1.0},
        "iron": {"probability": 1.0},
    },
    "added_texture": {"probability": 1.0},
    "protocol": {
        "b0_choices_tesla": [3.0],
        "relaxation_follows_field": True,
        "n_echoes": [3, 3],
        "last_echo_s": [0.02, 0.03],
        "voxel_size_mm": [3.0, 3.0],
        "anisotropy_probability": 1.0,
        "anisotropy": [1.1, 1.3],
        "tilt_probability": 1.0,
    },
    "effects": {name: {"probability": 1.0} for name in ("offset", "background", "flow", "dropouts", "slab", "wraps", "erosion", "holes", "low_signal")},
}
KINDS = ("head", "shapes", "texture", "label_map")


def recipe(kind, truth="unrung"):
    if kind == "first generator":
        return Recipe(voxel_size_mm=(6.0, 6.0), truth=truth)
    fov = (164.0, 205.0, 205.0) if kind == "head" else (60.0, 63.0, 66.0)
    return Recipe(engine=Engine.from_settings({**EVERY_EFFECT, "kinds": {kind: 1}, "max_voxels": 20_000}), field_of_view_mm=fov, truth=truth, oversampling=1.3)


def atlas():
    labels = torch.zeros(14, 13, 12, dtype=torch.int32)
    labels[2:12, 2:11, 2:10] = 2
    labels[5:8, 5:8, 5:8] = 12
    return LabelAtlas(labels, (3.5, 3.5, 3.5), BUILT_IN["freesurfer"], "box")


def stream(kind, truth="unrung"):
    return PhantomStream(
        recipe(kind, truth), Prior((0.05,)), patch_size=(12, 9, 10), batch_size=2, batches_per_volume=2, n_lanes=1, seed=2, p_drop_weight=0.5,
        atlases=(atlas(),),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["first generator", *KINDS])
def test_a_sample_stays_on_its_device(kind):
    """From the draw to the patch, with every effect; what is computed is what the CPU computes."""
    source = stream(kind)
    expected = source.batch(0)
    with other_device(), torch.device(OTHER):
        found = source.batch(0)
    for name, value in found.items():
        assert isinstance(value, OtherTensor), name
        assert torch.equal(value.inner, expected[name]), name
