"""Networks that were trained on fields without the phase of the crop, and what their methods make of a scan."""

import pytest
import torch
from small_flagship import save

from qsmdl.methods import Method, fine, flagship, flagship_fine, unet
from qsmdl.solvers import large_scales
from qsmdl.solvers.crop_phase import without_crop_phase

FIT = {"n_steps": 1, "learning_rate": 5e-3, "precision": "float32"}


@pytest.fixture(autouse=True)
def believed(monkeypatch):
    """On heads of 5 mm smooth sources explain little: a doubt that is not what is tested here."""
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", float("inf"))


@pytest.fixture
def weights(tmp_path):
    return save(tmp_path / "small.safetensors")


@pytest.fixture
def own(tmp_path):
    """The same network, trained on fields without the phase of the crop."""
    return save(tmp_path / "own.safetensors", prior={"regularisations": [0.012, 0.003, 0.05], "crop_phase": True})


METHODS = ((unet, {}), (flagship, {}), (fine, FIT), (flagship_fine, FIT))


@pytest.mark.parametrize(("function", "settings"), METHODS)
def test_it_takes_that_phase_off(function, settings, sample, sample_field, weights, own):
    corrected = without_crop_phase(sample_field, sample[0])
    wanted = function(corrected.field, scan=corrected.scan, checkpoint=weights, **settings).chi_ppm
    assert torch.equal(function(sample_field, scan=sample[0], checkpoint=own, **settings).chi_ppm, wanted)
    assert not torch.equal(function(sample_field, scan=sample[0], checkpoint=weights, **settings).chi_ppm, wanted)


def test_once(sample, sample_field, weights, own):
    cases = ((own, True), (own, False), (weights, True))
    maps = [Method("unet", unet, checkpoint=str(path), crop_phase=on)(sample_field, sample[0]).chi_ppm for path, on in cases]
    assert all(torch.equal(chi, maps[0]) for chi in maps)


def test_steps_afterwards_follow_the_field_that_it_explains(sample, sample_field, weights, own):
    corrected, steps = without_crop_phase(sample_field, sample[0]), {"unring": True, "large_scales": True, "fine_scales": True}
    found = Method("unet", unet, checkpoint=str(own), **steps)(sample_field, sample[0])
    wanted = Method("unet", unet, checkpoint=str(weights), **steps)(corrected.field, corrected.scan)
    assert torch.equal(found.chi_ppm, wanted.chi_ppm)


@pytest.mark.parametrize(("function", "settings"), METHODS)
def test_or_says_why_not(function, settings, sample_field, own):
    doubts = function(sample_field, checkpoint=own, **settings).outcome.doubts
    assert any("needs the scan's echoes" in doubt for doubt in doubts)
