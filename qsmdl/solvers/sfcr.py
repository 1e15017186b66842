"""Structural feature based collaborative reconstruction (SFCR): k-space completed along the magnitude's edges, the field fitted along that map's."""

import torch
from torch import Tensor

from qsmdl.about import about
from qsmdl.errors import InputError
from qsmdl.physics.fourier import irfft3, multiply_spectrum, rfft3
from qsmdl.scan import ChiMap, FieldMap, Scan
from qsmdl.solvers.admm import OnStep, continued
from qsmdl.solvers.direct import truncated_inverse
from qsmdl.solvers.grid import PADDING
from qsmdl.solvers.kspace import complete, magnitude_on
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.solution import Solution, in_stages
from qsmdl.solvers.terms import quadratic_misfit
from qsmdl.solvers.tv import minimise
from qsmdl.solvers.weights import Weighting, edge_mask, reject_outliers
from qsmdl.validation import check_positive

BAND = 0.05
"""Half the width, in |D|, of the band where the maps of both steps are averaged."""


@about(input="local field, magnitude", reference="Bao et al., IEEE Trans Med Imaging 2016", parameter="regularisation")
def sfcr(
    field: FieldMap,
    *,
    scan: Scan | None = None,
    threshold: float = 0.18,
    structure_fidelity: float = 1e3,
    structure_penalty: float = 10.0,
    structure_iterations: int = 20,
    magnitude_edges: float = 0.3,
    map_edges: float = 0.35,
    regularisation: float = 2.5e-4,
    penalty: float = 0.05,
    data_penalty: float = 1.0,
    n_iterations: int = 50,
    n_rejections: int = 1,
    tolerance: float = 1e-3,
    weighting: Weighting = "noise",
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Structural feature based collaborative reconstruction (Bao et al., IEEE Trans Med Imaging 2016), its linear form after the JHU/KKI toolbox.

    M-step: x_M minimises structure_fidelity/2 ||x - x_tkd||^2_H + ||M G x||_1, where ||x||^2_H counts the frequencies with |D| > threshold alone,
    x_tkd is the truncated division there, and M is 0 at the strongest edges of the magnitude. S-step: x_S minimises 1/2 ||w (D x - f)||^2 + alpha
    ||M' G x||_1, M' 0 at the strongest edges of x_M; after each of n_rejections passes, voxels that misfit by more than 6 standard deviations lose
    weight (MERIT, `reject_outliers`). The map takes frequencies with |D| > threshold + 0.05 from x_M, those below threshold - 0.05 from x_S, and
    their mean between. G: the periodic gradient in 1/mm, its three components summed. Both steps are ADMM, from x_tkd and from x_M.

    structure_fidelity, in 1/(ppm mm), and regularisation, alpha in ppm mm for a weight of mean 1, were chosen on two simulated heads (peak SNR 100, 7
    T); the toolbox has 500 and lambda_S 1000 (alpha = 1 / lambda_S = 1e-3) in units of its field and for weights of maximum 1. structure_penalty, in
    1/(ppm mm), sets the speed of the M-step; it is fixed here and doubled on slow steps there. magnitude_edges and map_edges: shares of the
    gradient's components that are edges (`edge_mask`). For a field s times as large, alpha multiplies by s and both of the structure divide; B0 does
    not matter. The magnitude is that of all echoes of `scan`; without a scan, the confidence of the field map. weighting, padding, penalty,
    data_penalty: as in `tv`.

    The toolbox splits M G x where this splits G x: the same minimum, solved in k-space. Its term that pulls the ventricles to their mean is off by
    default there and left out; it runs 2 steps of the M-step, and rejects after each step of the S-step. The k = 0 component is 0; the map is not
    referenced further. Raises InputError for a total field, a scan on another grid or a setting out of range.
    """
    check_positive(structure_fidelity=structure_fidelity, structure_penalty=structure_penalty, regularisation=regularisation)
    check_positive(penalty=penalty, data_penalty=data_penalty)
    if not BAND < threshold < 2 / 3 - BAND:
        raise InputError(f"threshold is {threshold}; it must lie between {BAND} and {2 / 3 - BAND:.3f}, so that its band fits. 0.18 is usual.")
    if n_rejections < 0:
        raise InputError(f"n_rejections is {n_rejections}; it must be at least 0 (no voxel loses weight).")
    problem = Problem.of(field, padding=padding, weighting=weighting)
    grid, gradient, dipole = problem.grid, problem.gradient, problem.grid.dipole()
    structure = complete(
        grid,
        irfft3(multiply_spectrum(rfft3(problem.data), truncated_inverse(dipole, threshold)), grid.shape),
        dipole.abs() > threshold,
        fidelity=structure_fidelity,
        penalty=structure_penalty,
        edges=edge_mask(magnitude_on(grid, scan), problem.mask, gradient, share=magnitude_edges),
        n_iterations=structure_iterations,
        tolerance=tolerance,
        on_step=on_step,
    )
    edges = edge_mask(structure.x, problem.mask, gradient, share=map_edges)
    stages, fit = [structure], problem
    for _ in range(n_rejections + 1):
        if len(stages) > 1:
            fit = _without_outliers(fit, stages[-1].x)
        report = continued(on_step, sum(stage.n_steps for stage in stages))
        stages.append(_fit(fit, edges, stages[-1].x, regularisation, penalty, data_penalty, n_iterations, tolerance, report))
    share = ((dipole.abs() - (threshold - BAND)) / BAND).floor().clamp(0, 2).div_(2)
    spectrum = multiply_spectrum(rfft3(structure.x), share) + multiply_spectrum(rfft3(stages[-1].x), 1 - share)
    return problem.chi_map(in_stages(irfft3(spectrum, grid.shape), *stages))


def _fit(
    problem: Problem,
    edges: Tensor,
    start: Tensor,
    regularisation: float,
    penalty: float,
    data_penalty: float,
    n_iterations: int,
    tolerance: float,
    on_step: OnStep | None,
) -> Solution[Tensor]:
    """One pass of the S-step."""
    return minimise(
        problem,
        lambda forward: quadratic_misfit(problem, forward, data_penalty),
        regularisation=regularisation,
        penalty=penalty,
        data_penalty=data_penalty,
        edges=edges,
        n_iterations=n_iterations,
        tolerance=tolerance,
        start=start,
        on_step=on_step,
    )


def _without_outliers(problem: Problem, x: Tensor) -> Problem:
    """The same problem with less weight where x misfits (MERIT)."""
    residual = problem.dipole.apply_forward(x).flatten()[problem.inside] - problem.measured
    linear = problem.squared_weight.sqrt()
    weight = torch.zeros_like(problem.weight)
    weight.view(-1)[problem.inside] = reject_outliers(linear, linear * residual)
    return Problem.weighted(problem.grid, problem.data, weight)
