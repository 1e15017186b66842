import pytest
import torch
import torch.nn.functional as f

from qsmdl.errors import InputError
from qsmdl.networks.build import build_network, load_tensors
from qsmdl.networks.scaling import PpmAdapter
from qsmdl.networks.unet import UNet3d

SETTINGS = {"architecture": "unet", "adapter": {"channels": ["field", "prior", "weight"]}, "keywords": {"width": 4, "depth": 2, "zero_head": True}}


def inputs(shape=(1, 1, 9, 10, 11), seed=0):
    generator = torch.Generator().manual_seed(seed)
    field, prior = 0.1 * torch.randn(shape, generator=generator), 0.1 * torch.randn(1, 3, *shape[2:], generator=generator)
    return field, prior, torch.rand(shape, generator=generator) > 0.3, torch.rand(shape, generator=generator)


@pytest.mark.parametrize("norm", ["none", "batch", "group", "instance"])
@pytest.mark.parametrize("up", ["transposed", "nearest"])
def test_any_size_goes_in_and_comes_out(norm, up):
    network = UNet3d(in_channels=2, width=4, depth=2, norm=norm, up=up)
    for shape in [(9, 10, 11), (8, 8, 8), (5, 16, 7)]:
        assert network(torch.randn(2, 2, *shape)).shape == (2, 1, *shape)


def test_qsmnet_has_its_published_size():
    # 5^3 kernels, 32 to 512 channels, two convolutions a level: 26 * 2^2 as many weights as 3^3 kernels would have, about 99 million in all.
    network = UNet3d(width=32, depth=4, kernel_size=5, norm="batch", activation="leaky_relu")
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(99e6, rel=0.02)


def test_the_output_moves_with_the_input():
    """Shifting by the pooling's period shifts the output: nothing is off by a voxel, wherever the padding went."""
    network = UNet3d(width=4, depth=2).double()
    x = torch.zeros(1, 1, 33, 34, 35, dtype=torch.float64)
    x[..., 12:16, 12:16, 12:16] = torch.randn(4, 4, 4, dtype=torch.float64)
    moved = torch.roll(x, (4, 4, 4), (2, 3, 4))
    difference = torch.roll(network(x), (4, 4, 4), (2, 3, 4)) - network(moved)
    assert difference[..., 12:24, 12:24, 12:24].abs().max() < 1e-12


def test_odd_padding_keeps_voxels_in_place():
    """A network of 1 x 1 x 1 kernels without depth acts voxel by voxel; with depth the skip connection must line up."""
    network = UNet3d(width=1, depth=2, n_convolutions=1, kernel_size=1)
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
        network.encoder[0][0].weight.fill_(1.0)
        network.decoder[0][0].weight[:, 0].fill_(1.0)
        network.head.weight.fill_(1.0)
    x = torch.rand(1, 1, 7, 9, 10)
    assert torch.equal(network(x), x)


def test_checkpointing_changes_memory_not_gradients():
    network = UNet3d(width=4, depth=2)
    x = torch.randn(1, 1, 9, 10, 11)
    gradients = []
    for checkpoint in (False, True):
        network.checkpoint_blocks = checkpoint
        network.zero_grad()
        network(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-5, rtol=1e-4)


def test_an_untrained_residual_network_is_its_prior():
    field, prior, mask, weight = inputs()
    assert torch.equal(build_network(SETTINGS)(field, prior, mask, weight), prior[:, :1] * mask)


def test_ppm_in_ppm_out():
    """The adapter multiplies by its scale, divides by it, adds the prior and masks: nothing else."""

    class First(torch.nn.Module):
        def forward(self, x):
            return x[:, :1] ** 2

    field, prior, mask, weight = inputs()
    adapter = PpmAdapter(First(), channels=("field", "mask"), scale=10.0, residual=True)
    assert torch.allclose(adapter(field, prior, mask, weight), ((field * 10) ** 2 / 10 + prior[:, :1]) * mask)
    adapter = PpmAdapter(First(), channels=("prior",), scale=5.0, residual=False)
    assert torch.allclose(adapter(field, prior, mask, weight), (prior[:, :1] * 5) ** 2 / 5 * mask)


def test_bfloat16_stays_close_to_float32():
    network = build_network(SETTINGS | {"keywords": {"width": 4, "depth": 2}})
    arguments = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = network(*arguments)
    assert low.dtype == torch.float32
    assert f.mse_loss(low, network(*arguments)).sqrt() < 0.02 * network(*arguments).std()


def test_tensors_of_another_architecture_are_refused():
    network = build_network(SETTINGS)
    other = build_network(SETTINGS | {"keywords": {"width": 8, "depth": 2}})
    with pytest.raises(InputError, match=r"another architecture: 0 tensors missing.*stored.*needed"):
        load_tensors(network, other.state_dict())
    deeper = build_network(SETTINGS | {"keywords": {"width": 4, "depth": 3}})
    with pytest.raises(InputError, match="tensors missing"):
        load_tensors(deeper, network.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "os.system"}, "known are unet, resnet, unrolled"),
        (SETTINGS | {"keywords": {"widht": 4}}, "do not fit"),
        (SETTINGS | {"keywords": {"width": "4"}}, "whole number"),
        (SETTINGS | {"keywords": {"kernel_size": 4}}, "half a voxel"),
        (SETTINGS | {"keywords": {"norm": "layer"}}, "one of none"),
        (SETTINGS | {"adapter": {"channels": ["truth"]}}, "choose from field"),
        (SETTINGS | {"adapter": {"channels": ["field"], "scale": 0}}, "scale"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        build_network(settings)
