"""Unrolled networks: untrained they are the classical iteration; the published ones are configurations."""

import pytest
import torch
import yaml

from qsmdl.cli.catalogue import config_folder
from qsmdl.errors import InputError
from qsmdl.networks.build import architecture_fingerprint, build_network, load_tensors
from qsmdl.networks.data_term import Physics
from qsmdl.networks.economy import checkpoint_blocks
from qsmdl.physics.dipole import Dipole

SHAPE, VOXEL, B0 = (18, 17, 10), (1.0, 1.2, 2.0), (0.36, 0.48, 0.8)
PROXIMAL = {"proximal": "resnet", "width": 4, "depth": 1, "norm": "none", "zero_head": True}
BASE = {"architecture": "unrolled", "adapter": {"channels": ["mask"], "scale": 10.0, "residual": False}}


def settings(**keywords):
    return {**BASE, "keywords": {**PROXIMAL, **keywords}}


def arguments(*, echoes=False, n_priors=3):
    generator = torch.Generator().manual_seed(0)

    def random(n=1):
        return torch.randn(2, n, *SHAPE, generator=generator)

    mask = random() > -1
    field, prior, weight = 0.02 * random() * mask, 0.05 * random(n_priors) * mask, (1 + 0.2 * random()).clamp(min=0) * mask
    geometry = torch.tensor([VOXEL] * 2), torch.tensor([B0] * 2)
    if not echoes:
        return field, prior, mask, weight, random(3), Physics(*geometry)
    share = torch.rand(2, 4, *SHAPE, generator=generator)
    rates = torch.tensor([[7.5, 22.5, 37.5, 52.4]] * 2)
    return field, prior, mask, weight, random(3), Physics(*geometry, rates, share / share.sum(1, keepdim=True), 0.1 * random(4))


def operators(mask, weight):
    dipole = Dipole(SHAPE, VOXEL, B0)
    inside, squared = mask.float(), (weight.square() * mask).clamp(max=4.0)
    return (lambda x: dipole(x * inside) * inside), (lambda e: dipole(squared * e) * inside), squared


def test_untrained_it_is_gradient_descent():
    field, prior, mask, weight, *rest = arguments()
    network = build_network(settings(n_steps=4, step_size=0.7))
    forward, back, _ = operators(mask, weight)
    x = torch.zeros_like(field)
    for _ in range(4):
        x = x - 0.7 * back(forward(x) - field)
    with torch.no_grad():
        torch.testing.assert_close(network(field, prior, mask, weight, *rest), x, atol=1e-6, rtol=1e-4)


