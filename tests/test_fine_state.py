"""The state of an interrupted FINE goes on with the same fit only: weights or a map of somebody else's do not come in by that door."""

import dataclasses

import pytest
import torch

from qsmdl.adaptation.fine import FineInterrupted
from qsmdl.errors import InputError
from qsmdl.io.weights import load_weights, save_weights
from qsmdl.methods import fine
from qsmdl.networks.build import build_network

NETWORK = {"architecture": "unet", "adapter": {}, "keywords": {"width": 2, "depth": 1, "zero_head": True}}


@pytest.fixture
def weights(tmp_path):
    for seed in (0, 1):
        torch.manual_seed(seed)
        card = {"network": NETWORK, "prior": {"regularisations": [0.012, 0.003, 0.05]}}
        save_weights(tmp_path / f"{seed}.safetensors", build_network(NETWORK).state_dict(), card)
    return [tmp_path / f"{seed}.safetensors" for seed in (0, 1)]


@pytest.fixture
def state(tmp_path, weights, sample, sample_field, monkeypatch):
    """Left by a fit of the first network that was stopped at its second step."""

    class Stopped:
        requested = False

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    stopped = Stopped()
    monkeypatch.setattr("qsmdl.adaptation.fine.DeferredInterrupt", lambda: stopped)

    def stop(step, value):
        stopped.requested = step == 1

    path = tmp_path / "state.safetensors"
    with pytest.raises(FineInterrupted):
        fine(sample_field, scan=sample[0], checkpoint=weights[0], n_steps=9, on_step=stop, state_path=path)
    stopped.requested = False
    return path


def go_on(state, weights, sample, field, **changes):
    settings = {"scan": sample[0], "checkpoint": weights[0], "n_steps": 2, "state_path": state}
    return fine(field, **settings | changes)


def test_the_same_fit_goes_on(state, weights, sample, sample_field):
    assert go_on(state, weights, sample, sample_field).outcome.n_steps == 2
    assert not state.exists()


def test_another_fit_does_not(state, weights, sample, sample_field):
    other = dataclasses.replace(sample[0], phase_rad=0.5 * sample[0].phase_rad)
    for changes, what in (
        ({"checkpoint": weights[1]}, "weights"),
        ({"scan": other}, "data"),
        ({"fidelity": "field"}, "fidelity"),
        ({"tv_weight": 0.1}, "tv_weight"),
        ({"prior_weight": 0.1}, "prior_weight"),
        ({"trained": "last"}, "trained"),
    ):
        with pytest.raises(InputError, match=rf"state\.safetensors is the state of another fit \(other {what}\)"):
            go_on(state, weights, sample, sample_field, **changes)
    assert state.exists()


@pytest.mark.parametrize("what", ["map", "weights", "objective"])
def test_a_changed_state_is_refused(state, weights, sample, sample_field, what):
    """The best map so far is in it: a truth in its place would be handed out as the network's."""
    tensors, card = load_weights(state)
    if what == "objective":
        card["fine_state"]["objective"] = 0.0
    else:
        name = "best_chi_ppm" if what == "map" else next(name for name in tensors if name.endswith("weight"))
        tensors[name] = tensors[name] + 0.01
    save_weights(state, tensors, card, overwrite=True)
    with pytest.raises(InputError, match="was changed after an interrupted FINE wrote it"):
        go_on(state, weights, sample, sample_field)
    save_weights(state, tensors, {"fine_state": card["fine_state"]}, overwrite=True)
    with pytest.raises(InputError, match="holds no state of an interrupted FINE"):
        go_on(state, weights, sample, sample_field)
