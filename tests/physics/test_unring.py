"""Gibbs ringing removal: rings go, smooth volumes stay, axes are alike."""

import math

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.physics.fourier import crop_kspace
from qsmdl.physics.unring import unring


def _box(shape: tuple[int, int, int]) -> torch.Tensor:
    volume = torch.zeros(shape)
    volume[11:31, 13:40, 14:37] = 1.0
    return volume


@pytest.mark.parametrize("coarse", [(24, 27, 31), (25, 30, 28)])
def test_a_box_rings_less_after(coarse: tuple[int, int, int]) -> None:
    fine = (48, 54, 56)
    ringing = crop_kspace(_box(fine), coarse).real.contiguous()
    cleaned = unring(ringing)
    flat = crop_kspace(torch.nn.functional.avg_pool3d(_box(fine)[None, None], 5, 1, 2)[0, 0], coarse).real < 1e-2
    assert cleaned[flat].abs().mean() < 0.45 * ringing[flat].abs().mean()
    assert float(cleaned.max()) < 1 + 0.5 * (float(ringing.max()) - 1)
    assert torch.allclose(cleaned.mean(), ringing.mean(), rtol=0.02)


def test_a_constant_is_untouched() -> None:
    volume = torch.full((9, 12, 10), 0.3)
    assert torch.allclose(unring(volume), volume, atol=1e-6)


def test_a_smooth_volume_changes_by_less_than_the_interpolation_error() -> None:
    """Linear interpolation by at most half a voxel costs up to |f''| / 8 per axis."""
    x = 2 * math.pi * torch.arange(40) / 40
    y = 2 * math.pi * torch.arange(35) / 35
    volume = (torch.sin(x)[:, None] * torch.cos(y))[:, :, None].expand(-1, -1, 9).contiguous()
    bound = ((2 * math.pi / 40) ** 2 + (2 * math.pi / 35) ** 2) / 8
    assert (unring(volume) - volume).abs().max() < 1.1 * bound


def test_axes_are_alike() -> None:
    volume = crop_kspace(torch.rand(20, 22, 26, generator=torch.Generator().manual_seed(3)), (14, 15, 17)).real.contiguous()
    # Permuted axis i of the volume is permuted axis order.index(i) of the result.
    order = (2, 0, 1)
    turned = unring(volume.permute(order), axes=(1, 2, 0))
    assert torch.allclose(turned, unring(volume).permute(order), atol=1e-6)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0), (1,)])
def test_a_box_gets_what_the_whole_would(axes: tuple[int, ...]) -> None:
    volume = crop_kspace(torch.rand(20, 22, 26, generator=torch.Generator().manual_seed(3)), (14, 15, 17)).real.contiguous()
    box = (slice(2, 9), slice(0, 12), slice(5, 17))
    expected = torch.zeros_like(volume)
    expected[box] = unring(volume, axes=axes)[box]
    assert torch.allclose(unring(volume, axes=axes, box=box), expected, atol=1e-6)


def test_mirror_image() -> None:
    volume = torch.rand(11, 12, 13, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(unring(volume.flip(0), axes=(0,)).flip(0), unring(volume, axes=(0,)), atol=1e-5)


def test_unknown_axes_short_axes_and_complex_volumes_are_refused() -> None:
    volume = torch.zeros(9, 9, 9)
    with pytest.raises(InputError, match="real and imaginary"):
        unring(volume.to(torch.complex64))
    with pytest.raises(InputError, match="one real volume"):
        unring(volume[None])
    with pytest.raises(InputError, match="n_shifts is 20"):
        unring(volume, n_shifts=20)
    with pytest.raises(InputError, match="axes is"):
        unring(volume, axes=(3,))
    with pytest.raises(InputError, match="at least 8"):
        unring(volume[:7])
