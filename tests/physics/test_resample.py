"""Trigonometric interpolation: exact below Nyquist, and through the samples."""

import pytest
import torch

from qsmdl.physics.resample import interpolation_matrix


@pytest.mark.parametrize("n", [7, 8])
def test_interpolation_is_exact_for_waves_below_nyquist(n):
    positions = torch.tensor([0.0, 0.3, 2.5, n - 0.1, n + 0.7], dtype=torch.float64)
    samples = torch.arange(n, dtype=torch.float64)
    for k in range((n + 1) // 2):
        wave = torch.cos(2 * torch.pi * k * samples / n + 0.4)
        assert torch.allclose(interpolation_matrix(positions, n) @ wave, torch.cos(2 * torch.pi * k * positions / n + 0.4), atol=1e-12)


def test_interpolation_hits_the_samples():
    assert torch.allclose(interpolation_matrix(torch.arange(6.0), 6), torch.eye(6, dtype=torch.float64), atol=1e-12)
