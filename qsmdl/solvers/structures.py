"""The structures of a finished map: a correction that is smooth within them and may jump at their edges, so that their means explain the field."""

import torch
from torch import Tensor

from qsmdl.scan import FieldMap
from qsmdl.solvers.fine_scales import fine_damping
from qsmdl.solvers.misfit import Misfit, check_same_grid
from qsmdl.solvers.problem import Problem
from qsmdl.validation import check_positive

_DAMPING = 1e-4
"""As in `solvers.large_scales`: of what no voxel has measured."""
_LEAST_STIFFNESS_MM2 = 0.01
"""What an edge keeps of the stiffness: a vein, which is all edge, moves less than a nucleus. Without it veins follow errors of the field."""
_TOLERANCE = 0.003


@torch.no_grad()
def structure_correction(
    chi_ppm: Tensor,
    field: FieldMap,
    *,
    ringing_ppm: Tensor | None = None,
    stiffness_mm2: float | None = None,
    edge_ppm_per_mm: float = 3e-3,
    n_iterations: int = 25,
    padding: float = 1.5,
) -> Tensor:
    """The d [x, y, z] in ppm, 0 outside the mask, that minimises

        ||w (D (chi + ringing + d) - f)||^2 + sum_j (stiffness / (1 + (grad_j chi / edge)^2) + 0.01 mm^2) (grad_j d)^2 + 1e-4 ||d||^2,

    over the differences j, per mm, between neighbours in the mask, by preconditioned conjugate gradients.

    Total variation takes contrast from whatever it bounds, the more the smaller it is, and networks that are trained on squared errors shrink what
    noise hides; neither loss is in the field, which tells the mean of a nucleus well though it tells none of its voxels. To fit again within the
    structures that an estimate has found is the remedy for the former (Deledalle, Papadakis, Salmon, Vaiter, SIAM J Imaging Sci 2017); here they are
    not taken for exact, but told by the gradient of the map, as in diffusion (Perona and Malik 1990). stiffness_mm2: by default `fine_damping`, the
    noise's variance over that of what is missing, here per mm of it. ringing_ppm: what was taken off the map (`physics.unring`) though the field has
    it. Not to be believed where `solvers.large_scales` has doubts. Raises InputError for a total field, or maps of another shape.
    """
    weight = fine_damping(field) if stiffness_mm2 is None else stiffness_mm2
    check_positive(stiffness_mm2=weight, edge_ppm_per_mm=edge_ppm_per_mm)
    check_same_grid(field, chi_ppm=chi_ppm, ringing_ppm=ringing_ppm)
    problem = Problem.of(field, padding=padding)
    misfit = Misfit.of(problem, chi_ppm if ringing_ppm is None else chi_ppm + ringing_ppm)
    grid, gradient, mask = problem.grid, problem.gradient, misfit.mask
    joined = misfit.joined
    steps = gradient.apply_forward(grid.place(chi_ppm)).div_(edge_ppm_per_mm).square_()
    stiff = (weight / steps.add_(1.0) + _LEAST_STIFFNESS_MM2) * joined

    def penalty(v: Tensor) -> Tensor:
        return gradient.apply_adjoint(stiff * gradient.apply_forward(v)).mul_(mask).add_(v, alpha=_DAMPING)

    mean = float(stiff.sum() / joined.sum().clamp(min=1))
    found = misfit.correct(penalty, grid.gradient_power().mul_(mean).add_(_DAMPING), n_iterations=n_iterations, tolerance=_TOLERANCE)
    return misfit.on_field_map(found)
