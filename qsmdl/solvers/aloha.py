"""Completion of k-space by low-rank Hankel matrices of its planes."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from qsmdl.about import about
from qsmdl.physics.derivatives import gradient_symbols
from qsmdl.physics.dipole import dipole_kernel
from qsmdl.physics.fourier import irfft3, rfft3
from qsmdl.scan import ChiMap, FieldMap, Outcome
from qsmdl.solvers.admm import OnStep, check_iterations
from qsmdl.solvers.grid import PADDING, WorkingGrid
from qsmdl.solvers.hankel import Completion, check_window, complete_planes
from qsmdl.validation import check_positive

SAMPLES_AT_ONCE = 400_000
"""How many samples of k-space are completed together; it bounds the memory."""


@about(reference="Ahn et al., arXiv:1804.09396, 2018", from_description=True, parameter="regularisation")
def aloha(
    field: FieldMap,
    *,
    regularisation: float = 2e-4,
    window: int = 11,
    smoothing: float = 0.01,
    n_iterations: int = 8,
    cg_iterations: int = 10,
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Inversion under low-rank Hankel matrices of k-space, plane by plane (ALOHA-QSM; Ahn, Park, Ye, arXiv:1804.09396, 2018).

    For every plane of k-space across one axis it minimises over the plane's samples X: 1/2 ||D X - F||^2 + lambda sum_i ||H(E_i X)||_*, F the field's
    transform (orthonormal, ppm), D the dipole kernel, E_i = exp(2 pi i k_i) - 1 over the voxel size the spectrum of the Haar wavelet (the gradient)
    along the plane's two axes, H the Hankel matrix of all window x window neighbourhoods, and || ||_* the sum of singular values: a piecewise
    constant image has few edges, which leaves H with few singular values, and samples near the cone, where D says little, follow from their
    neighbours. This is done across x, y and z, and the three results are averaged.

    Built from the description; the authors' code is not public. From their words are the objective, its weighting by the Haar spectrum, and planes
    along three axes in place of the volume. Different or not known: the norm is minimised by iteratively reweighted least squares instead of ADMM
    with a factorisation H = U V^H, both of which have the same minimum for the full rank, and is rounded off below `smoothing`; neighbourhoods wrap
    around the edges of k-space (`hankel.HankelNorm`), which makes a step cost as much as four Fourier transforms whatever the window; the average
    over the axes; and all values of settings.

    regularisation: lambda in ppm. window: side of a neighbourhood in samples. It has to span the same share of the field of view in any resolution;
    the work of its eigenvalues grows with its sixth power. smoothing: over the root mean square of a singular value at the start. cg_iterations: of
    the inner conjugate gradients in each of the n_iterations. The defaults were chosen on two simulated heads. padding: see `WorkingGrid.of`.
    on_step(axis, change): after each of the three axes, with the largest relative change of a plane's last step. The objective, summed over
    planes and axes, is the outcome's curve. The data term is unweighted, since a weight in space would tie the planes together. B0 does not enter,
    and the map scales with the field and lambda together. The k = 0 component is 0. Raises InputError for a total field or a setting out of range.
    """
    check_positive(regularisation=regularisation, smoothing=smoothing)
    for n in (n_iterations, cg_iterations):
        check_iterations(n, 0.0)
    grid = WorkingGrid.of(field, padding)
    check_window(window, min(grid.shape))
    volume = grid.place(field.field_ppm)

    def complete(data: Tensor, kernel: Tensor, weights: tuple[Tensor, ...]) -> Completion:
        return complete_planes(
            data,
            kernel,
            weights,
            window=window,
            regularisation=regularisation,
            smoothing=smoothing,
            n_iterations=n_iterations,
            cg_iterations=cg_iterations,
        )

    total, change, curve = torch.zeros_like(volume), 0.0, [0.0] * (n_iterations + 1)
    for axis in range(3):
        chi_ppm, values, last = _across(grid, volume, axis, complete)
        total += chi_ppm
        change, curve = max(change, last), [a + b for a, b in zip(curve, values, strict=True)]
        if on_step is not None:
            on_step(axis + 1, last)
    return grid.chi_map(total / 3, Outcome(n_iterations, "max steps", change, tuple(curve)))


def _across(
    grid: WorkingGrid, volume: Tensor, axis: int, complete: Callable[[Tensor, Tensor, tuple[Tensor, ...]], Completion]
) -> tuple[Tensor, list[float], float]:
    """The map from planes across one axis, the summed objective after every step, and the largest last change."""
    geometry = grid.field.geometry
    order = [a for a in range(3) if a != axis] + [axis]
    shape = tuple(grid.shape[a] for a in order)
    size, b0 = ([v[a] for a in order] for v in (geometry.voxel_size_mm, geometry.b0_direction))
    scale = math.sqrt(volume.numel())
    # Real volumes need half of the planes; those that are their own mirror image keep the symmetry.
    spectrum = rfft3(volume.permute(order)).div_(scale)
    kernel = dipole_kernel(shape, size, b0, dtype=volume.dtype).to(volume.device)
    first, second, _ = gradient_symbols(shape, size, dtype=volume.dtype)
    weights = (first[..., 0].to(volume.device), second[..., 0].to(volume.device))
    n_planes = max(1, SAMPLES_AT_ONCE // (shape[0] * shape[1]))
    values: list[tuple[float, ...]] = []
    change = 0.0
    for start in range(0, spectrum.shape[2], n_planes):
        planes = slice(start, start + n_planes)
        found = complete(spectrum[..., planes].permute(2, 0, 1).contiguous(), kernel[..., planes].permute(2, 0, 1).contiguous(), weights)
        spectrum[..., planes] = found.planes.permute(1, 2, 0)
        values.append(found.values)
        change = max(change, found.change)
    spectrum[0, 0, 0] = 0.0
    chi_ppm = irfft3(spectrum.mul_(scale), shape).permute([order.index(a) for a in range(3)])
    return chi_ppm, [sum(v) for v in zip(*values, strict=True)], change
