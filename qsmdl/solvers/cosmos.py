"""Susceptibility from several orientations of the head to B0."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qsmdl.about import about
from qsmdl.errors import InputError
from qsmdl.physics.fourier import irfft3, multiply_spectrum, rfft3
from qsmdl.scan import ChiMap, FieldMap
from qsmdl.solvers.admm import OnStep
from qsmdl.solvers.grid import PADDING, WorkingGrid
from qsmdl.solvers.krylov import cg
from qsmdl.solvers.solution import Solution
from qsmdl.solvers.weights import Weighting, data_weight
from qsmdl.validation import check_not_negative

MIN_ANGLE_DEG = 5.0


@about(kind="iterative", input="several orientations", reference="Liu et al., COSMOS, Magn Reson Med 2009", parameter="regularisation")
def cosmos(
    field: FieldMap,
    *,
    orientations: Sequence[FieldMap] = (),
    regularisation: float = 1e-2,
    n_iterations: int = 30,
    tolerance: float = 1e-3,
    weighting: Weighting = "noise",
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Calculation of susceptibility through multiple orientation sampling: argmin sum_j ||w_j (D_j x - f_j)||^2 + a ||x||^2 (Liu, Spincemaille, de
    Rochefort, Kressler, Wang, Magn Reson Med 2009).

    field and orientations: local fields of one head, registered to one grid, each with its own b0_direction; two at least, and three leave no
    undetermined frequencies. The mask is that of `field`; each field counts where its own mask is. Solved by conjugate gradients, preconditioned by
    the closed form without weights, 1 / (sum_j D_j^2 + a). regularisation: a, without unit, for weights of mean 1: with two orientations, or angles
    of a few degrees, frequencies near the crossings of the cones need it. A white-matter susceptibility that depends on orientation is not in the
    model. curve: relative residual. Raises InputError: fewer than two orientations, directions within 5 degrees of each other, different grids, a
    total field.
    """
    fields = (field, *orientations)
    _check_orientations(fields)
    check_not_negative(regularisation=regularisation)
    grid = WorkingGrid.of(field, padding)
    grids = [WorkingGrid(other, grid.box, grid.shape) for other in fields]
    kernels = [other.dipole() for other in grids]
    weights = [other.place(data_weight(other.field, weighting)).square() for other in grids]

    def convolve(x: Tensor, kernel: Tensor) -> Tensor:
        return irfft3(multiply_spectrum(rfft3(x), kernel), grid.shape)

    def normal(x: Tensor) -> Tensor:
        result = regularisation * x
        for kernel, squared in zip(kernels, weights, strict=True):
            result += convolve(squared * convolve(x, kernel), kernel)
        return result

    inverse = regularisation + sum((kernel.square() for kernel in kernels), torch.zeros_like(kernels[0]))
    inverse[0, 0, 0] = 1.0
    inverse = inverse.clamp(min=1e-6).reciprocal()
    inverse[0, 0, 0] = 0.0
    right = torch.zeros_like(weights[0])
    for other, kernel, squared in zip(grids, kernels, weights, strict=True):
        right += convolve(squared * other.place(other.field.field_ppm), kernel)
    found = cg(normal, right, n_iterations=n_iterations, tolerance=tolerance, precondition=lambda r: convolve(r, inverse), on_step=on_step)
    return grid.chi_map(found.x - found.x.mean(), Solution(found.x, found.n_steps, found.stopped, found.residual, found.curve).outcome)


def _check_orientations(fields: Sequence[FieldMap]) -> None:
    if len(fields) < 2:
        raise InputError(
            f"cosmos got {len(fields)} orientation, but needs two at least, and three for a map without undetermined frequencies. Give registered "
            "scans of other head orientations, each with its B0_dir (docs/cosmos.md), or use a method for one orientation."
        )
    first = fields[0].geometry
    for number, field in enumerate(fields[1:], start=2):
        if field.kind != "local":
            raise InputError(f"Orientation {number} is a {field.kind!r} field; cosmos takes local ones. Remove the background field first.")
        if (field.geometry.shape, field.geometry.voxel_size_mm) != (first.shape, first.voxel_size_mm):
            raise InputError(f"Orientation {number} lies on {field.geometry}, the first on {first}; register all orientations to one grid.")
    for i, one in enumerate(fields):
        for j, other in enumerate(fields[:i]):
            cosine = abs(sum(a * b for a, b in zip(one.geometry.b0_direction, other.geometry.b0_direction, strict=True)))
            angle = math.degrees(math.acos(min(1.0, cosine)))
            if angle < MIN_ANGLE_DEG:
                raise InputError(
                    f"Orientations {j + 1} and {i + 1} differ by {angle:.1f} degrees, but {MIN_ANGLE_DEG:g} are needed for their fields to tell "
                    "anything that one does not. Check b0_direction (B0_dir in params.json) of each, in the axes of the common grid."
                )
