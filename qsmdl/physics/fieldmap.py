"""Field maps from multi-echo phases: fits over all echoes, and the phase differences of the RC2 release."""

import math
from typing import NamedTuple

import torch
from scipy.stats import chi2
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.box import mask_box
from qsmdl.physics.noise import phase_information, sigma_from_air, sigma_from_residuals
from qsmdl.physics.unwrap import unwrap_spatial, unwrap_temporal
from qsmdl.scan import FieldKind, FieldMap, Scan
from qsmdl.units import rad_per_ppm


class LineFit(NamedTuple):
    """Weighted line through the phases of each voxel. slope_rad_per_s, offset_rad, information: [voxel]; residual_rad [echo, voxel]. sigma /
    sqrt(information) is the slope's standard deviation.
    """

    slope_rad_per_s: Tensor
    offset_rad: Tensor
    information: Tensor
    residual_rad: Tensor


def fit_field(scan: Scan, *, offset: bool = False, sigma: float | None = None, kind: FieldKind = "local", misfit_noise: bool = False) -> FieldMap:
    """Least-squares field over all echoes, phases weighted by the squared magnitude (1 / variance).

    offset: fit a phase at TE = 0 as well. RC2 scans have none, and leaving it out halves the noise, so False is the default; measured scans with a
    coil phase need True (or have it removed before). sigma: standard deviation of the signal's noise per channel in the units of the magnitude, None
    to estimate it (`estimate_noise`). kind: whether the scan's field is "local" or "total".

    Without an offset the first echo is unwrapped in space and the later ones by prediction from the earlier; with an offset this is done for the
    differences to the first echo. noise_ppm is the propagated standard deviation of each voxel; weight is its inverse, mean 1 in the mask. Voxels
    without signal get a finite noise, about 1000 times that of the brightest.

    misfit_noise: raise the noise where the line does not fit (`_misfit`), mostly dephased voxels next to strong sources. On simulated heads this made
    the inverted map of a calcification weaker and the map's error larger, so it is off. Raises InputError where echoes are too few or sigma cannot be
    had.
    """
    magnitude, phase = _difference_phases(scan) if offset else _phases(scan)
    first = fit_line(phase, phase_information(magnitude), scan.echo_times_s, offset=offset)
    sigma = _checked_sigma(sigma) if sigma is not None else _noise(scan, magnitude, first, offset)
    information = phase_information(magnitude, sigma)
    fit = fit_line(phase, information, scan.echo_times_s, offset=offset)
    per_ppm = rad_per_ppm(scan.geometry.b0_tesla, 1.0)
    noise_ppm = sigma / (fit.information.sqrt() * per_ppm)
    if misfit_noise:
        noise_ppm = noise_ppm * _misfit(fit.residual_rad, information / sigma**2, 2 if offset else 1)
    return _field_map(scan, fit.slope_rad_per_s / per_ppm, noise_ppm, kind)


def phase_difference_field(scan: Scan, *, sigma: float | None = None, kind: FieldKind = "local") -> FieldMap:
    """The field map handed out with RC2: weighted mean of the phase differences of the later echoes to the first.

    f = sum_k w_k (phi_k - phi_1) / (TE_k - TE_1) / sum_k w_k for k = 2..n with w_k = 1 / v_k, v_k = (M_1^2 + M_k^2) / ((M_1 M_k)^2 (TE_k - TE_1)^2)
    (Robinson et al., NMR Biomed 2017; QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021). The first difference is unwrapped in space, the
    others in time. noise_ppm counts that all differences share the noise of the first echo. sigma and kind as in `fit_field`. Raises InputError for
    fewer than two echoes.
    """
    magnitude, phase = _difference_phases(scan)
    times = _time_differences(scan)
    information = phase_information(magnitude)
    first, later = information[:1], information[1:]
    slope_weight = first * later / (first + later) * times.square()
    total = slope_weight.sum(0)
    slope = (slope_weight * phase[1:] / times).sum(0) / total
    if sigma is None:
        sigma = _noise(scan, magnitude, fit_line(phase, information, scan.echo_times_s, offset=True), True)
    sigma = _checked_sigma(sigma)
    shared = (slope_weight / times).sum(0).square() / first[0]
    variance = (shared + ((slope_weight / times).square() / later).sum(0)) / total.square()
    per_ppm = rad_per_ppm(scan.geometry.b0_tesla, 1.0)
    return _field_map(scan, slope / per_ppm, sigma * variance.sqrt() / per_ppm, kind)


def estimate_noise(scan: Scan, *, offset: bool = False) -> float:
    """Standard deviation of the noise in the real and in the imaginary part, in the units of the magnitude.

    From the residuals of the line through the phases (`sigma_from_residuals`) where the echoes leave a degree of freedom: two echoes, three with an
    offset. Otherwise from air outside the mask (`sigma_from_air`), or an InputError.
    """
    n_free = len(scan.echo_times_s) - (2 if offset else 1)
    if n_free < 1:
        return sigma_from_air(scan)
    magnitude, phase = _difference_phases(scan) if offset else _phases(scan)
    return _noise(scan, magnitude, fit_line(phase, phase_information(magnitude), scan.echo_times_s, offset=offset), offset)


