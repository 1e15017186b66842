import itertools

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.training.losses import dipole_consistency, gradient_difference, masked_l1, nrmse, relative_error
from qsmdl.training.module import QSMModule, warmup_cosine

SHAPE = (2, 1, 7, 8, 9)
VOXEL = torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
DIRECTION = torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.0, 0.8]])
NETWORK = {"architecture": "unet", "adapter": {}, "keywords": {"width": 2, "depth": 1}}


@pytest.fixture
def maps(generator):
    chi, truth = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    return chi, truth, torch.rand(SHAPE, generator=generator) > 0.4


def test_losses_vanish_on_the_truth_and_outside_the_mask(maps):
    chi, truth, mask = maps
    outside = truth + chi * ~mask
    assert masked_l1(outside, truth, mask) == 0
    assert relative_error(outside, truth, mask) < 1e-3
    assert dipole_consistency(outside, truth, mask, mask.float(), VOXEL, DIRECTION) == 0
    assert gradient_difference(outside, truth, mask) == 0
    assert nrmse(outside * 1.0, truth, mask) < 1e-4


def test_losses_are_means_in_ppm(maps):
    _, truth, mask = maps
    assert masked_l1(truth + 0.5, truth, mask) == pytest.approx(0.5, rel=1e-5)
    ramp = torch.arange(7.0).reshape(1, 1, 7, 1, 1).expand(SHAPE) * 0.2
    everywhere = torch.ones_like(mask)
    # one direction of three has the slope 0.2; the last voxel of each axis has no forward neighbour
    inner = 6 * 8 * 9 + 7 * 7 * 9 + 7 * 8 * 8
    assert gradient_difference(truth + ramp, truth, everywhere) == pytest.approx(0.2 * 6 * 8 * 9 / (inner), rel=0.2)


def test_the_relative_error_is_of_each_sample_and_bounded_in_its_gradient(maps):
    chi, truth, mask = maps
    truth = truth * torch.tensor([0.1, 10.0]).reshape(2, 1, 1, 1, 1)  # of which the second would drown the first in ppm
    errors = [float((chi - truth)[i][mask[i]].norm() / truth[i][mask[i]].norm()) for i in range(2)]
    assert float(relative_error(chi, truth, mask, floor_ppm=0.0)) == pytest.approx(sum(errors) / 2, rel=1e-4)
    same = truth.clone().requires_grad_(True)
    relative_error(same, truth, mask).backward()
    assert torch.isfinite(same.grad).all()
    assert relative_error(chi, truth, torch.zeros_like(mask)) == pytest.approx(0.01)  # nothing there: 1e-4 ppm over the floor


def test_dipole_consistency_is_the_padded_field_of_the_error(maps):
    chi, truth, mask = maps
    weight = torch.rand(SHAPE)
    expected = []
    for i in range(2):
        field = Dipole(SHAPE[2:], VOXEL[i].tolist(), DIRECTION[i].tolist())((chi - truth)[i, 0] * mask[i, 0])
        expected.append((field.abs() * weight[i, 0])[mask[i, 0]].sum())
    loss = dipole_consistency(chi, truth, mask, weight, VOXEL, DIRECTION)
    assert float(loss) == pytest.approx(float(sum(expected)) / int(mask.sum()), rel=1e-4)


def test_nrmse_is_the_challenges(maps):
    chi, truth, mask = maps
    r, t = chi[mask] - chi[mask].mean(), truth[mask] - truth[mask].mean()
    assert float(nrmse(chi, truth, mask)) == pytest.approx(float(100 * (r - t).norm() / t.norm()), rel=1e-4)


def test_losses_have_gradients(maps):
    chi, truth, mask = maps
    chi = chi.requires_grad_()
    total = masked_l1(chi, truth, mask) + dipole_consistency(chi, truth, mask, mask.float(), VOXEL, DIRECTION) + gradient_difference(chi, truth, mask)
    total.backward()
    assert chi.grad.abs().sum() > 0
    assert chi.grad[~mask].abs().max() == 0


def test_the_deep_grey_matter_counts_on_its_own(maps):
    """Its term is the relative error there, and 0.01 without a slope where a patch has none."""
    chi, truth, mask = maps
    region = mask.clone()
    region[:, :, 3:] = False
    batch = {"chi_ppm": truth, "mask": mask, "deep_grey": region, "weight": mask.float()}
    module = QSMModule(NETWORK, n_steps=5, relative=1.0, deep_grey=0.5, l1=0.0, dipole=0.0, gradient=0.0)
    loss, parts = module.loss(chi, batch)
    assert torch.equal(parts["deep_grey"], relative_error(chi, truth, region))
    assert float(loss) == pytest.approx(float(parts["relative"] + 0.5 * parts["deep_grey"]))
    assert set(QSMModule(NETWORK, n_steps=5, relative=1.0, l1=0.0, dipole=0.0, gradient=0.0).loss(chi, batch)[1]) == {"relative"}

    chi = chi.requires_grad_()
    module.loss(chi, batch | {"mask": torch.zeros_like(mask)})[0].backward()
    assert chi.grad[region].abs().min() > 0
    assert chi.grad[~region].abs().max() == 0
    _, parts = module.loss(chi, batch | {"deep_grey": torch.zeros_like(mask)})
    assert float(parts["deep_grey"].detach()) == pytest.approx(0.01)


def test_schedule():
    factors = [warmup_cosine(s, n_warmup=10, n_steps=110, final=0.1) for s in range(130)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.55)
    assert factors[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"learning_rate": 3.0}, "between 0 and 1"),
        ({"l1": -1.0}, "l1"),
        ({"l1": 0.0, "dipole": 0.0, "gradient": 0.0}, "No loss sees the whole"),
        ({"network": {"architecture": "vnet"}}, "known are"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        QSMModule(**({"network": NETWORK, "n_steps": 5} | changes))


def test_a_loss_that_is_not_finite_stops_before_the_weights_suffer(maps):
    module = QSMModule(NETWORK, n_steps=5)
    chi, truth, mask = maps
    batch = {
        "field_ppm": chi * float("nan"),
        "prior_ppm": chi.repeat(1, 3, 1, 1, 1),
        "chi_ppm": truth,
        "mask": mask,
        "weight": mask.float(),
        "voxel_size_mm": VOXEL,
        "b0_direction": DIRECTION,
    }
    with pytest.raises(InputError, match=r"loss is nan at step 0.*learning_rate"):
        module.training_step(batch, 0)
