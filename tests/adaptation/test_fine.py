import copy
import math
import os
import signal

import pytest
import torch

from qsmdl.adaptation.fidelity import Fidelity, echo_fidelity, field_fidelity
from qsmdl.adaptation.fine import FineInterrupted, FineSettings, fine_tune, total_variation
from qsmdl.data.inputs import Prior, prepare_inputs
from qsmdl.errors import InputError
from qsmdl.networks.build import build_network
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import FieldMap, Geometry
from qsmdl.units import rad_per_ppm

NETWORK = {"architecture": "unet", "adapter": {}, "keywords": {"width": 4, "depth": 1, "zero_head": True}}
FAST = {"learning_rate": 5e-3, "patience": 50}


@pytest.fixture
def problem(sample, sample_field):
    torch.manual_seed(0)
    inputs = prepare_inputs(sample_field, Prior())
    return build_network(NETWORK), inputs, echo_fidelity(sample[0], sample_field, inputs.box, inputs.geometry)


def synthetic(seed=0, noise=0.0):
    """A fidelity with a known answer: echoes of a known map on a grid that is no cube."""
    geometry = Geometry((9, 10, 8), (1.0, 2.0, 1.5), (0.36, -0.48, 0.8))
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(geometry.shape, dtype=torch.bool)
    mask[1:-1, 1:-1, 1:-1] = True
    chi = 0.05 * torch.randn(geometry.shape, generator=generator) * mask
    field = Dipole.of(geometry)(chi)
    c = (rad_per_ppm(7.0, 0.004), rad_per_ppm(7.0, 0.012))
    phase = torch.stack([ci * field + noise * torch.randn(field.shape, generator=generator) for ci in c])
    return geometry, mask, chi, field, c, phase


