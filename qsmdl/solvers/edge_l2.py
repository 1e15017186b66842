"""Closed-form L2 inversions that spare the edges of the magnitude."""

from torch import Tensor

from qsmdl.about import about
from qsmdl.physics.fourier import irfft3, multiply_spectrum, rfft3
from qsmdl.physics.relaxation import combined_magnitude
from qsmdl.scan import ChiMap, FieldMap, Scan
from qsmdl.solvers.admm import OnStep, check_iterations, relative_change
from qsmdl.solvers.grid import PADDING
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.solution import Solution
from qsmdl.solvers.weights import edge_mask
from qsmdl.validation import check_positive


@about(
    kind="direct",
    input="local field, magnitude",
    reference="after Khabipova et al., NeuroImage 2015; Bilgic et al., J Magn Reson Imaging 2014",
    from_description=True,
    parameter="regularisation",
)
def edge_l2(
    field: FieldMap,
    *,
    scan: Scan | None = None,
    regularisation: float = 0.1,
    edge_share: float = 0.3,
    n_iterations: int = 4,
    tolerance: float = 1e-3,
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Edge-weighted closed form: argmin ||D x - f||^2 + b ||M G x||^2, M 0 at the strongest edges of the magnitude, by passes of a closed-form step.

    A stand-in for the modulated closed form of Khabipova et al. (NeuroImage 2015), whose modulation is not public: the same ingredients, not the same
    method. Each pass is `l2` with the gradients at the edges copied from the map before: X <- (D F f + b sum conj(E_i) F((1 - M_i) G_i x)) / (D^2 + b
    L), starting from `l2` itself. Each pass minimises a majoriser, so the objective never rises; few passes are the point of a closed form.

    regularisation: b in mm^2, as for `l2`. edge_share: share of the gradient's components in the mask that are edges (`weights.edge_mask`), 0 for
    `l2`. The magnitude is that of all echoes of `scan`; without a scan, the confidence of the field map. curve: the relative change. Raises
    InputError for a total field or a setting out of range.
    """
    check_positive(regularisation=regularisation)
    check_iterations(n_iterations, tolerance)
    problem = Problem.of(field, padding=padding, weighting="uniform")
    gradient, grid = problem.gradient, problem.grid
    magnitude = field.weight if scan is None else combined_magnitude(scan)
    edges = 1 - edge_mask(grid.place(magnitude), problem.mask, gradient, share=edge_share)
    dipole = grid.dipole()
    inverse = grid.gradient_power().mul_(regularisation).addcmul_(dipole, dipole)
    inverse[0, 0, 0] = 1.0
    inverse.reciprocal_()
    inverse[0, 0, 0] = 0.0
    of_data = multiply_spectrum(rfft3(problem.data), dipole)

    def closed_form(copied: Tensor | None) -> Tensor:
        spectrum = of_data.clone() if copied is None else of_data + regularisation * rfft3(gradient.apply_adjoint(copied))
        return irfft3(multiply_spectrum(spectrum, inverse), grid.shape)

    x, curve = closed_form(None), [1.0]
    for step in range(1, n_iterations + 1):
        before, x = x, closed_form(edges * gradient.apply_forward(x))
        curve.append(relative_change(x, before))
        if on_step is not None:
            on_step(step, curve[-1])
        if curve[-1] < tolerance:
            break
    stopped = "tolerance reached" if curve[-1] < tolerance else "max steps"
    return problem.chi_map(Solution(x, len(curve) - 1, stopped, curve[-1], tuple(curve)))