def fit_line(phase_rad: Tensor, information: Tensor, echo_times_s: tuple[float, ...], *, offset: bool) -> LineFit:
    """Weighted least-squares line phase = offset + slope TE per voxel, differentiable in both tensors.

    phase_rad, information (weights): [echo, voxel]; without an offset the line starts at 0.
    """
    times = torch.tensor(echo_times_s, dtype=phase_rad.dtype, device=phase_rad.device).reshape(-1, 1)
    if not offset:
        power = (information * times.square()).sum(0)
        slope = (information * times * phase_rad).sum(0) / power
        return LineFit(slope, torch.zeros_like(slope), power, phase_rad - slope * times)
    total = information.sum(0)
    centred_time = times - (information * times).sum(0) / total
    centred_phase = phase_rad - (information * phase_rad).sum(0) / total
    power = (information * centred_time.square()).sum(0)
    slope = (information * centred_time * centred_phase).sum(0) / power
    start = (information * (phase_rad - slope * times)).sum(0) / total
    return LineFit(slope, start, power, phase_rad - slope * times - start)


def fitted_offset(scan: Scan) -> Tensor:
    """Phase at TE = 0 in rad [x, y, z] of the line through each voxel's phases, within -pi and pi, 0 outside the mask. Raises InputError for one
    echo.
    """
    magnitude, difference = _difference_phases(scan)
    fit = fit_line(difference, phase_information(magnitude), scan.echo_times_s, offset=True)
    offset = torch.zeros_like(scan.phase_rad[0])
    offset[scan.mask] = wrapped(scan.phase_rad[0][scan.mask] + fit.offset_rad)
    return offset


def _phases(scan: Scan) -> tuple[Tensor, Tensor]:
    """Magnitude and unwrapped phase [echo, voxel] of the mask, for a phase of 0 at TE = 0."""
    box = mask_box(scan.mask)
    inside = scan.mask[box]
    magnitude, phase = scan.magnitude[:, *box][:, inside], scan.phase_rad[:, *box][:, inside]
    phase[0] = unwrap_spatial(scan.phase_rad[0][box], inside)[inside]
    return magnitude, unwrap_temporal(phase, scan.echo_times_s, phase_information(magnitude))


def _difference_phases(scan: Scan) -> tuple[Tensor, Tensor]:
    """Magnitude and phase [echo, voxel] minus the first echo's phase: 0 in the first echo, unwrapped in the others."""
    if len(scan.echo_times_s) < 2:
        raise InputError(
            f"the scan has {len(scan.echo_times_s)} echo, but phase differences need at least two. Fit without an offset, or scan more echoes."
        )
    box = mask_box(scan.mask)
    inside = scan.mask[box]
    magnitude, phase = scan.magnitude[:, *box][:, inside], scan.phase_rad[:, *box][:, inside]
    second = torch.zeros_like(scan.phase_rad[0][box])
    second[inside] = wrapped(phase[1] - phase[0])
    difference = phase - phase[:1]
    difference[1] = unwrap_spatial(second, inside)[inside]
    information = phase_information(magnitude)
    weight = information[:1] * information[1:] / (information[:1] + information[1:])
    times = tuple(time - scan.echo_times_s[0] for time in scan.echo_times_s[1:])
    difference[1:] = unwrap_temporal(difference[1:], times, weight)
    return magnitude, difference


def wrapped(phase_rad: Tensor) -> Tensor:
    """A phase of any shape in rad, less whole turns: within -pi and pi."""
    return phase_rad - 2 * math.pi * torch.round(phase_rad / (2 * math.pi))


def _time_differences(scan: Scan) -> Tensor:
    times = torch.tensor(scan.echo_times_s, dtype=scan.phase_rad.dtype, device=scan.phase_rad.device)
    return (times[1:] - times[0]).reshape(-1, 1)


def _misfit(residual_rad: Tensor, inverse_variance: Tensor, n_parameters: int) -> Tensor:
    """Factor [voxel] on the noise of voxels that one frequency cannot explain, as next to a calcification: 1 for 99.9 % of the voxels where the model
    holds.

    sqrt(chi-square / its 99.9 % quantile), at least 1: the part of the misfit that noise does not explain counts as noise, like the relative residual
    in MEDI's noise map (Liu et al., Magn Reson Med 2013).
    """
    n_free = residual_rad.shape[0] - n_parameters
    if n_free < 1:
        return torch.ones_like(residual_rad[0])
    power = (inverse_variance * residual_rad.square()).sum(0)
    return (power / float(chi2.ppf(0.999, n_free))).sqrt().clamp(min=1.0)


def _noise(scan: Scan, magnitude: Tensor, fit: LineFit, offset: bool) -> float:
    n_parameters = 2 if offset else 1
    if len(scan.echo_times_s) <= n_parameters:
        return sigma_from_air(scan)
    return sigma_from_residuals(fit.residual_rad, magnitude, n_parameters)


def _checked_sigma(sigma: float) -> float:
    if not (math.isfinite(sigma) and sigma > 0):
        raise InputError(f"sigma is {sigma}; the noise's standard deviation must be positive and finite, in the units of the magnitude.")
    return sigma


def _field_map(scan: Scan, field_ppm: Tensor, noise_ppm: Tensor, kind: FieldKind) -> FieldMap:
    weight = 1 / noise_ppm
    field, noise, confidence = (torch.zeros(scan.geometry.shape, dtype=field_ppm.dtype, device=field_ppm.device) for _ in range(3))
    field[scan.mask], noise[scan.mask], confidence[scan.mask] = field_ppm, noise_ppm, weight / weight.mean()
    return FieldMap(scan.geometry, field, scan.mask, confidence, noise_ppm=noise, kind=kind, name=scan.name)
