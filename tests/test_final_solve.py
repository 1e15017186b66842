"""The solve at the end of the flagship, which makes the large scales of its map explain the field."""

import pytest
import torch
from small_flagship import NETWORK, save

from qsmdl.io.weights import save_weights
from qsmdl.methods import flagship
from qsmdl.networks.build import build_network
from qsmdl.physics.unring import unring
from qsmdl.solvers import large_scales, strong_sources
from qsmdl.solvers.fine_scales import fine_correction
from qsmdl.solvers.large_scales import explain_large_scales
from qsmdl.solvers.strong_sources import strong_source_correction
from qsmdl.solvers.structures import structure_correction
from qsmdl.solvers.tv import nltv


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save(tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.fixture
def believed(monkeypatch):
    """On heads of 5 mm, with networks that were not trained, smooth sources explain little; the solve is to be seen here."""
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", float("inf"))


@pytest.mark.usefixtures("believed")
def test_at_the_end_the_large_scales_explain_the_field(sample_field, weights):
    before, after = (flagship(sample_field, checkpoint=weights, final_solve=on) for on in (False, True))
    assert torch.equal(after.chi_ppm, explain_large_scales(before.chi_ppm, sample_field).chi_ppm)
    assert float((after.chi_ppm - before.chi_ppm).abs().max()) > 1e-3
    assert torch.equal(after.uncertainty_ppm, before.uncertainty_ppm)


@pytest.mark.usefixtures("believed")
def test_the_final_solve_knows_of_the_ringing_that_the_start_lost(sample_field, tmp_path):
    network = {**NETWORK, "adapter": {"channels": ["prior"], "n_priors": 4}}
    path = tmp_path / "tv.safetensors"
    card = {"network": network, "prior": {"start": "tv", "regularisations": [0.05]}}
    save_weights(path, build_network(network).state_dict(), card)  # untrained: the start itself
    names = {"checkpoint": path, "symmetries": ("identity",), "uncertainty": False}
    raw = nltv(sample_field).chi_ppm
    start = torch.where(sample_field.mask, unring(raw), 0.0)
    smooth = explain_large_scales(start, sample_field, ringing_ppm=raw - start).chi_ppm
    assert float((smooth - explain_large_scales(start, sample_field).chi_ppm).abs().max()) > 1e-4
    # and the fine scales, in the mean of two ways, and the structures
    one = smooth + fine_correction(smooth + raw - start, sample_field)
    other = torch.where(sample_field.mask, unring(one + raw - start), 0.0)
    found = flagship(sample_field, **names).chi_ppm
    fine = (one + other) / 2
    structures = structure_correction(fine, sample_field, ringing_ppm=raw - start)
    torch.testing.assert_close(found, fine + structures, atol=1e-6, rtol=1e-5)
    assert float((found - smooth).abs().max()) > 1e-3
    assert float(structures.abs().max()) > 1e-4


@pytest.mark.usefixtures("believed")
def test_strong_sources_are_mended_before_the_large_scales(sample_field, weights, monkeypatch):
    monkeypatch.setattr(strong_sources, "STRONG_PPM", 0.05)  # heads of 5 mm have nothing strong
    before, after = (flagship(sample_field, checkpoint=weights, final_solve=on).chi_ppm for on in (False, True))
    correction = strong_source_correction(before, sample_field)
    assert torch.equal(after, explain_large_scales(before + correction, sample_field).chi_ppm)
    assert float(correction.abs().max()) > 1e-3


def test_a_final_solve_that_explains_too_little_is_told(sample_field, weights, monkeypatch, caplog):
    monkeypatch.setattr(large_scales, "MOST_UNEXPLAINED", 1e-6)
    before, after = (flagship(sample_field, checkpoint=weights, final_solve=on) for on in (False, True))
    assert torch.equal(after.chi_ppm, before.chi_ppm)
    assert before.outcome.doubts == ()
    assert "large scales of the map were left as they were" in after.outcome.doubts[0]
    assert after.outcome.doubts[0] in caplog.text
