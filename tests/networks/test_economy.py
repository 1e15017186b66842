"""Less memory, or less time, but the same network."""

import copy

import pytest
import torch
from torch import nn

from qsmdl.errors import InputError
from qsmdl.networks.build import build_network
from qsmdl.networks.economy import checkpoint_blocks, compile_convolutions, compiler_errors, keep_statistics, not_compiled
from qsmdl.networks.unet import UNet3d
from qsmdl.training.module import QSMModule

SETTINGS = {"architecture": "unet", "adapter": {"n_priors": 2}, "keywords": {"width": 4, "depth": 2, "norm": "batch"}}
SHAPE = (12, 9, 10)


def network(**keywords):
    torch.manual_seed(0)
    return build_network({**SETTINGS, "keywords": {**SETTINGS["keywords"], **keywords}})


def inputs():
    generator = torch.Generator().manual_seed(1)
    field, priors, weight = (torch.randn(2, n, *SHAPE, generator=generator) for n in (1, 2, 1))
    return 0.05 * field, 0.05 * priors, torch.ones(2, 1, *SHAPE, dtype=torch.bool), weight.abs()


def step(net):
    """Output, gradients and state after one forward and backward pass."""
    net.zero_grad()
    chi = net(*inputs())
    chi.square().sum().backward()
    return chi.detach(), {name: p.grad.clone() for name, p in net.named_parameters()}, {k: v.clone() for k, v in net.state_dict().items()}


def same(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.allclose(a[name], b[name], **tolerance) if tolerance else torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("norm", ["none", "batch", "group", "instance"])
def test_recomputed_blocks_give_the_same_gradients_and_statistics(norm):
    plain, thrifty = network(norm=norm), network(norm=norm)
    checkpoint_blocks(thrifty)
    assert thrifty.network.checkpoint_blocks
    expected, found = step(plain), step(thrifty)
    assert torch.equal(expected[0], found[0])
    same(expected[1], found[1])
    same(expected[2], found[2])  # running statistics have seen the batch once
    assert max(float(g.abs().max()) for g in found[1].values()) > 0


def test_recomputed_blocks_keep_less():
    """Inner activations of blocks are not saved for the backward pass."""

    def saved(net):
        numbers = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: numbers.append(t.numel()) or t, lambda t: t):
            net(*inputs())
        return sum(numbers)

    plain, thrifty = network(), network()
    checkpoint_blocks(thrifty)
    assert saved(thrifty) < 0.5 * saved(plain)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_settings_reach_the_network_and_are_plain():
    module = QSMModule(SETTINGS, n_steps=2, compile=True, checkpoint_blocks=True)
    assert module.network.network.checkpoint_blocks
    assert module.network.network._compiled_call_impl is not None
    assert module.network.state_dict().keys() == network().state_dict().keys()
    # The averaged weights are a copy, which nobody trains.
    assert copy.deepcopy(module).network.network._compiled_call_impl is None
    assert (module.hparams["compile"], module.hparams["checkpoint_blocks"]) == (True, True)


def test_kept_statistics():
    """Training mode gives the maps of evaluation mode, statistics stay, and all weights still learn; without, batches change both."""
    module, free = QSMModule(SETTINGS, n_steps=2, freeze_norm=True), QSMModule(SETTINGS, n_steps=2)
    module.network.load_state_dict(network().state_dict())
    free.network.load_state_dict(network().state_dict())
    expected = module.eval().network(*inputs()).detach()
    for one in (module, free):
        assert one.train() is one
    before = {name: value.clone() for name, value in module.network.named_buffers()}
    chi, gradients, _ = step(module.network)
    assert torch.equal(chi, expected)
    same(dict(module.network.named_buffers()), before)
    assert min(float(g.abs().max()) for g in gradients.values()) > 0
    assert not torch.allclose(step(free.network)[0], expected)
    assert any(not torch.equal(value, before[name]) for name, value in free.network.named_buffers())


def test_networks_that_cannot_are_refused():
    with pytest.raises(InputError, match=r"training\.freeze_norm is true, but this network has no batch norm"):
        keep_statistics(network(norm="group"))
    bare = nn.Sequential(nn.Conv3d(1, 1, 3))
    with pytest.raises(InputError, match=r"training\.checkpoint_blocks is true, but no part"):
        checkpoint_blocks(bare)
    with pytest.raises(InputError, match=r"training\.compile is true, but no part"):
        compile_convolutions(bare)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_parts_are_found_wherever_they_are():
    inner = nn.ModuleDict({"a": UNet3d(width=2, depth=1), "b": nn.Sequential(UNet3d(width=2, depth=1))})
    compile_convolutions(inner)
    checkpoint_blocks(inner)
    for part in (inner["a"], inner["b"][0]):
        assert part._compiled_call_impl is not None
        assert part.checkpoint_blocks
    assert inner._compiled_call_impl is None


@pytest.mark.filterwarnings("ignore")
def test_a_missing_compiler_is_named():
    from torch._inductor import config

    net = network()
    compile_convolutions(net)
    with (
        config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}),
        pytest.raises(InputError, match=r"could not be compiled: .*no-such-compiler.*training\.compile=false"),
        compiler_errors(True),
    ):
        net(*inputs())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("thrifty", [False, True])
def test_compiled_networks_learn_the_same(thrifty):
    """One minute. Weights fit an uncompiled network, and other sizes run without being compiled."""
    plain, fast = network(), network()
    compile_convolutions(fast)
    if thrifty:
        checkpoint_blocks(fast)
    expected, found = step(plain), step(fast)
    assert torch.allclose(expected[0], found[0], atol=1e-5)
    same(expected[1], found[1], rtol=1e-3, atol=1e-5)
    same(expected[2], found[2], rtol=1e-4, atol=1e-6)
    plain.load_state_dict(fast.state_dict())
    field, priors, mask, weight = (v[..., :7] for v in inputs())
    with not_compiled(True), torch.no_grad():
        assert torch.equal(plain.eval()(field, priors, mask, weight), fast.eval()(field, priors, mask, weight))
