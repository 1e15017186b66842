"""Weighted Tikhonov regularisation by conjugate gradients."""

from torch import Tensor

from qsmdl.about import about
from qsmdl.scan import ChiMap, FieldMap
from qsmdl.solvers.admm import OnStep
from qsmdl.solvers.direct import half_spectrum_mean
from qsmdl.solvers.grid import PADDING
from qsmdl.solvers.krylov import cg
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.solution import Solution
from qsmdl.solvers.weights import Weighting
from qsmdl.validation import check_positive


@about(
    kind="direct",
    reference="Karsa et al., Magn Reson Med 2019",
    checked="check phantom: 73.5 with 7 steps",
    parameter="regularisation",
)
def tikhonov(
    field: FieldMap,
    *,
    regularisation: float = 0.005,
    n_iterations: int = 100,
    tolerance: float = 0.03,
    slope_correction: bool = False,
    weighting: Weighting = "noise",
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Iterative Tikhonov: argmin ||w (D x - f)||^2 + a ||m x||^2, m the mask, by conjugate gradients from 0 on (D w^2 D + a m) x = D w^2 f (as in the
    susceptibility toolbox of Karsa, Punwani and Shmueli, Magn Reson Med 2019).

    regularisation: a, without unit, for a weight w of mean 1 in the mask; it means the same for any field strength. The toolbox's values are 0.05, a
    tolerance of 0.03 and slope_correction, which divides by the mean over k-space of D^2 / (D^2 + a), the slope without weights (Schweser et al.,
    Magn Reson Med 2013); on simulated heads that gave a larger error than `tkd`, the defaults here a smaller one. tolerance: of the residual over the
    right-hand side; stopping early regularises further. curve: that residual. padding: see `WorkingGrid.of`. The k = 0 component is 0. Raises
    InputError for a total field or a setting out of range.
    """
    check_positive(regularisation=regularisation)
    problem = Problem.of(field, padding=padding, weighting=weighting)
    dipole, squared, inside = problem.dipole, problem.weight.square(), problem.mask

    def normal(x: Tensor) -> Tensor:
        return dipole.apply_forward(squared * dipole.apply_forward(x)).add_(inside * x, alpha=regularisation)

    found = cg(normal, dipole.apply_forward(squared * problem.data), n_iterations=n_iterations, tolerance=tolerance, on_step=on_step)
    chi = found.x - found.x.mean()
    if slope_correction:
        power = dipole.kernel.square()
        chi /= half_spectrum_mean(power / (power + regularisation), problem.grid.shape)
    return problem.chi_map(Solution(chi, found.n_steps, found.stopped, found.residual, found.curve))