def test_the_adjoint_is_a_start():
    field, prior, mask, weight, *rest = arguments()
    network = build_network(settings(n_steps=1, data_step="none", start="adjoint", step_size=2.0, sees=["iterate"]))
    _, back, _ = operators(mask, weight)
    with torch.no_grad():
        torch.testing.assert_close(network(field, prior, mask, weight, *rest), 2 * back(field), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("keywords", [{"data_step": "cg", "n_cg": 60, "n_steps": 1}, {"data_step": "none", "final_cg": 60, "n_steps": 1}])
def test_untrained_with_conjugate_gradients_it_is_tikhonov(keywords):
    field, prior, mask, weight, *rest = arguments()
    network = build_network(settings(damping=0.1, **keywords))
    with torch.no_grad():
        x = network(field, prior, mask, weight, *rest)
    forward, back, _ = operators(mask, weight)
    torch.testing.assert_close(back(forward(x)) + 0.1 * x, back(field), atol=2e-6, rtol=1e-3)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_untrained_on_top_of_a_classical_map_it_is_that_map(n_steps):
    made = {"architecture": "unrolled", "adapter": {"channels": ["prior", "weight"], "n_priors": 5, "rest": 2, "scale": 20.0, "residual": True}}
    network = build_network({**made, "keywords": {**PROXIMAL, "n_steps": n_steps, "step_size": 0.0, "misfit": "echoes"}})
    given = arguments(echoes=True, n_priors=5)
    assert torch.equal(network(*given), given[1][:, :1] * given[2])


def test_what_a_start_explains_is_not_asked_for_again():
    """The data term sees the prior that holds the unexplained field, not the measured one."""
    made = {"architecture": "unrolled", "adapter": {"channels": ["mask"], "n_priors": 3, "rest": 1, "scale": 20.0, "residual": True}}
    network = build_network({**made, "keywords": {**PROXIMAL, "n_steps": 1, "step_size": 0.5}})
    field, prior, mask, weight, *rest = arguments()
    _, back, _ = operators(mask, weight)
    with torch.no_grad():
        found = network(field, prior, mask, weight, *rest)
        torch.testing.assert_close(found, (prior[:, :1] + 0.5 * back(prior[:, 1:2] * mask)) * mask, atol=1e-6, rtol=1e-4)
        assert torch.equal(found, network(2 * field, prior, mask, weight, *rest))


def test_mirroring_everything_mirrors_the_map():
    """With symmetric kernels; B0's component along the mirrored axis changes its sign."""
    network = build_network(settings(n_steps=3, step_size=0.7, sees=["iterate", "geometry"]))
    field, prior, mask, weight, magnitude, physics = arguments()
    direction = torch.tensor([[-B0[0], B0[1], B0[2]]] * 2)
    with torch.no_grad():
        straight = network(field, prior, mask, weight, magnitude, physics)
        mirrored = network(*(v.flip(2) for v in (field, prior, mask, weight, magnitude)), physics._replace(b0_direction=direction))
        other = network(*(v.flip(2) for v in (field, prior, mask, weight, magnitude)), physics)
    torch.testing.assert_close(mirrored.flip(2), straight, atol=1e-6, rtol=1e-4)
    assert not torch.allclose(other.flip(2), straight, atol=1e-4)


def test_every_weight_learns():
    torch.manual_seed(0)
    keywords = {"proximal": "unet", "width": 4, "depth": 1, "n_steps": 2, "misfit": "echoes"}
    made = {"architecture": "unrolled", "adapter": {"channels": ["prior", "magnitude"]}, "keywords": {**keywords, "sees": [
        "iterate", "gradient", "residual", "channels", "geometry"]}}  # fmt: skip
    network = build_network(made)
    network(*arguments(echoes=True)).square().sum().backward()
    silent = [name for name, p in network.named_parameters() if p.requires_grad and (p.grad is None or float(p.grad.abs().max()) == 0)]
    assert silent == []
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == ["network.log_damping"]


@pytest.mark.parametrize("name", ["unrolled", "lpcnn", "vandi", "proxvnet", "modl"])
def test_the_published_ones_are_configurations(name):
    made = yaml.safe_load((config_folder() / "network" / f"{name}.yaml").read_text())
    given = arguments(echoes=True, n_priors=made["adapter"]["n_priors"])
    network = build_network(made)
    chi = network(*given)
    assert chi.shape == given[0].shape
    assert bool(torch.isfinite(chi).all())
    chi.square().sum().backward()
    if name == "lpcnn":
        assert network.n_parameters == pytest.approx(0.45e6, rel=0.02)
    again = build_network(made)
    load_tensors(again, network.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(*given), network.eval()(*given))


def test_in_half_precision_the_data_term_stays_in_float32():
    torch.manual_seed(0)
    network = build_network(settings(n_steps=2, zero_head=False))
    given = arguments()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        low = network(*given)
    assert low.dtype == torch.float32
    with torch.no_grad():
        exact = network(*given)
    assert float((low - exact).norm() / exact.norm()) < 0.02


@pytest.mark.parametrize("proximal", ["unet", "resnet"])
@pytest.mark.parametrize("shared", [False, True])
def test_recomputed_blocks_give_the_same_gradients(proximal, shared):
    gradients = []
    for thrifty in (False, True):
        torch.manual_seed(0)
        network = build_network(settings(proximal=proximal, n_steps=2, shared=shared, zero_head=False, norm="batch"))
        if thrifty:
            checkpoint_blocks(network)
        network(*arguments()).square().sum().backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    assert len(gradients[0]) > 5
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain)


def test_fine_may_fit_the_last_proximal_network_alone():
    network = build_network(settings(n_steps=3))
    named = {id(p) for module in network.last_layers() for p in module.parameters()}
    assert {name for name, p in network.named_parameters() if id(p) in named} == {
        name for name, _ in network.named_parameters() if name.startswith(("network.proximal.2.head.", "network.proximal.2.last."))
    }


def test_fingerprints_follow_what_the_network_is():
    told = settings(n_steps=2, first={"width": 6})
    same = settings(n_steps=2, first={"width": 6, "depth": 1}, step_size=0.5)
    assert architecture_fingerprint(told) == architecture_fingerprint(same)
    changed = [{"n_steps": 3, "first": {"width": 6}}, {"first": {"width": 8}}, {"misfit": "field"}, {}]
    others = [settings(**{"n_steps": 2, **keywords}) for keywords in changed]
    assert len({architecture_fingerprint(s) for s in [told, *others]}) == 5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_steps": 0}, "n_steps is 0"),
        ({"data_step": "newton"}, "gradient, cg, none"),
        ({"misfit": "signal"}, "linear, field, echoes"),
        ({"proximal": "vnet"}, "unet, resnet"),
        ({"sees": ["truth"]}, "choose from iterate"),
        ({"data_step": "cg", "misfit": "field"}, "linear problem"),
        ({"shared": True, "first": {"width": 2}}, "Leave one of them out"),
        ({"damping": 0.0}, "damping is 0.0"),
        ({"widht": 3}, "do not fit"),
        ({"dropout": 1.0}, "below 1"),
    ],
)
def test_bad_settings_are_named(changed, message):
    with pytest.raises(InputError, match=message):
        build_network(settings(**changed))


def test_a_rest_that_is_no_prior():
    with pytest.raises(InputError, match="rest is 5"):
        build_network({**BASE, "adapter": {**BASE["adapter"], "rest": 5}, "keywords": PROXIMAL})


def test_without_physics_it_says_what_it_needs():
    field, prior, mask, weight, *_ = arguments()
    with pytest.raises(InputError, match="direction of B0"):
        build_network(settings())(field, prior, mask, weight)
