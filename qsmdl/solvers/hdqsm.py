"""HD-QSM: an L1 data term first, to find the voxels that do not fit, then an L2 data term that trusts them less."""

from dataclasses import replace

from torch import Tensor

from qsmdl.about import about
from qsmdl.errors import InputError
from qsmdl.scan import ChiMap, FieldMap, Scan
from qsmdl.solvers.admm import OnStep
from qsmdl.solvers.grid import PADDING
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.terms import EdgeWeight, absolute_misfit, quadratic_misfit, spared_edges
from qsmdl.solvers.tv import minimise
from qsmdl.solvers.weights import Weighting
from qsmdl.validation import check_positive


@about(
    reference="Lambert et al., HD-QSM, Magn Reson Med 2022",
    checked="check phantom: 9.13 (12.1 after the first stage)",
    parameter="regularisation",
)
def hdqsm(
    field: FieldMap,
    *,
    scan: Scan | None = None,
    regularisation: float = 1.2e-4,
    penalty: float = 0.05,
    data_penalty: float = 1.0,
    n_iterations: int = 80,
    l1_regularisation: float = 0.05,
    l1_penalty: float = 1.0,
    l1_data_penalty: float = 10.0,
    l1_iterations: int = 20,
    outlier_share: float = 0.001,
    tolerance: float = 1e-3,
    weighting: Weighting = "noise",
    edge_weight: EdgeWeight = "none",
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Hybrid data fidelity in two stages, by ADMM (Lambert et al., Magn Reson Med 2022, "HD-QSM").

    Stage 1 takes `l1_iterations` steps towards the minimum of ||w (D x - f)||_1 + alpha_1 ||R G x||_1, as `l1qsm`. Stage 2 starts from that map, x_1,
    and minimises 1/2 ||w (1 - d) (D x - f)||^2 + alpha ||R G x||_1, as `tv`, where d = |D x_1 - f| over its largest value in the mask: what an L1
    term, which ignores single errors, could not explain is trusted less. x and f are in ppm.

    regularisation: alpha in ppm mm, for a weight w of mean 1 in the mask; penalty, data_penalty: mu_1 and mu_2 of stage 2, as in `tv`.
    l1_regularisation (alpha_1, mm), l1_penalty, l1_data_penalty (1/ppm): of stage 1, as in `l1qsm`. The original couples the stages in the unit of
    its input, alpha_1 = sqrt(alpha), mu = 10 alpha, mu_1 = sqrt(mu), which depends on that unit; here every parameter stands for itself. Its alpha of
    10^-4.785 ppm with a weight of maximum 1 is 1.6e-5 / mean(w)^2. outlier_share: instead of the largest misfit itself, the one that this share of
    the voxels exceeds sets the scale of d, and those have no weight in stage 2 (0: the original, where one hot voxel changes the trust in all).
    edge_weight: R as in `tv`, small at edges, where the authors' code takes the raw gradient norm; "r2star" was their entry to the challenge. On the
    two simulated heads (peak SNR 100, 7 T) that the defaults were chosen on, it did not help. weighting, padding: as in `tv`; on_step(step,
    change): progress over both stages.

    Stops in stage 2 at a relative change of x below the tolerance. The k = 0 component is 0; the map is not referenced further. Every step takes four
    real transforms. Raises InputError for a total field, a setting out of range, or an edge weight without a scan.
    """
    check_positive(regularisation=regularisation, penalty=penalty, data_penalty=data_penalty)
    if l1_iterations < 1:
        raise InputError(f"l1_iterations is {l1_iterations}; the first stage needs at least one step.")
    check_positive(l1_regularisation=l1_regularisation, l1_penalty=l1_penalty, l1_data_penalty=l1_data_penalty)
    problem = Problem.of(field, padding=padding, weighting=weighting)
    edges = spared_edges(problem, scan, edge_weight)
    first = minimise(
        problem,
        lambda forward: absolute_misfit(problem, forward, l1_data_penalty),
        regularisation=l1_regularisation,
        penalty=l1_penalty,
        data_penalty=l1_data_penalty,
        edges=edges,
        n_iterations=l1_iterations,
        tolerance=0.0,
        on_step=on_step,
    )
    doubted = trust(problem, first.x, outlier_share)
    second = minimise(
        doubted,
        lambda forward: quadratic_misfit(doubted, forward, data_penalty),
        regularisation=regularisation,
        penalty=penalty,
        data_penalty=data_penalty,
        edges=edges,
        n_iterations=n_iterations,
        tolerance=tolerance,
        start=first.x,
        on_step=None if on_step is None else lambda step, change: on_step(l1_iterations + step, change),
    )
    return problem.chi_map(replace(second, n_steps=first.n_steps + second.n_steps, curve=first.curve + second.curve))


def trust(problem: Problem, x: Tensor, outlier_share: float) -> Problem:
    """The same problem with w (1 - d), d = |D x - f| over its largest value in the mask once the `outlier_share` above that is set to it."""
    if not 0 <= outlier_share < 1:
        raise InputError(f"outlier_share is {outlier_share}; it must be at least 0 (the largest misfit sets the scale) and below 1.")
    misfit = (problem.dipole(x) - problem.data).abs_()
    measured = misfit.flatten()[problem.inside]
    largest = measured.kthvalue(len(measured) - int(outlier_share * len(measured))).values
    if float(largest) == 0:
        return problem
    return Problem.weighted(problem.grid, problem.data, problem.weight * (1 - (misfit / largest).clamp_(max=1.0)))
