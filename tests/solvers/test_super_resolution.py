"""Volumes on a finer grid, with the frequencies that a k-space crop cut away filled in by total variation."""

import pytest
import torch

from qsmdl.errors import InputError
from qsmdl.physics.fourier import crop_kspace
from qsmdl.solvers.super_resolution import super_resolve


def blocks(shape=(40, 48, 44)):
    """Two boxes, whose edges lie between the samples of a grid half as fine, on a background."""
    volume = torch.zeros(shape)
    volume[9:24, 11:30, 9:27] = 1.0
    volume[15:20, 17:24, 15:38] = -0.5
    return volume


@pytest.mark.parametrize(("shape", "factor"), [((40, 48, 44), 2), ((38, 42, 46), 2), ((42, 48, 45), 3)])
def test_sharp_edges_come_back_from_a_crop(shape, factor):
    """Of even and odd sizes."""
    truth = blocks(shape)
    coarse = crop_kspace(truth, [n // factor for n in shape]).real
    blurred = super_resolve(coarse, weight=1e-9, factor=factor, n_iterations=1)
    found = super_resolve(coarse, weight=5e-3, factor=factor)
    assert found.shape == truth.shape
    assert (found - truth).norm() < 0.6 * (blurred - truth).norm()
    assert (crop_kspace(found, coarse.shape).real - coarse).abs().max() < 0.1


def test_what_is_known_stays_where_little_is_asked_for():
    coarse = torch.randn((12, 11, 10), generator=torch.Generator().manual_seed(0))
    again = super_resolve(coarse, weight=1e-7)
    # but for the highest frequency of an even axis
    spectrum = torch.fft.fftn(crop_kspace(again, coarse.shape).real - coarse)
    spectrum[6], spectrum[:, :, 5] = 0, 0
    assert spectrum.abs().max() < 1e-3 * torch.fft.fftn(coarse).abs().max()


def objective(found, coarse, weight, share):
    """What is minimised, with the known frequencies alone."""
    steps = torch.stack([(found.roll(-1, a) - found) * share[a] for a in range(3)])
    misfit = crop_kspace(found, coarse.shape).real - coarse
    # The mean over fine voxels stands for the sum over coarse ones in Parseval's terms.
    return 0.5 * misfit.square().sum() * found.numel() / coarse.numel() + weight * steps.norm(dim=0).sum()


def test_nothing_nearby_has_a_lower_objective():
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn((9, 7, 11), generator=generator, dtype=torch.float64)
    size = (1.0, 1.0, 2.0)
    found = super_resolve(coarse, weight=0.05, voxel_size_mm=size, n_iterations=3000)
    share = (1.0, 1.0, 0.5)
    least = objective(found, coarse, 0.05, share)
    assert objective(super_resolve(coarse, weight=0.05, n_iterations=3000), coarse, 0.05, share) > least * (1 + 1e-6)
    for size_of_step in (1e-3, 1e-2, 0.1):
        for _ in range(5):
            other = found + size_of_step * torch.randn(found.shape, generator=generator, dtype=torch.float64)
            assert objective(other, coarse, 0.05, share) > least
    assert objective(0.999 * found, coarse, 0.05, share) > least
    assert objective(1.001 * found, coarse, 0.05, share) > least


def test_a_constant_stays_and_units_do_not_matter():
    constant = torch.full((8, 9, 10), 3.0)
    torch.testing.assert_close(super_resolve(constant, weight=0.1), torch.full((16, 18, 20), 3.0))
    coarse = crop_kspace(blocks(), (20, 24, 22)).real
    torch.testing.assert_close(super_resolve(coarse * 1e3, weight=5.0) / 1e3, super_resolve(coarse, weight=5e-3), rtol=1e-3, atol=1e-4)


def test_bad_input_is_named():
    volume = torch.zeros(8, 8, 8)
    with pytest.raises(InputError, match="needs one real volume"):
        super_resolve(volume.to(torch.complex64), weight=1.0)
    with pytest.raises(InputError, match=r"factor is 0"):
        super_resolve(volume, weight=1.0, factor=0)
    with pytest.raises(InputError, match="weight"):
        super_resolve(volume, weight=0.0)
