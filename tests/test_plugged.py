"""pnp: from training a denoiser to a map."""

import dataclasses

import pytest
import torch

from qsmdl.data.inputs import Prior, noisy_maps
from qsmdl.data.recipe import Recipe
from qsmdl.data.stream import PhantomStream, training_volume
from qsmdl.errors import InputError
from qsmdl.io.weights import save_weights
from qsmdl.methods import SHIPPED_WEIGHTS, pnp
from qsmdl.methods.weights import DENOISER_WEIGHTS
from qsmdl.networks.build import build_network
from qsmdl.phantom.anatomy.head import draw_head, render_head
from qsmdl.phantom.scanning.acquire import Acquisition, acquire
from qsmdl.physics.dipole import Dipole
from qsmdl.physics.fieldmap import fit_field
from qsmdl.scan import Geometry

PRIOR = Prior(start="noise", noise_ppm=(0.004, 0.04))
NETWORK = {"architecture": "unet", "adapter": {"channels": ["prior"], "n_priors": 2, "residual": True}, "keywords": {
    "width": 4, "depth": 1, "zero_head": True}}  # fmt: skip


@pytest.fixture(scope="module")
def scanned():
    phantom = render_head(draw_head(3, contrast="sim1"), Geometry((50, 62, 62), (3.2, 3.2, 3.2), (0.0, 0.0, 1.0)))
    scan, truth = acquire(phantom, Acquisition(peak_snr=100.0, shape=(32, 40, 40)), torch.Generator().manual_seed(1))
    return scan, truth, fit_field(scan)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "denoiser.safetensors"
    prior = {"start": "noise", "noise_ppm": [0.004, 0.04]}
    save_weights(path, build_network(NETWORK).state_dict(), {"network": NETWORK, "prior": prior, "envelope": {}})
    return path


def test_noise_is_of_the_level_that_is_told():
    chi, mask = torch.zeros(1, 30, 30, 30), torch.ones(1, 30, 30, 30, dtype=torch.bool)
    mask[:, :5] = False
    levels = []
    for seed in range(40):
        noisy, level = noisy_maps(chi, mask, PRIOR, seed)
        assert float(noisy[~mask[0]].abs().max()) == float(level[~mask[0]].abs().max()) == 0
        assert float(noisy[mask[0]].std()) == pytest.approx(float(level.max()), rel=0.03)
        levels.append(float(level.max()))
    assert 0.004 <= min(levels) < 0.006
    assert 0.025 < max(levels) <= 0.04
    assert float(noisy_maps(chi, mask, PRIOR)[1].max()) == pytest.approx((0.004 * 0.04) ** 0.5)


def test_denoisers_learn_the_truth_from_the_noisy_truth(scanned):
    scan, truth, _ = scanned
    volumes = training_volume(scan, truth, PRIOR)
    stream = PhantomStream(Recipe(), PRIOR, patch_size=(16, 16, 16), batch_size=6, batches_per_volume=1, n_lanes=1, seed=0)
    batch = stream.batch(0, lambda index: (volumes, (5.0,) * 3, (0.0, 0.0, 1.0), scan.mask.nonzero()))
    noisy, level = batch["prior_ppm"].unbind(1)
    for sample in range(6):
        inside = batch["mask"][sample, 0]
        error = (noisy[sample] - batch["chi_ppm"][sample, 0])[inside]
        assert float(error.std()) == pytest.approx(float(level[sample].max()), rel=0.1)
    again = stream.batch(0, lambda index: (volumes, (5.0,) * 3, (0.0, 0.0, 1.0), scan.mask.nonzero()))
    assert torch.equal(batch["prior_ppm"], again["prior_ppm"])
    assert len({round(float(v.max()), 6) for v in level}) == 6


def test_with_an_untrained_denoiser_it_explains_the_field(scanned, weights):
    """The identity removes nothing, so each step starts from the last map and gets closer to the field."""
    field = scanned[2]
    few, many = (pnp(field, checkpoint=weights, n_iterations=n, last_noise_ppm=0.03) for n in (1, 12))
    dipole = Dipole(field.geometry.shape, field.geometry.voxel_size_mm, field.geometry.b0_direction)
    rests = [float(((dipole(m.chi_ppm) - field.field_ppm) * field.weight)[field.mask].norm()) for m in (few, many)]
    assert rests[1] < 0.9 * rests[0] < 0.2 * float((field.field_ppm * field.weight)[field.mask].norm())
    assert many.outcome.stopped == "all 12 noise levels"
    assert torch.equal(pnp(field, checkpoint=weights, n_iterations=1, last_noise_ppm=0.03).chi_ppm, few.chi_ppm)
    assert float(many.chi_ppm[~field.mask].abs().max()) == 0


def test_what_cannot_be(scanned, weights):
    field = scanned[2]
    with pytest.raises(InputError, match="not of a denoiser"):
        pnp(field, checkpoint=SHIPPED_WEIGHTS)
    with pytest.raises(InputError, match="Give field_noise_ppm"):
        pnp(dataclasses.replace(field, noise_ppm=None), checkpoint=weights)
    with pytest.raises(InputError, match="n_inner is 0"):
        pnp(field, checkpoint=weights, n_inner=0)
    with pytest.raises(InputError, match="method=pnp"):
        PRIOR(field)
    with pytest.raises(InputError, match="noise_ppm"):
        Prior(start="noise", noise_ppm=(0.05, 0.002))
    if not DENOISER_WEIGHTS.exists():
        with pytest.raises(InputError, match="do not come with this version"):
            pnp(field)
