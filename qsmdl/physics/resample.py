"""Band-limited interpolation of periodic samples as a matrix."""

import torch
from torch import Tensor


def periodic_sinc(u: Tensor, n: int) -> Tensor:
    """The trigonometric interpolant of a unit sample at 0 on a periodic grid of n samples, at distances u in samples (float64)."""
    angle = torch.pi * u.double() / n
    wave = torch.sin(torch.pi * u.double())
    # At multiples of n both sine and denominator vanish, and the interpolant is 1.
    at_sample = torch.sin(angle).abs() < 1e-9
    below = torch.where(at_sample, torch.ones_like(angle), n * (torch.sin(angle) if n % 2 else torch.tan(angle)))
    return torch.where(at_sample, torch.ones_like(angle), wave / below)


def interpolation_matrix(positions: Tensor, n: int) -> Tensor:
    """Matrix [len(positions), n] that evaluates n periodic samples, taken as band-limited, at fractional indices. float64."""
    return periodic_sinc(positions.double()[:, None] - torch.arange(n, dtype=torch.float64, device=positions.device), n)
