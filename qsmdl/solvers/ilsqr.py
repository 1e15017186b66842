"""iLSQR: least squares, minus the streaks that its smooth regions cannot have."""

import torch
from torch import Tensor

from qsmdl.about import about
from qsmdl.errors import InputError
from qsmdl.physics.fourier import irfft3, multiply_spectrum, rfft3
from qsmdl.scan import ChiMap, FieldMap
from qsmdl.solvers.admm import OnStep, continued
from qsmdl.solvers.grid import PADDING
from qsmdl.solvers.krylov import cgls
from qsmdl.solvers.kspace import sphere_mean
from qsmdl.solvers.objective import FourierCoordinates
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.solution import Solution, in_stages
from qsmdl.solvers.weights import inner_pairs, percentile, percentile_ramp

_ROUNDING = 1e-6
_FAST_RADIUS_MM = 3.0


@about(reference="Li et al., NeuroImage 2015", parameter="cone")
def ilsqr(
    field: FieldMap,
    *,
    cone: float = 0.1,
    n_iterations: int = 50,
    tolerance: float = 0.01,
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Least squares with the streaks estimated and removed (Li et al., NeuroImage 2015, iLSQR): four maps, after the public code QSM.m.

    1. x_0 minimises ||D w (D x - f)||, w 1 where the Laplacian of the field is below its 60th percentile in the mask, 0 above the 99.9th, linear
    between (`least_squares`). 2. A fast map shows where the head is smooth (`fast_qsm`). 3. x_s minimises ||v G (x_0 - C x)||, C keeping the
    frequencies with |D| < cone, where streaks live; v, for each direction, 1 where the fast map's difference is below its 50th percentile, 0 above
    the 70th: the part of the cone whose removal makes smooth regions smooth. 4. The map is x_0 - C x_s. Both least-squares problems are solved by
    CGLS (LSQR in the original for the first, LSMR for the second) from 0, for n_iterations steps or down to the tolerance (`cgls`), which is part of
    the method: at the minimum noise would be fitted.

    Two things differ from that code. The differences of the fast map are ranked by their size; ranked with their sign, the steepest falls count as
    smooth, and the error on a simulated head was three times as large. And differences across the border of the mask, which are no property of the
    head, get no weight. Its line from the fast map to a truncated division is left out: it scales all differences alike, which ranks ignore.

    cone is a share of |D|, without unit; the map scales with the field, and B0 does not matter. padding: see `WorkingGrid.of`. The k = 0 component
    is 0 before the mask is applied. curve: relative residuals of the two problems. Raises InputError for a total field or a setting out of range.
    """
    if not 0 < cone < 2 / 3:
        raise InputError(f"cone is {cone}; it must lie above 0 and below 2/3, the largest value of the dipole kernel. 0.1 is published.")
    problem = Problem.of(field, padding=padding, weighting="uniform")
    mask, gradient = problem.mask, problem.gradient
    found = least_squares(problem, n_iterations, tolerance, on_step)
    first = found.x * mask
    steps = gradient.apply_forward(fast_qsm(problem)).abs_()
    weight = torch.stack([percentile_ramp(step, pairs, 50, 70) for step, pairs in zip(steps, inner_pairs(mask), strict=True)])
    inside = (problem.grid.dipole().abs() < cone).to(first.dtype)

    def in_cone(v: Tensor) -> Tensor:
        return irfft3(multiply_spectrum(rfft3(v), inside), problem.grid.shape)

    streaks = cgls(
        lambda v: gradient.apply_forward(in_cone(v)).mul_(weight),
        lambda steps: in_cone(gradient.apply_adjoint(steps * weight)),
        gradient.apply_forward(first).mul_(weight),
        n_iterations=n_iterations,
        tolerance=tolerance,
        on_step=continued(on_step, found.n_steps),
    )
    # Every step of CGLS lies in the range of C, so C x_s is x_s.
    return problem.chi_map(in_stages(first - streaks.x, found, streaks))


def least_squares(problem: Problem, n_iterations: int, tolerance: float, on_step: OnStep | None = None) -> Solution[Tensor]:
    """Steps towards the minimum of ||D w (D x - f)||, in k-space: two real transforms for each product. The Laplacian of the field counts neighbours
    in the mask alone.
    """
    gradient, coordinates, kernel = problem.gradient, FourierCoordinates(problem.grid.shape, problem.data), problem.grid.dipole()
    laplacian = -gradient.apply_adjoint(gradient.apply_forward(problem.data).mul_(inner_pairs(problem.mask)))
    weight = percentile_ramp(laplacian, problem.mask, 60, 99.9)

    def apply(x: Tensor) -> Tensor:
        return coordinates.filter(coordinates.unpack(x, kernel).mul_(weight), kernel)

    data = coordinates.filter(problem.data * weight, kernel)
    found = cgls(apply, apply, data, n_iterations=n_iterations, tolerance=tolerance, on_step=on_step)
    return Solution(coordinates.unpack(found.x), found.n_steps, found.stopped, found.residual, found.curve)


def fast_qsm(problem: Problem) -> Tensor:
    """A smooth first map: sign(D) F f, twice passed through v + (1 - v) h and the mask, where v rises from 0 to 1 between the 1st and the 30th
    percentile of |D|^0.001 (over the half spectrum) and h is the mean over a sphere of 3 mm. Its amplitude is not that of susceptibility.
    """
    grid, mask, dipole = problem.grid, problem.mask, problem.grid.dipole()
    strength = dipole.abs().pow_(0.001)
    low, high = (percentile(strength.flatten(), p) for p in (1, 30))
    share = ((strength - low) / (high - low).clamp(min=torch.finfo(strength.dtype).tiny)).clamp_(0, 1)
    kernel = share + (1 - share) * sphere_mean(grid, _FAST_RADIUS_MM)
    kernel[0, 0, 0] = 0.0
    # On the magic angle D is 0 up to rounding, and its sign chance.
    sign = torch.where(dipole.abs() < _ROUNDING, 0.0, dipole.sign())
    x = irfft3(multiply_spectrum(rfft3(problem.data), sign * kernel), grid.shape) * mask
    return irfft3(multiply_spectrum(rfft3(x), kernel), grid.shape) * mask
