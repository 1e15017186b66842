"""A volume on a finer grid: what a k-space crop cut away, filled in by total variation (Block, Uecker, Frahm, Int J Biomed Imaging 2008:184123)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.derivatives import Gradient, gradient_power
from qsmdl.physics.fourier import irfft3, rfft3
from qsmdl.solvers.admm import Term, admm
from qsmdl.solvers.prox import shrink_vectors
from qsmdl.validation import check_positive

_STEP_OVER_WEIGHT = 20.0
"""The solver's first threshold for a difference between neighbours, in units of the weight: a step of this size survives. It decides on the speed."""


@torch.no_grad()
def super_resolve(
    volume: Tensor, *, weight: float, factor: int = 2, voxel_size_mm: Sequence[float] = (1.0, 1.0, 1.0), n_iterations: int = 20
) -> Tensor:
    """The x on a grid `factor` times as fine along each axis that minimises 1/2 ||crop(x) - volume||^2 + weight TV(x), by ADMM.

    volume: real [x, y, z], periodic as k-space makes it, with the ringing of its crop: known low frequencies, the highest of an even axis left out.
    weight: in the unit of the volume; differences between neighbours count in proportion to the voxel's shortest edge over its edge along the axis.
    Voxel i of the volume lies at the place of voxel `factor` i of the result [factor x, factor y, factor z]. Edges come out sharper than the volume
    could hold, which is a guess where more than one lies within a voxel. Raises InputError for other than three axes, a factor below 1, a weight that
    is not positive or a volume that is not real.
    """
    if volume.ndim != 3 or not volume.is_floating_point():
        raise InputError(f"volume is {volume.dtype} with shape {tuple(volume.shape)}; super-resolution needs one real volume [x, y, z].")
    if factor < 1 or n_iterations < 1:
        raise InputError(f"factor is {factor} and n_iterations {n_iterations}; both must be at least 1.")
    check_positive(weight=weight)
    fine = (volume.shape[0] * factor, volume.shape[1] * factor, volume.shape[2] * factor)
    step, gradient = _STEP_OVER_WEIGHT * weight, Gradient([size / min(voxel_size_mm) for size in voxel_size_mm])
    # In units of the step the fidelity's weight is that of the step over that of the total variation, and the penalty is 1.
    spectrum, known = _low_frequencies(volume / step, fine)
    normal = gradient_power(fine, gradient.voxel_size_mm, dtype=volume.dtype).to(volume.device).add_(known, alpha=_STEP_OVER_WEIGHT)
    normal[0, 0, 0] = _STEP_OVER_WEIGHT
    fixed, inverse = spectrum.mul_(_STEP_OVER_WEIGHT / normal), normal.reciprocal_()
    start = irfft3(fixed, fine)

    def solve(targets: Sequence[Tensor]) -> Tensor:
        return irfft3(rfft3(gradient.apply_adjoint(targets[0])).mul_(inverse).add_(fixed), fine)

    edges = Term(gradient.apply_forward, lambda v: shrink_vectors(v, 1.0), start.new_zeros((3, *fine)))
    return admm(solve, [edges], n_iterations=n_iterations, tolerance=0.0, start=start).x.mul_(step)


def _low_frequencies(volume: Tensor, fine: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """The volume's half spectrum on the finer grid, amplitudes preserved, and 1 where it is known."""
    coarse = rfft3(volume).mul_(math.prod(fine) / volume.numel())
    spectrum = coarse.new_zeros((fine[0], fine[1], fine[2] // 2 + 1))
    known = torch.zeros_like(spectrum.real)
    # Frequencies up to, but without, half the sampling rate: there alone both signs are told apart.
    x, y, z = ((n - 1) // 2 for n in volume.shape)
    for to_x, from_x in _signs(x, fine[0], volume.shape[0]):
        for to_y, from_y in _signs(y, fine[1], volume.shape[1]):
            spectrum[to_x, to_y, : z + 1] = coarse[from_x, from_y, : z + 1]
            known[to_x, to_y, : z + 1] = 1.0
    return spectrum, known


def _signs(highest: int, fine: int, coarse: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where the frequencies 0 to highest, and the negative ones, lie in a spectrum of the finer grid and in one of the coarser."""
    return (slice(0, highest + 1), slice(0, highest + 1)), (slice(fine - highest, fine), slice(coarse - highest, coarse))
