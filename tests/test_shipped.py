"""The weights that come with the package, and a wheel that works without the clone."""

import dataclasses
import json
import zipfile

import pytest
import torch

from qsmdl.challenge.cases import field_of
from qsmdl.data.inputs import prepare_inputs
from qsmdl.data.recipe import Recipe, draw_volume, render_volume, volume_seed
from qsmdl.io.weights import load_weights
from qsmdl.methods import FLAGSHIP_WEIGHTS, SHIPPED_WEIGHTS, load_network, unet
from qsmdl.training.losses import nrmse


@pytest.mark.parametrize("path", [SHIPPED_WEIGHTS, FLAGSHIP_WEIGHTS])
def test_the_card_tells_where_the_weights_come_from(path):
    card = load_weights(path)[1]
    assert card["licence"] == "Apache-2.0"
    assert "no ground truth" in card["training"]["data"]
    assert Recipe(**card["recipe"]).digest == card["recipe_digest"]
    assert card["training"]["steps_done"] > 0
    json.dumps(card)


def test_the_shipped_network_was_trained(sample, sample_field):
    """At 5 mm, far outside its envelope, it must still do no worse than what it was fed, and its map must not be that map."""
    network, prior, _ = load_network(None)
    inputs = prepare_inputs(sample_field, prior)
    truth = sample[1].chi_ppm[inputs.box][None, None]
    with torch.no_grad():
        chi = network(*inputs.arguments)
    before, after = (float(nrmse(m, truth, inputs.mask)) for m in (inputs.prior_ppm[:, :1], chi))
    assert after < 1.02 * before
    assert float((chi - inputs.prior_ppm[:, :1] * inputs.mask).abs().max()) > 0.005


def test_the_flagship_is_better_than_its_start_on_a_head_it_never_saw():
    """A small head of the test stream at 1.25 mm, scanned as the challenge scans."""
    recipe = Recipe(contrast="sim2", field_of_view_mm=(80.0, 100.0, 100.0), voxel_size_mm=(1.25, 1.25))
    params = draw_volume(recipe, volume_seed("test", 4242, 0), contrast="sim2")
    scan, truth = render_volume(recipe, dataclasses.replace(params, peak_snr=100.0))
    network, prior, _ = load_network(FLAGSHIP_WEIGHTS)
    field, fed, _ = prior.corrected(field_of(scan), scan)
    inputs = prepare_inputs(field, prior, fed)
    with torch.no_grad():
        chi = network(*inputs.arguments)
    wanted = truth.chi_ppm[inputs.box][None, None]
    before, after = (float(nrmse(m, wanted, inputs.mask)) for m in (inputs.prior_ppm[:, :1], chi))
    assert after < before
    assert float((chi - inputs.prior_ppm[:, :1] * inputs.mask).abs().max()) > 0.005


def test_all_shipped_weights_stay_small():
    assert sum(path.stat().st_size for path in SHIPPED_WEIGHTS.parent.glob("*.safetensors")) < 16e6


def test_a_network_gives_the_same_map_twice(sample_field):
    assert torch.equal(unet(sample_field).chi_ppm, unet(sample_field).chi_ppm)


def test_weights_hold_no_code():
    """A safetensors file: eight bytes of length, a JSON header, numbers."""
    assert not zipfile.is_zipfile(SHIPPED_WEIGHTS)
    assert SHIPPED_WEIGHTS.read_bytes()[8:9] == b"{"
