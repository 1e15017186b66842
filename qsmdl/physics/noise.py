"""Noise of the complex signal, estimated from the scan itself."""

import math

import torch
from scipy.stats import chi2
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.scan import Scan

_MIN_AIR_VOXELS = 1000
_AIR_SHARE = 0.1
_SMALLEST_SHARE = 1e-6
_MEDIAN_OF_RAYLEIGH = math.sqrt(2 * math.log(2))


def sigma_from_residuals(residual_rad: Tensor, magnitude: Tensor, n_parameters: int) -> float:
    """Standard deviation of the noise in the real and in the imaginary part, from the misfit of a phase model.

    residual_rad, magnitude: [echo, voxel]; n_parameters: fitted numbers per voxel. At high SNR (M * residual / sigma)^2 summed over the echoes
    follows a chi-square distribution with n_echo - n_parameters degrees of freedom; its median over the voxels gives sigma, so that vessels, dephased
    voxels and wrong wraps in less than half of the voxels hardly count. Never less than 1e-6 of the largest magnitude, so that noise-free scans keep
    finite weights.
    """
    n_free = residual_rad.shape[0] - n_parameters
    if n_free < 1:
        raise InputError(
            f"{residual_rad.shape[0]} echoes leave {n_free} degrees of freedom after a fit of {n_parameters} parameters; one is needed. "
            "Give sigma, or scan more echoes."
        )
    power = (magnitude * residual_rad).square().sum(0)
    sigma = math.sqrt(float(power.median()) / float(chi2.ppf(0.5, n_free)))
    return max(sigma, _SMALLEST_SHARE * float(magnitude.max()))


def sigma_from_air(scan: Scan) -> float:
    """Standard deviation of the noise from the first echo's magnitude in air, for scans with too few echoes to have residuals.

    Rule: air is outside the mask, has a magnitude above 0 (zero-filled background says nothing) and below 10 % of the median inside the mask. Its
    magnitude is Rayleigh distributed: sigma = median / sqrt(2 ln 2) (Gudbjartsson and Patz, Magn Reson Med 1995). The 10 % rule needs an SNR above
    about 30. Raises InputError where fewer than 1000 voxels qualify.
    """
    magnitude = scan.magnitude[0]
    largest = _AIR_SHARE * float(magnitude[scan.mask].median())
    air = magnitude[~scan.mask & (magnitude > 0) & (magnitude < largest)]
    if air.numel() < _MIN_AIR_VOXELS:
        raise InputError(
            f"sigma cannot be estimated: the {len(scan.echo_times_s)} echoes leave no degrees of freedom and only {air.numel()} voxels of air "
            f"lie outside the mask, {_MIN_AIR_VOXELS} are needed. "
            "Give sigma, the standard deviation of the noise in the units of the magnitude."
        )
    sigma = float(air.median()) / _MEDIAN_OF_RAYLEIGH
    return max(sigma, _SMALLEST_SHARE * float(magnitude[scan.mask].max()))


def phase_information(magnitude: Tensor, sigma: float = 0.0) -> Tensor:
    """Weights of phases up to the factor 1 / sigma^2: the squared signal [echo, voxel], with a floor of (1e-3 of the largest magnitude)^2.

    With the noise's sigma the bias of a Rician magnitude is taken off, M^2 - 2 sigma^2, so that voxels of noise alone are not trusted (Gudbjartsson
    and Patz 1995). The floor keeps voxels without signal finite: their standard deviation becomes 1000 times that of the brightest voxel.
    """
    largest = float(magnitude.max())
    if largest <= 0:
        raise InputError("magnitude is 0 everywhere inside the mask; the field cannot be weighted. Check the magnitude file.")
    return torch.clamp(magnitude.square() - 2 * sigma**2, min=(1e-3 * largest) ** 2)
