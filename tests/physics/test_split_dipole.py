"""The field by near and far part against one padded transform."""

import math

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.physics.dipole import Dipole
from qsmdl.physics.fourier import fast_shape
from qsmdl.physics.split_dipole import split_dipole_field

OBLIQUE = (0.36, 0.48, 0.8)


def balls(shape, size):
    """Soft balls of both signs, one of them at the edge of the grid."""
    grid = torch.stack(torch.meshgrid(*(torch.arange(n) * v for n, v in zip(shape, size, strict=True)), indexing="ij"))
    chi = torch.zeros(shape)
    for share, radius, value in (((0.3, 0.5, 0.4), 7.0, 1.0), ((0.6, 0.7, 0.5), 8.0, -0.5), ((1.0, 0.5, 0.5), 5.0, 2.0)):
        centre = torch.tensor([s * (n - 1) * v for s, n, v in zip(share, shape, size, strict=True)]).reshape(3, 1, 1, 1)
        chi += value * torch.sigmoid((radius - (grid - centre).norm(dim=0)) / (0.6 * max(size)))
    return chi


@pytest.mark.parametrize(
    ("shape", "size", "b0"),
    [((50, 63, 46), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0)), ((50, 63, 46), (1.0, 1.0, 1.0), OBLIQUE), ((60, 50, 31), (0.7, 1.0, 1.6), OBLIQUE)],
)
def test_equals_the_padded_transform(shape, size, b0):
    chi = balls(shape, size)
    expected = Dipole(shape, size, b0, fft_shape=fast_shape(shape, 4))(chi)
    found = split_dipole_field(chi, size, b0, padding=4.0)
    scale = float(expected.abs().max())
    assert float((found - expected).abs().max()) < 1.5e-3 * scale
    assert float((found - expected).std()) < 1e-3 * float(expected.std())


def test_is_closer_to_the_truth_than_a_grid_twice_as_large():
    """A hard ball's field outside, in closed form; the padding of 4 costs the far part little."""
    n, radius = 45, 6.0
    offset = torch.arange(n) - (n - 1) / 2
    x, y, z = torch.meshgrid(offset, offset, offset, indexing="ij")
    distance = torch.sqrt(x * x + y * y + z * z)
    chi = torch.sigmoid((radius - distance) / 0.8)
    # A soft ball acts outside as its total susceptibility does at the centre.
    far = distance > radius + 8
    expected = float(chi.sum()) / (4 * math.pi) * (3 * z * z / distance.square() - 1) / distance**3
    found = split_dipole_field(chi, (1.0, 1.0, 1.0), (0.0, 0.0, 1.0), padding=4.0)
    padded = Dipole(chi.shape, (1, 1, 1), (0, 0, 1), fft_shape=fast_shape(chi.shape, 2))(chi)
    error, usual = (float((f - expected)[far].square().mean().sqrt()) for f in (found, padded))
    assert error < 0.02 * float(expected[far].square().mean().sqrt())
    assert error < 0.5 * usual


def test_bad_input():
    with pytest.raises(InputError, match="one volume"):
        split_dipole_field(torch.zeros(1, 8, 8, 8), (1, 1, 1), (0, 0, 1))
    with pytest.raises(InputError, match=r"padding is 0\.5"):
        split_dipole_field(torch.zeros(8, 8, 8), (1, 1, 1), (0, 0, 1), padding=0.5)
    with pytest.raises(InputError, match="length 1"):
        split_dipole_field(torch.zeros(8, 8, 8), (1, 1, 1), (0, 0, 2))
