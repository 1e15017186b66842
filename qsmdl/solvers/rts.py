"""Rapid two-step dipole inversion."""

from qsmdl.about import about
from qsmdl.errors import InputError
from qsmdl.scan import ChiMap, FieldMap
from qsmdl.solvers.admm import OnStep, continued
from qsmdl.solvers.grid import PADDING
from qsmdl.solvers.krylov import cgls
from qsmdl.solvers.kspace import complete
from qsmdl.solvers.objective import FourierCoordinates
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.solution import in_stages
from qsmdl.validation import check_positive


@about(
    reference="Kames et al., NeuroImage 2018",
    checked="check phantom: 38.3 and 21.3 at thresholds of 0.15 and 0.3, 32.8 and 20.6 with less noise at 0.15 and 0.2",
    parameter="threshold",
)
def rts(
    field: FieldMap,
    *,
    threshold: float = 0.15,
    fidelity: float = 1e5,
    penalty: float = 10.0,
    growth: float = 1.0,
    n_krylov: int = 4,
    n_iterations: int = 20,
    tolerance: float = 1e-2,
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Rapid two-step dipole inversion (Kames, Wiggermann, Rauscher, NeuroImage 2018).

    Step 1: a few steps of least squares on D x = f, which fit the well-conditioned frequencies first; the mask is applied. Step 2: with that map x_1,
    the minimiser of fidelity/2 ||x - x_1||^2_M + ||G x||_1, where ||x||^2_M counts the frequencies with |D| > threshold alone, G is the periodic
    gradient in 1/mm and its components are summed (anisotropic). No weight enters, and no mask in step 2.

    threshold: delta; fidelity: mu in 1/(ppm mm), large, so that trusted frequencies hardly move. For a field s times as large, fidelity and penalty
    divide by s for a map s times as large; B0 does not matter. penalty: rho of ||G x - z||^2 in 1/(ppm mm). growth: factor on it in a step that left
    ||G x - z|| above 0.7 of the step before. n_krylov: steps of step 1; n_iterations and tolerance (relative change of x): of step 2, which stops
    long before its minimum, as published; at this noise more steps are not better. padding: see `WorkingGrid.of`.

    All are the values of the authors' code (QSM.jl), except growth, which is 5 there: a penalty that does not grow was 1 to 2 points better on two
    simulated heads, and the reference figures are made with it. Step 1 is CGLS here and LSMR there: the same space, another norm of the residual.
    The k = 0 component is 0; the map is not referenced further. curve: residuals of step 1, then relative changes. Raises InputError for a total
    field or a setting out of range.
    """
    check_positive(fidelity=fidelity, penalty=penalty)
    if not 0 < threshold < 2 / 3:
        raise InputError(f"threshold is {threshold}; it must lie above 0 and below 2/3, the largest value of the dipole kernel. 0.15 is published.")
    if not 1 <= growth <= 100:
        raise InputError(f"growth is {growth}; the factor on the penalty must lie between 1 (no growth) and 100. 5 is published.")
    if n_krylov < 1:
        raise InputError(f"n_krylov is {n_krylov}; step 1 needs at least one step. 4 is published.")
    problem = Problem.of(field, padding=padding, weighting="uniform")
    dipole, coordinates = problem.grid.dipole(), FourierCoordinates(problem.grid.shape, problem.data)
    first = cgls(lambda v: v * dipole, lambda v: v * dipole, coordinates.pack(problem.data), n_iterations=n_krylov, tolerance=0.0, on_step=on_step)
    second = complete(
        problem.grid,
        coordinates.unpack(first.x) * problem.mask,
        dipole.abs() > threshold,
        fidelity=fidelity,
        penalty=penalty,
        growth=growth,
        n_iterations=n_iterations,
        tolerance=tolerance,
        on_step=continued(on_step, first.n_steps),
    )
    return problem.chi_map(in_stages(second.x, first, second))
