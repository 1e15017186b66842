import copy

import pytest
import torch

from qsmdl.adaptation.ensemble import RunningMoments, run_ensemble, views_of
from qsmdl.data.inputs import Prior, prepare_inputs
from qsmdl.data.symmetry import parse_symmetries
from qsmdl.errors import InputError
from qsmdl.networks.build import build_network

NETWORK = {"architecture": "unet", "adapter": {}, "keywords": {"width": 4, "depth": 1, "zero_head": True}}
SYMMETRIES = parse_symmetries(["identity", "flip_x", "sign", "flip_y+flip_z+sign"])


@pytest.fixture
def inputs(sample_field):
    return prepare_inputs(sample_field, Prior())


def network(seed, *, zero_head=False):
    torch.manual_seed(seed)
    return build_network(NETWORK | {"keywords": {"width": 4, "depth": 1, "zero_head": zero_head}}).eval()


def test_moments_are_those_of_all_maps_at_once(generator):
    maps = 100 + torch.randn(7, 1, 1, 4, 5, 6, generator=generator)
    moments = RunningMoments()
    for one in maps:
        moments.add(one)
    torch.testing.assert_close(moments.mean, maps.mean(0))
    torch.testing.assert_close(moments.std, maps.std(0), rtol=1e-4, atol=1e-5)
    assert moments.n == 7


def test_one_member_has_no_spread_and_none_no_mean():
    moments, one = RunningMoments(), torch.ones(2, 3)
    with pytest.raises(InputError, match="without members"):
        moments.mean  # noqa: B018
    moments.add(one)
    assert moments.std is None
    moments.add(3 * one)
    assert torch.equal(moments.mean, 2 * one)
    assert torch.equal(one, torch.ones(2, 3))  # what was added is not written to


def test_members_are_networks_times_symmetries(inputs):
    networks = [network(0), network(1)]
    found = run_ensemble(iter(networks), views_of(inputs, SYMMETRIES))
    with torch.no_grad():
        maps = torch.stack([s.restore(n(*s(inputs).arguments)) for n in networks for s in SYMMETRIES])
    assert found.n_members == 8
    torch.testing.assert_close(found.mean_ppm, maps.mean(0))
    torch.testing.assert_close(found.std_ppm, maps.std(0), rtol=1e-3, atol=1e-6)
    assert float(found.std_ppm[inputs.mask].mean()) > 1e-4  # such networks do not keep the symmetries
    assert not found.mean_ppm.requires_grad


def test_a_network_that_keeps_the_symmetries_has_no_spread(inputs):
    """Untrained, it hands on its prior, of which the physics is in its place under every view."""
    found = run_ensemble([network(0, zero_head=True)], views_of(inputs, SYMMETRIES))
    assert torch.equal(found.mean_ppm, inputs.prior_ppm[:, :1] * inputs.mask)
    assert float(found.std_ppm.abs().max()) == 0


def test_the_mean_keeps_the_symmetries_that_it_is_made_of(inputs):
    """Over a whole group, the ensemble of the mirrored scan is the mirrored ensemble, whatever the network."""
    group = parse_symmetries(["identity", "flip_x", "sign", "flip_x+sign"])
    one = network(3)
    plain = run_ensemble([one], views_of(inputs, group)).mean_ppm
    mirrored = run_ensemble([copy.deepcopy(one)], views_of(group[3](inputs), group)).mean_ppm
    torch.testing.assert_close(group[3].restore(mirrored), plain, atol=1e-6, rtol=1e-5)
