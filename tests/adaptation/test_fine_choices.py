"""FINE with a network prior, with some of the weights, and under several views."""

import os
import signal

import pytest
import torch

from qsmdl.adaptation.ensemble import run_ensemble, views_of
from qsmdl.adaptation.fidelity import echo_fidelity
from qsmdl.adaptation.fine import FineInterrupted, fine_tune
from qsmdl.adaptation.penalties import NetworkPrior
from qsmdl.adaptation.settings import FineSettings
from qsmdl.data.inputs import Prior, prepare_inputs
from qsmdl.data.symmetry import parse_symmetries
from qsmdl.errors import InputError
from qsmdl.networks.build import build_network
from qsmdl.networks.scaling import PpmAdapter
from qsmdl.networks.unet import UNet3d

NETWORK = {"architecture": "unet", "adapter": {}, "keywords": {"width": 4, "depth": 1, "zero_head": True}}
FAST = {"learning_rate": 5e-3, "patience": 50, "precision": "float32"}
HELD = 0.03
SYMMETRIES = parse_symmetries(["identity", "flip_x", "sign"])


@pytest.fixture
def problem(sample, sample_field):
    torch.manual_seed(0)
    inputs = prepare_inputs(sample_field, Prior())
    return build_network(NETWORK), inputs, echo_fidelity(sample[0], sample_field, inputs.box, inputs.geometry)


def departure(problem, chi):
    network, inputs, _ = problem
    with torch.no_grad():
        return float(NetworkPrior(network(*inputs.arguments), inputs.mask, inputs.weight)(chi))


def test_the_prior_is_a_share_of_the_maps_own_variance(generator):
    shape = (1, 1, 5, 6, 7)
    chi, mask = torch.randn(shape, generator=generator), torch.rand(shape, generator=generator) > 0.3
    weight = torch.rand(shape, generator=generator) * mask
    prior = NetworkPrior(chi * mask, mask, weight)
    centre = (chi * weight).sum() / weight.sum()
    assert float(prior(chi * mask)) == 0
    # a map stretched about its mean by 10 % departs by 1 % of its variance, whatever its unit
    stretched = (centre + 1.1 * (chi - centre)) * mask
    assert float(prior(stretched)) == pytest.approx(0.01, rel=1e-4)
    assert float(NetworkPrior(1000 * chi * mask, mask, 7 * weight)(1000 * stretched)) == pytest.approx(0.01, rel=1e-4)
    with pytest.raises(InputError, match="constant in the mask"):
        NetworkPrior(torch.zeros(shape), mask, weight)


def test_a_prior_keeps_the_map_at_the_networks(problem):
    network, inputs, fidelity = problem
    plain, held, tied = (
        fine_tune(network, inputs.arguments, fidelity, FineSettings(n_steps=25, prior_weight=w, **FAST)) for w in (0.0, HELD, 1e7)
    )
    # The first objective is that of the untouched network, which departs from itself by nothing.
    assert plain.outcome.curve[0] == held.outcome.curve[0] == tied.outcome.curve[0]
    assert 0 < departure(problem, held.chi_ppm) < 0.7 * departure(problem, plain.chi_ppm)
    assert departure(problem, tied.chi_ppm) < 0.01 * departure(problem, plain.chi_ppm)
    chi = held.chi_ppm
    assert min(held.outcome.curve) == pytest.approx(float(fidelity(chi).loss) + HELD * departure(problem, chi), rel=1e-4)
    assert min(held.outcome.curve) < held.outcome.curve[0]


def moved(before, network):
    return {name for name, value in network.state_dict().items() if not torch.equal(before[name], value)}


def test_only_the_last_layers_move(problem):
    network, inputs, fidelity = problem
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = fine_tune(network, inputs.arguments, fidelity, FineSettings(n_steps=12, trained="last", **FAST))
    changed = moved(before, result.network)
    assert changed
    assert all(name.startswith(("network.decoder.0.", "network.head.")) for name in changed), changed
    assert min(result.outcome.curve) < 0.98 * result.outcome.curve[0]
    everything = fine_tune(network, inputs.arguments, fidelity, FineSettings(n_steps=12, **FAST))
    assert any(name.startswith("network.encoder.") for name in moved(before, everything.network))
    assert all(p.requires_grad for p in network.parameters())