def test_the_true_map_has_no_misfit_and_the_gradient_is_exact():
    geometry, mask, chi, field, c, phase = synthetic()
    weight = torch.rand(2, *geometry.shape) * mask
    fidelity = Fidelity(Dipole.of(geometry), phase, weight, mask, c, field, noise_scale=1.0)
    assert fidelity(chi[None, None]).loss < 1e-10
    exact = Fidelity(
        Dipole.of(geometry, dtype=torch.float64), phase.double(), weight.double(), mask, c, field.double(), noise_scale=1.0, free_offset=False
    )
    start = (0.02 * torch.randn(1, 1, *geometry.shape, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: exact(x).loss, (start,), atol=1e-6)


def test_misfit_is_that_of_complex_signals():
    geometry, mask, _, field, c, phase = synthetic(noise=0.3)
    weight = torch.rand(2, *geometry.shape) * mask
    other = 0.05 * torch.randn(1, 1, *geometry.shape)
    modelled = Dipole.of(geometry)(other)[0, 0]
    expected = sum(
        float((w.square() * (torch.exp(1j * ci * modelled) - torch.exp(1j * p)).abs().square())[mask].sum())
        for ci, w, p in zip(c, weight, phase, strict=True)
    ) / int(mask.sum())
    fidelity = Fidelity(Dipole.of(geometry), phase, weight, mask, c, field, noise_scale=1.0, free_offset=False)
    assert float(fidelity(other).loss) == pytest.approx(expected, rel=1e-4)


def test_a_constant_of_the_field_is_free():
    geometry, mask, chi, field, c, phase = synthetic()
    weight = torch.ones(2, *geometry.shape) * mask
    shifted = torch.stack([p + ci * 0.01 for ci, p in zip(c, phase, strict=True)])
    fidelity = Fidelity(Dipole.of(geometry), shifted, weight, mask, c, field + 0.01, noise_scale=1.0)
    assert fidelity(chi[None, None]).loss < 1e-8


def test_a_known_part_of_the_map_is_taken_off_the_data():
    torch.manual_seed(0)
    geometry, mask, chi, field, c, phase = synthetic(noise=0.1)
    known = 0.02 * torch.randn(1, 1, *geometry.shape)
    fidelity = Fidelity(Dipole.of(geometry), phase, torch.rand(2, *geometry.shape) * mask, mask, c, field, noise_scale=2.0)
    beside, rest = fidelity.beside(known), chi[None, None] - known
    expected = fidelity(chi[None, None])
    assert float(fidelity(rest).loss) > 1.2 * float(expected.loss)
    torch.testing.assert_close(beside(rest).loss, expected.loss, rtol=1e-4, atol=0)
    torch.testing.assert_close(beside(rest).whitened, expected.whitened, rtol=1e-4, atol=0)


def test_noise_alone_has_a_whitened_variance_of_one(sample, sample_field):
    """The field that made the echoes, plus nothing: what remains is noise, and the weights know how much."""
    geometry, mask, chi, field, c, phase = synthetic(noise=0.05)
    noise_ppm = 0.05 / math.sqrt(sum(ci**2 for ci in c)) * torch.ones(geometry.shape)
    weight = torch.full((2, *geometry.shape), 1 / 0.05) * mask
    scale = float(weight.sum()) / (2 * int(mask.sum()))
    fidelity = Fidelity(Dipole.of(geometry), phase, weight / scale, mask, c, field, noise_scale=scale)
    assert float(fidelity(chi[None, None]).whitened) == pytest.approx(1.0, abs=0.12)
    single = field_fidelity(
        FieldMap(geometry, field + noise_ppm * torch.randn(geometry.shape), mask, mask.float(), noise_ppm),
        (slice(0, 9), slice(0, 10), slice(0, 8)),
        geometry,
    )
    assert float(single(chi[None, None]).whitened) == pytest.approx(1.0, abs=0.15)


def test_the_single_field_cannot_wrap():
    geometry, mask, _, field, _, _ = synthetic()
    strong = FieldMap(geometry, 40 * field, mask, mask.float())
    fidelity = field_fidelity(strong, (slice(0, 9), slice(0, 10), slice(0, 8)), geometry)
    assert float(fidelity.phase_rad.abs().max()) <= math.pi / 2 + 1e-5
    assert fidelity(torch.zeros(1, 1, *geometry.shape)).whitened is None


def test_fine_lowers_the_residual_and_leaves_the_network_alone(problem):
    network, inputs, fidelity = problem
    before = copy.deepcopy(network.state_dict())
    seen = []
    result = fine_tune(network, inputs.arguments, fidelity, FineSettings(n_steps=12, **FAST), on_step=seen.append)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert not network.network.checkpoint_blocks
    assert result.outcome.stopped == "max steps (12)"
    assert result.outcome.n_steps == 12 == len(result.outcome.curve) - 1 == seen[-1].number
    assert min(result.outcome.curve) < 0.95 * result.outcome.curve[0]
    assert result.outcome.residual < float(fidelity(network(*inputs.arguments)).whitened)
    # the map returned is the best one seen, and really has that residual
    assert float(fidelity(result.chi_ppm).whitened) == pytest.approx(result.outcome.residual, rel=1e-5)
    assert float(fidelity(result.chi_ppm).loss) == pytest.approx(min(result.outcome.curve), rel=1e-5)


def test_fine_stops_by_discrepancy(problem):
    network, inputs, fidelity = problem
    start = float(fidelity(network(*inputs.arguments)).whitened)
    result = fine_tune(network, inputs.arguments, fidelity, FineSettings(n_steps=60, target=0.9 * start, **FAST))
    assert result.outcome.stopped.startswith("discrepancy")
    assert result.outcome.residual <= 0.9 * start
    assert 0 < result.outcome.n_steps < 60


def test_fine_stops_by_stagnation_and_by_time(problem):
    network, inputs, fidelity = problem
    result = fine_tune(network, inputs.arguments, fidelity, FineSettings(n_steps=60, learning_rate=1e-9, patience=3))
    assert result.outcome.stopped.startswith("stagnation")
    assert result.outcome.n_steps < 60
    result = fine_tune(network, inputs.arguments, fidelity, FineSettings(n_steps=60, time_budget_s=1e-3))
    assert result.outcome.stopped.startswith("time budget")


def test_tv_makes_the_map_flatter(problem):
    network, inputs, fidelity = problem
    plain, flat = (
        fine_tune(network, inputs.arguments, fidelity, FineSettings(n_steps=15, tv_weight=w, **FAST), (5.0, 5.0, 5.0)).chi_ppm for w in (0.0, 300.0)
    )
    assert total_variation(flat, inputs.mask, (5.0, 5.0, 5.0)) < 0.9 * total_variation(plain, inputs.mask, (5.0, 5.0, 5.0))


def test_an_interrupted_fit_goes_on_where_it_was(problem):
    network, inputs, fidelity = problem
    settings = FineSettings(n_steps=8, **FAST)
    whole = fine_tune(network, inputs.arguments, fidelity, settings)

    def interrupt(step):
        if step.number == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(FineInterrupted) as stop:
        fine_tune(network, inputs.arguments, fidelity, settings, on_step=interrupt)
    assert stop.value.result.outcome.n_steps == 3
    resumed = fine_tune(network, inputs.arguments, fidelity, settings, state=stop.value.result.state)
    assert torch.equal(resumed.chi_ppm, whole.chi_ppm)
    assert resumed.outcome.curve == whole.outcome.curve


def test_a_state_of_another_network_is_refused(problem):
    network, inputs, fidelity = problem
    state = fine_tune(network, inputs.arguments, fidelity, FineSettings(n_steps=1)).state
    other = build_network(NETWORK | {"keywords": {"width": 6, "depth": 1}})
    with pytest.raises(InputError, match="another network"):
        fine_tune(other, inputs.arguments, fidelity, FineSettings(), state=state)


def test_batch_statistics_stay_frozen(sample, sample_field):
    inputs = prepare_inputs(sample_field, Prior())
    fidelity = echo_fidelity(sample[0], sample_field, inputs.box, inputs.geometry)
    network = build_network(NETWORK | {"keywords": {"width": 4, "depth": 1, "norm": "batch"}})
    state = fine_tune(network, inputs.arguments, fidelity, FineSettings(n_steps=2)).state
    mean = next(k for k in state.tensors if k.endswith("running_mean"))
    assert state.tensors[mean].abs().max() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"n_steps": 0}, "n_steps"), ({"n_steps": 1.5}, "whole number"), ({"learning_rate": "x"}, "learning_rate"), ({"learning_rate": 0.0}, "positive"),
     ({"time_budget_s": 0.0}, "positive"), ({"tv_weight": -1.0}, "tv_weight"), ({"target": math.inf}, "finite")],
)  # fmt: skip
def test_bad_settings_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        FineSettings(**changes)


def test_echoes_need_noise(sample, sample_field):
    bare = FieldMap(sample_field.geometry, sample_field.field_ppm, sample_field.mask, sample_field.weight)
    inputs = prepare_inputs(bare, Prior())
    with pytest.raises(InputError, match="fit_field"):
        echo_fidelity(sample[0], bare, inputs.box, inputs.geometry)


def test_a_loss_that_is_not_finite_is_an_error(problem):
    network, inputs, fidelity = problem
    with pytest.raises(InputError, match=r"not finite|loss is nan"):
        fine_tune(network, (inputs.field_ppm * math.nan, *inputs.arguments[1:]), fidelity, FineSettings())
