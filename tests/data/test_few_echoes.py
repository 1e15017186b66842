"""Samples whose echoes are too few for a phase offset, or for their own noise."""

import dataclasses

import pytest
import torch

from qsmdl.data.engine import Engine, draw_sample
from qsmdl.data.inputs import Prior
from qsmdl.data.recipe import Recipe, draw_volume, render_volume
from qsmdl.data.stream import PhantomStream, training_volume
from qsmdl.errors import InputError
from qsmdl.phantom.scanning.offset import OffsetParams
from qsmdl.physics.dipole import Dipole

FOV = (50.0, 45.0, 40.0)
PRIOR = Prior((0.05,))


def recipe(n_echoes, fov=FOV, **effects):
    protocol = {"n_echoes": [n_echoes, n_echoes], "voxel_size_mm": [2.5, 3.0], "last_echo_s": [0.02, 0.02], "repetition_time_s": [0.05, 0.05]}
    texture = {"exponent": [4.0, 4.0], "amplitude_ppm": [0.05, 0.05]}
    engine = {"kinds": {"texture": 1}, "texture": texture, "protocol": {**protocol, "peak_snr": [300.0, 300.0]}, "effects": effects}
    return Recipe(engine=Engine.from_settings(engine), field_of_view_mm=fov)


OFFSET = {"probability": 1.0, "amplitude_rad": [2.0, 2.5], "smooth_share": 1.0}


def test_one_echo_draws_no_offset_and_nothing_else_changes():
    one, two = (draw_sample(recipe(n, offset=OFFSET, slab={"probability": 0.5}, holes={"probability": 0.5}).engine, 3, FOV) for n in (1, 2))
    assert one.effects.offset is None
    assert two.effects.offset is not None
    assert one.effects == dataclasses.replace(two.effects, offset=None)
    assert one.anatomy == two.anatomy


def misfit(params, recipe):
    """Of the field that training sees to that of the true susceptibility, relative."""
    scan, truth = render_volume(recipe, params, complete=False)
    maps = training_volume(scan, truth, PRIOR, peak_snr=params.peak_snr)
    true = Dipole(scan.geometry.shape, scan.geometry.voxel_size_mm, scan.geometry.b0_direction)(truth.chi_ppm)[scan.mask]
    return float((maps["field_ppm"][0][scan.mask] - true).norm() / true.norm())


def test_the_field_of_one_echo_is_the_field():
    """An offset would stay in it, several times as large."""
    own = recipe(1, offset=OFFSET)
    params = draw_volume(own, 2)
    left = OffsetParams(1.0, (((1, 0, 0), 1.5), ((0, 2, 0), 1.0)))
    kept = dataclasses.replace(params, sample=dataclasses.replace(params.sample, effects=dataclasses.replace(params.sample.effects, offset=left)))
    assert misfit(params, own) < 0.6
    assert misfit(kept, own) > 2.0


@pytest.mark.parametrize("n_echoes", [1, 2])
def test_the_stream_takes_few_echoes(n_echoes):
    """Neither case has residuals, and the rim of a small volume holds too little air to tell the noise from."""
    own = recipe(n_echoes, (28.0, 26.0, 24.0), offset=OFFSET)
    stream = PhantomStream(own, PRIOR, patch_size=(8, 8, 8), batch_size=2, batches_per_volume=1, n_lanes=1, seed=1, p_drop_weight=0.0)
    batch = stream.batch(0)
    assert bool(torch.isfinite(batch["field_ppm"]).all())
    assert float(batch["weight"][batch["mask"]].std()) > 0
    params = draw_volume(own, 2)
    scan, truth = render_volume(own, params, complete=False)
    with pytest.raises(InputError, match="voxels of air"):
        training_volume(scan, truth, PRIOR, params.sample.effects)


def test_a_known_noise_is_asked_only_where_the_echoes_do_not_tell_it():
    own = recipe(3, offset=OFFSET)
    params = draw_volume(own, 2)
    scan, truth = render_volume(own, params, complete=False)
    plain, told = (training_volume(scan, truth, PRIOR, params.sample.effects, peak_snr=snr) for snr in (None, 5.0))
    assert torch.equal(plain["weight"], told["weight"])
