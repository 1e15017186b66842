"""L1-QSM: total variation with a data term that grows linearly with the misfit, by ADMM."""

from qsmdl.about import about
from qsmdl.scan import ChiMap, FieldMap, Scan
from qsmdl.solvers.admm import OnStep
from qsmdl.solvers.grid import PADDING
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.terms import EdgeWeight, absolute_misfit, absolute_phase_misfit, spared_edges
from qsmdl.solvers.tv import minimise
from qsmdl.solvers.weights import Weighting
from qsmdl.validation import check_positive


@about(
    reference="Milovic et al., L1-QSM, Magn Reson Med 2022",
    checked="check phantom: 21.5 after 50 steps at 1e-2, 9.98 at 5e-2",
    parameter="regularisation",
)
def l1qsm(
    field: FieldMap,
    *,
    scan: Scan | None = None,
    regularisation: float = 0.07,
    penalty: float = 2.0,
    data_penalty: float = 50.0,
    n_iterations: int = 150,
    tolerance: float = 1e-3,
    weighting: Weighting = "noise",
    edge_weight: EdgeWeight = "none",
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Total variation with an L1 data term, by ADMM with data splitting (Milovic et al., Magn Reson Med 2022, "L1-QSM", linear).

    Minimises ||w (D x - f)||_1 + alpha ||R G x||_1 with x and f in ppm, w not squared, G the periodic gradient in 1/mm, its three components summed
    (anisotropic). However far a voxel misfits, it pulls with w at most, so wrong voxels cannot make strong streaks.

    regularisation: alpha in mm, without unit of the field, for a weight w whose mean in the mask is 1 (`data_weight`); for one of maximum 1 it is
    smaller by mean(w). It has to be some hundred times that of `tv`. penalty (mu_1, of ||G x - z||^2) and data_penalty (mu_2) set the speed: in
    1/ppm, where a field of another size or unit wants them inversely, so that those of codes in rad are 2 pi gamma B0 TE smaller; by the weight they
    convert like alpha. Convergence is slow, and the steps it is stopped after count as regularisation: change n_iterations and alpha together.
    weighting: "noise" or "uniform". edge_weight: R, as in `tv`. padding: see `WorkingGrid.of`. on_step(step, change): progress. The defaults were
    chosen on two simulated heads (peak SNR 100, 7 T); the published ones are 10 alpha for mu_1, 1 for mu_2, in rad, and 50 steps.

    Stops at a relative change of x below the tolerance. The k = 0 component is 0; the map is not referenced further. Every step takes four real
    transforms. Raises InputError for a total field, a setting out of range, or an edge weight without a scan.
    """
    check_positive(regularisation=regularisation, penalty=penalty, data_penalty=data_penalty)
    problem = Problem.of(field, padding=padding, weighting=weighting)
    found = minimise(
        problem,
        lambda forward: absolute_misfit(problem, forward, data_penalty),
        regularisation=regularisation,
        penalty=penalty,
        data_penalty=data_penalty,
        edges=spared_edges(problem, scan, edge_weight),
        n_iterations=n_iterations,
        tolerance=tolerance,
        on_step=on_step,
    )
    return problem.chi_map(found)


@about(
    reference="Milovic et al., L1-QSM, Magn Reson Med 2022",
    checked="check phantom: 16.8 after 45 steps at 1e-2, 10.1 at 5e-2",
    parameter="regularisation",
)
def nll1qsm(
    field: FieldMap,
    *,
    scan: Scan | None = None,
    regularisation: float = 0.07,
    penalty: float = 2.0,
    data_penalty: float = 50.0,
    phase_penalty: float = 10.0,
    echo_time_s: float = 0.003,
    n_iterations: int = 150,
    tolerance: float = 1e-3,
    weighting: Weighting = "noise",
    edge_weight: EdgeWeight = "none",
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Total variation with an L1 data term of complex signals, by ADMM (Milovic et al., Magn Reson Med 2022, "L1-QSM", nonlinear).

    Minimises sum w / c |exp(i c D x) - exp(i c f)| + alpha ||R G x||_1 with c = 2 pi gamma B0 `echo_time_s` in rad/ppm, the rest as in `l1qsm`, with
    which it agrees for small misfits. Unlike in the original, the field is unwrapped: the data term stays constant beyond half a turn of misfit, and
    no choice of c can wrap. The term is not convex; its minimum is approached from a perfect fit.

    regularisation, penalty, data_penalty, n_iterations, weighting, edge_weight, padding and on_step: as in `l1qsm`. phase_penalty: mu_3 of the
    complex misfit, which is split off as well (`prox.PhaseSplit`), in units of w: published 1 for a weight of maximum 1. The defaults were chosen
    on two simulated heads (peak SNR 100, 7 T).

    Stops at a relative change of x below the tolerance. The k = 0 component is 0; the map is not referenced further. Every step takes four real
    transforms. Raises InputError for a total field, a setting out of range, or an edge weight without a scan.
    """
    check_positive(
        regularisation=regularisation, penalty=penalty, data_penalty=data_penalty, phase_penalty=phase_penalty, echo_time_s=echo_time_s
    )
    problem = Problem.of(field, padding=padding, weighting=weighting)
    rad_per_ppm = problem.radians(echo_time_s)
    found = minimise(
        problem,
        lambda forward: absolute_phase_misfit(problem, forward, data_penalty, phase_penalty, rad_per_ppm),
        regularisation=regularisation,
        penalty=penalty,
        data_penalty=data_penalty,
        edges=spared_edges(problem, scan, edge_weight),
        n_iterations=n_iterations,
        tolerance=tolerance,
        on_step=on_step,
    )
    return problem.chi_map(found)
