"""Convolutions in half precision on the CPU, where oneDNN's cannot be relied on in short volumes."""

import pytest
import torch
from torch import nn

from qsmdl.networks.build import build_network
from qsmdl.networks.convolution import Conv3d
from qsmdl.networks.unet import UNet3d

SHORT = [(3, (2, 6, 5)), (3, (1, 6, 5)), (5, (3, 6, 5)), (5, (4, 6, 5)), (5, (6, 1, 5)), (5, (6, 6, 4)), (7, (6, 8, 8)), (7, (14, 2, 2))]
"""Sizes of kernels, and of volumes that are shorter along some axis."""


def poison():
    """Freed memory that is not finite, for whoever reads what was never written."""
    del [torch.full((n,), float("nan")) for n in (1000, 5000, 20000, 100000, 300000, 1000000)][:]


def half():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def gradients(convolution, x):
    convolution.zero_grad()
    x = x.clone().requires_grad_()
    poison()
    with half():
        y = convolution(x)
    y.float().square().sum().backward()
    return [x.grad, *(p.grad.clone() for p in convolution.parameters())]


@pytest.mark.parametrize(("kernel", "size"), SHORT)
def test_short_volumes_are_convolved_in_float32(kernel, size):
    torch.manual_seed(0)
    convolution = Conv3d(24, 48, kernel, padding=kernel // 2)
    x = torch.randn(2, 24, *size)
    with half():
        found = convolution(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, convolution(x))
    plain = nn.Conv3d(24, 48, kernel, padding=kernel // 2)
    plain.load_state_dict(convolution.state_dict())
    x.requires_grad_()
    plain(x).square().sum().backward()
    expected = [x.grad, *(p.grad for p in plain.parameters())]
    for _ in range(3):
        for ours, theirs in zip(gradients(convolution, x.detach()), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_others_stay_in_half_precision():
    convolution = Conv3d(2, 3, 3, padding=1)
    x = torch.randn(1, 2, 3, 4, 3)
    with half():
        assert convolution(x).dtype == torch.bfloat16
        assert Conv3d(2, 3, 1)(x[..., :1, :1, :1]).dtype == torch.bfloat16
    assert convolution(x).dtype == torch.float32


def test_what_comes_in_half_precision_is_taken_too():
    convolution = Conv3d(2, 3, 3, padding=1)
    x = torch.randn(1, 2, 2, 4, 4).bfloat16()
    with half():
        assert torch.equal(convolution(x), convolution(x.float()))


@pytest.mark.parametrize(
    "network",
    [
        {"architecture": "unet", "adapter": {}, "keywords": {"width": 4, "depth": 2, "up": "nearest"}},
        {"architecture": "unrolled", "adapter": {}, "keywords": {"proximal": "unet", "width": 4, "depth": 1}},
        {"architecture": "unrolled", "adapter": {}, "keywords": {"proximal": "resnet", "width": 4, "depth": 1}},
    ],
    ids=["unet", "unrolled unet", "unrolled resnet"],
)
def test_every_network_has_these(network):
    found = [module for module in build_network(network).modules() if isinstance(module, nn.Conv3d)]
    assert len(found) > 4
    assert {type(module) for module in found} == {Conv3d}


def test_small_patches_give_the_same_gradients_every_time():
    """2 voxels at the coarsest level, where the gradients were NaN, or others each time."""
    torch.manual_seed(0)
    network = UNet3d(in_channels=2, width=12, depth=3, norm="batch")
    x = torch.randn(2, 2, 16, 16, 16)
    first = None
    for _ in range(4):
        network.zero_grad()
        poison()
        with half():
            y = network(x)
        y.float().square().sum().backward()
        found = [p.grad.clone() for p in network.parameters()]
        assert all(torch.isfinite(gradient).all() for gradient in found)
        first = first or found
        assert all(torch.equal(a, b) for a, b in zip(found, first, strict=True))
