"""A field from the differences of wrapped phases between neighbours, without unwrapping in space."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.derivatives import Gradient, gradient_power
from qsmdl.physics.fourier import fast_shape, irfft3, multiply_spectrum, rfft3
from qsmdl.physics.noise import phase_information
from qsmdl.physics.unwrap import unwrap_temporal
from qsmdl.scan import Scan
from qsmdl.solvers.krylov import cg
from qsmdl.units import rad_per_ppm


def phase_differences(scan: Scan, echo_time_s: float | None = None) -> Tensor:
    """Differences of the field between neighbours along x, y and z, [3, x, y, z] in ppm: voxel n holds f[n + 1] - f[n], or 0 where either lies
    outside the mask.

    Every echo's difference is wrapped to (-pi, pi], which takes the phase's own wraps away wherever neighbours differ by less than half a turn. The
    echoes' differences are then unwrapped in time (`unwrap_temporal`) and fitted by a line through 0, weighted by 1 / variance, so that later echoes
    lower the noise and do not add wraps. A phase at TE = 0 must not change from voxel to voxel by much. echo_time_s: take the one echo nearest to
    this time instead. Raises InputError for an echo time that is not positive.
    """
    times = scan.echo_times_s
    if echo_time_s is not None and not 0 < echo_time_s < 1:
        raise InputError(f"echo_time_s is {echo_time_s}; it must lie between 0 and 1 s, or be None for all echoes.")
    echoes = list(range(len(times))) if echo_time_s is None else [min(range(len(times)), key=lambda e: abs(times[e] - echo_time_s))]
    time = torch.tensor([times[e] for e in echoes], dtype=scan.phase_rad.dtype, device=scan.phase_rad.device).reshape(-1, 1)
    found = scan.phase_rad.new_zeros((3, *scan.geometry.shape))
    for axis in range(3):
        n = scan.geometry.shape[axis] - 1
        here, there = (slice(None),) * axis + (slice(0, n),), (slice(None),) * axis + (slice(1, n + 1),)
        pair = scan.mask[here] & scan.mask[there]
        if not bool(pair.any()):
            continue
        step = torch.stack([scan.phase_rad[e][there][pair] - scan.phase_rad[e][here][pair] for e in echoes])
        step -= 2 * math.pi * torch.round(step / (2 * math.pi))
        ends = [phase_information(torch.stack([scan.magnitude[e][end][pair] for e in echoes])) for end in (here, there)]
        weight = ends[0] * ends[1] / (ends[0] + ends[1])
        step = unwrap_temporal(step, tuple(times[e] for e in echoes), weight)
        slope = (weight * time * step).sum(0) / (weight * time.square()).sum(0)
        found[axis][here][pair] = slope / rad_per_ppm(scan.geometry.b0_tesla, 1.0)
    return found


def integrate_differences(
    differences: Tensor, mask: Tensor, voxel_size_mm: Sequence[float], *, n_iterations: int = 100, tolerance: float = 1e-4
) -> Tensor:
    """The map [x, y, z] in the mask whose differences between neighbours come closest to the given ones [3, x, y, z], by least squares, in every
    connected part of the mask; mean 0, and 0 outside.

    Where all neighbours of a voxel lie in the mask, the Laplacian of the map is the divergence of the differences. Conjugate gradients, with the
    inverse Laplacian of the padded grid as preconditioner; tolerance: their residual.
    """
    shape, grid = differences.shape[1:], fast_shape(mask.shape, 1.0)
    pairs = torch.zeros_like(differences)
    for axis in range(3):
        n = shape[axis] - 1
        pairs[axis].narrow(axis, 0, n).copy_(mask.narrow(axis, 0, n) & mask.narrow(axis, 1, n))
    size = torch.tensor(voxel_size_mm, dtype=differences.dtype, device=differences.device).reshape(3, 1, 1, 1)
    gradient = Gradient(voxel_size_mm, "neumann")
    inverse = gradient_power(grid, voxel_size_mm, dtype=differences.dtype).to(differences.device)
    inverse[0, 0, 0] = math.inf
    inverse.reciprocal_()
    inverse[0, 0, 0] = inverse.max()

    def apply(x: Tensor) -> Tensor:
        return gradient.apply_adjoint(gradient.apply_forward(x).mul_(pairs))

    def precondition(r: Tensor) -> Tensor:
        return irfft3(multiply_spectrum(rfft3(r, grid), inverse), grid)[: shape[0], : shape[1], : shape[2]] * mask

    found = cg(
        apply, gradient.apply_adjoint(differences * pairs / size), n_iterations=n_iterations, tolerance=tolerance, precondition=precondition
    ).x
    return torch.where(mask, found - found[mask].mean(), 0.0)