def test_the_last_layers_of_networks():
    net = UNet3d(width=2, depth=2)
    assert net.last_layers() == [net.decoder[0], net.head]
    flat = UNet3d(width=2, depth=0)
    assert flat.last_layers() == [flat.encoder[0], flat.head]
    assert PpmAdapter(net).last_layers() == net.last_layers()
    silent = torch.nn.Conv3d(5, 1, 1)
    assert PpmAdapter(silent).last_layers() == [silent]


def test_the_fitted_network_makes_the_map(problem):
    network, inputs, fidelity = problem
    result = fine_tune(network, inputs.arguments, fidelity, FineSettings(n_steps=12, learning_rate=0.03, patience=50, precision="float32"))
    assert result.outcome.curve[-1] > min(result.outcome.curve)  # it overshoots, so that the best weights are not the last
    with torch.no_grad():
        torch.testing.assert_close(result.network(*inputs.arguments), result.chi_ppm)


def test_views_take_turns_and_their_mean_gains(problem):
    network, inputs, fidelity = problem
    views, used = views_of(inputs, SYMMETRIES), []

    def noted(number):
        return lambda net: used.append(number) or views[number](net)

    result = fine_tune(network, inputs.arguments, fidelity, FineSettings(n_steps=24, **FAST), views=[noted(n) for n in range(3)])
    assert used == [n % 3 for n in range(25)]
    before, after = (run_ensemble([net], views).mean_ppm for net in (network, result.network))
    assert float(fidelity(after).loss) < 0.98 * float(fidelity(before).loss)


SETTINGS = {"prior_weight": 5.0, "trained": "last", "n_steps": 8, **FAST}


def test_an_interrupted_fit_goes_on_exactly(problem):
    network, inputs, fidelity = problem
    views, settings = views_of(inputs, SYMMETRIES), FineSettings(**SETTINGS)
    whole = fine_tune(network, inputs.arguments, fidelity, settings, views=views)

    def interrupt(step):
        if step.number == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(FineInterrupted) as stop:
        fine_tune(network, inputs.arguments, fidelity, settings, views=views, on_step=interrupt)
    state = stop.value.result.state
    resumed = fine_tune(network, inputs.arguments, fidelity, settings, views=views, state=state)
    assert torch.equal(resumed.chi_ppm, whole.chi_ppm)
    assert resumed.outcome.curve == whole.outcome.curve
    assert resumed.outcome.residual == whole.outcome.residual
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    for changes, n in ({"prior_weight": 4.0}, 3), ({"trained": "all"}, 3), ({"tv_weight": 1.0}, 3), ({}, 2):
        with pytest.raises(InputError, match="Resume with the settings of its start"):
            fine_tune(network, inputs.arguments, fidelity, FineSettings(**SETTINGS | changes), views=views[:n], state=state)


def test_the_best_weights_survive_an_interruption(problem):
    """Where no later step is better, the fitted network is that of before."""
    network, inputs, fidelity = problem
    settings = {"learning_rate": 0.5, "patience": 50, "precision": "float32"}

    def interrupt(step):
        if step.number == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(FineInterrupted) as stop:
        fine_tune(network, inputs.arguments, fidelity, FineSettings(n_steps=3, **settings), on_step=interrupt)
    resumed = fine_tune(network, inputs.arguments, fidelity, FineSettings(n_steps=3, **settings), state=stop.value.result.state)
    assert min(resumed.outcome.curve) == resumed.outcome.curve[0]  # steps this large only harm
    for name, value in network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


@pytest.mark.parametrize(
    ("changes", "message"), [({"prior_weight": -1.0}, "prior_weight"), ({"trained": "first"}, "'first'; it must be one of all, last")]
)
def test_bad_choices_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        FineSettings(**changes)
