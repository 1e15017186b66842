"""Second-order total generalised variation with a weighted linear or nonlinear data term, by ADMM."""

from collections.abc import Sequence

import torch
from torch import Tensor

from qsmdl.about import about
from qsmdl.physics.derivatives import Gradient, SymmetricGradient, gradient_symbols
from qsmdl.physics.fourier import irfft3, multiply_spectrum, rfft3
from qsmdl.scan import ChiMap, FieldMap, Scan
from qsmdl.solvers.admm import OnStep, Term, admm
from qsmdl.solvers.grid import PADDING, WorkingGrid
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.terms import EdgeWeight, absolute, cosine_misfit, quadratic_misfit, spared_edges
from qsmdl.solvers.weights import Weighting
from qsmdl.validation import check_positive


class TgvSolve:
    """argmin over x and v of mu_1/2 ||G x - v - t_1||^2 + mu_0/2 ||E v - t_0||^2 + mu_2/2 ||D x - t_2||^2, E the symmetric gradient.

    The unknowns are stacked, [4, x, y, z] with x first. In k-space this is a Hermitian 4 x 4 system per frequency, with the symbols e of G and
    (|e|^2 + e e^H) / 2 of E^T E; e e^H has rank one, so v is eliminated in closed form and nothing is stored but D and |e|^2. Five transforms to
    k-space and four back; `field` needs one more. The k = 0 component of x, which no term sees, is exactly 0.
    """

    def __init__(self, grid: WorkingGrid, first_penalty: float, second_penalty: float, data_penalty: float) -> None:
        size = grid.field.geometry.voxel_size_mm
        self.gradient, self.symmetric = Gradient(size), SymmetricGradient(size)
        self._shape = grid.shape
        self._first, self._second = first_penalty, second_penalty
        data = grid.field.field_ppm
        self._symbols = [e.to(data.device) for e in gradient_symbols(grid.shape, size, dtype=data.dtype)]
        self._dipole, power = grid.dipole(), grid.gradient_power()
        longitudinal = power * second_penalty + first_penalty
        inverse = self._dipole.square().mul_(longitudinal).mul_(data_penalty).addcmul_(power, power, value=first_penalty * second_penalty)
        inverse[0, 0, 0] = torch.inf
        inverse.reciprocal_()
        self._of_variation = inverse * first_penalty
        self._of_data = inverse.mul_(longitudinal).mul_(self._dipole).mul_(data_penalty)
        # The system of v alone: transversal on what is orthogonal to e, longitudinal along e.
        self._transversal = (power * (second_penalty / 2) + first_penalty).reciprocal_()
        self._longitudinal = longitudinal.reciprocal()
        self._power_first, self._of_slope = power * first_penalty, longitudinal
        self._last: tuple[Tensor, Tensor] | None = None

    def __call__(self, targets: Sequence[Tensor]) -> Tensor:
        """targets: t_1 [3, x, y, z], t_0 [6, x, y, z] and t_2 [x, y, z]."""
        first, second, data = targets
        # mu_0 E^T t_0 - mu_1 t_1, the right side of v, and with it mu_0 G^T E^T t_0 without a transform of its own.
        right = data.new_empty((5, *self._shape))
        self.symmetric.apply_adjoint(second, out=right[1:4]).mul_(self._second).sub_(first, alpha=self._first)
        self.gradient.apply_adjoint(first, out=right[0])
        right[4] = data
        # One tensor for all spectra, so that those of x and v lie side by side on the way back.
        spectra = rfft3(right)
        x, v, measured = spectra[0], spectra[1:4], spectra[4]
        pulled = torch.zeros_like(x)
        for component, symbol in zip(v, self._symbols, strict=True):
            pulled.addcmul_(component, symbol.conj().resolve_conj())
        # Of x: the variation's (mu_0 |e|^2 + mu_1) (e^H t_1) + e^H (mu_0 E^T t_0 - mu_1 t_1).
        multiply_spectrum(multiply_spectrum(x, self._of_slope).add_(pulled), self._of_variation)
        x += multiply_spectrum(measured, self._of_data)
        # e^H v of the solution, from its own equation: longitudinal (e^H v) = e^H r + mu_1 |e|^2 x.
        along = multiply_spectrum(multiply_spectrum(x.clone(), self._power_first).add_(pulled), self._longitudinal)
        along = along.mul_(-self._second / 2).add_(x, alpha=self._first)
        for component, symbol in zip(v, self._symbols, strict=True):
            multiply_spectrum(component.addcmul_(along, symbol), self._transversal)
        out = irfft3(spectra[:4], self._shape)
        self._last = (out, x)
        return out

    def field(self, unknowns: Tensor) -> Tensor:
        """D x. For the unknowns that the last call returned their spectrum is reused, once."""
        last, self._last = self._last, None
        spectrum = last[1] if last is not None and last[0] is unknowns else rfft3(unknowns[0])
        return irfft3(multiply_spectrum(spectrum, self._dipole), self._shape)


def generalised_variation(
    solve: TgvSolve, problem: Problem, regularisation: float, ratio: float, penalties: tuple[float, float], edges: Tensor | None = None
) -> list[Term]:
    """The terms alpha_1 ||R (G x - v)||_1 and alpha_0 ||E v||_1, the latter over all nine entries of the matrices, with alpha_0 = ratio * alpha_1.

    penalties: mu_1 and mu_0; edges: R on the working grid, None for 1.
    """
    first = regularisation / penalties[0] if edges is None else edges * (regularisation / penalties[0])
    second = regularisation * ratio / penalties[1]
    # An entry off the diagonal counts twice, and is stored times sqrt(2).
    each = [second] * 3 + [second * 2**0.5] * 3

    def slope(unknowns: Tensor) -> Tensor:
        return solve.gradient.apply_forward(unknowns[0]).sub_(unknowns[1:])

    def curvature(unknowns: Tensor) -> Tensor:
        return solve.symmetric.apply_forward(unknowns[1:])

    return [
        absolute(slope, first, problem.data.new_zeros((3, *problem.grid.shape))),
        absolute(curvature, each, problem.data.new_zeros((6, *problem.grid.shape))),
    ]


@about(
    reference="Milovic et al., FANSI, Magn Reson Med 2018",
    checked="check phantom: 10.32",
    parameter="regularisation",
)
def tgv(
    field: FieldMap,
    *,
    scan: Scan | None = None,
    regularisation: float = 1.2e-4,
    order_ratio: float = 2.0,
    penalty: float = 0.2,
    penalty_ratio: float = 2.0,
    data_penalty: float = 1.0,
    n_iterations: int = 80,
    tolerance: float = 1e-3,
    weighting: Weighting = "noise",
    edge_weight: EdgeWeight = "none",
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Second-order total generalised variation with a weighted linear data term, by ADMM (Milovic et al., Magn Reson Med 2018, "FANSI", wTGV; the
    prior: Bredies, Kunisch, Pock, SIAM J Imaging Sci 2010).

    Minimises over x and a vector field v: 1/2 ||w (D x - f)||^2 + alpha_1 ||R (G x - v)||_1 + alpha_0 ||E v||_1, with x and f in ppm, v in ppm/mm, G
    the periodic gradient in 1/mm, E v = (G v + (G v)^T) / 2, and the absolute values of all three components and of all nine entries summed. Ramps
    cost only where they begin and end, so they do not turn into stairs as with total variation. Neither B0 nor an echo time enters, and the map
    scales with the field and alpha together.

    regularisation: alpha_1 in ppm mm, for a weight w whose mean in the mask is 1; it converts from codes that work in rad with a weight of maximum 1
    as in `tv`: alpha_rad / (2 pi gamma B0 TE) / mean(w)^2. order_ratio: alpha_0 / alpha_1 in mm, published 2. penalty (mu_1 of ||G x - v - z||^2),
    penalty_ratio (mu_0 of ||E v - z||^2 over mu_1, published 2) and data_penalty (mu_2), without units of the field, set the speed, not the
    minimiser. The published rule mu_1 = 100 alpha depends on units; the absolute values here were chosen on two simulated heads (peak SNR 100, 7 T).
    weighting: "noise" or "uniform". edge_weight: R, "none" (1), or "magnitude" or "r2star", small at the edges of that map of the scan
    (`spared_edges`). padding: see `WorkingGrid.of`. on_step(step, change): progress.

    Stops at a relative change of x and v together below the tolerance (the original: of x alone). The k = 0 component of x is 0; the map is not
    referenced further. Every step takes ten real transforms. Raises InputError for a total field, a setting out of range, or an edge weight without a
    scan.
    """
    check_positive(regularisation=regularisation, order_ratio=order_ratio, penalty=penalty, penalty_ratio=penalty_ratio, data_penalty=data_penalty)
    problem = Problem.of(field, padding=padding, weighting=weighting)
    penalties = (penalty, penalty * penalty_ratio)
    solve = TgvSolve(problem.grid, *penalties, data_penalty)
    prior = generalised_variation(solve, problem, regularisation, order_ratio, penalties, spared_edges(problem, scan, edge_weight))
    misfit = quadratic_misfit(problem, solve.field, data_penalty)
    found = admm(solve, [*prior, misfit], n_iterations=n_iterations, tolerance=tolerance, on_step=on_step)
    return problem.grid.chi_map(found.x[0], found.outcome)


@about(
    reference="Milovic et al., FANSI, Magn Reson Med 2018",
    checked="check phantom: 10.32",
    parameter="regularisation",
)
def nltgv(
    field: FieldMap,
    *,
    scan: Scan | None = None,
    regularisation: float = 1.2e-4,
    order_ratio: float = 2.0,
    penalty: float = 0.2,
    penalty_ratio: float = 2.0,
    data_penalty: float = 1.0,
    echo_time_s: float = 0.003,
    n_iterations: int = 80,
    tolerance: float = 1e-3,
    weighting: Weighting = "noise",
    edge_weight: EdgeWeight = "none",
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Second-order total generalised variation with the misfit of complex signals, by ADMM (Milovic et al., Magn Reson Med 2018, "FANSI", nlTGV).

    Minimises sum w^2 / c^2 (1 - cos(c (D x - f))) + alpha_1 ||R (G x - v)||_1 + alpha_0 ||E v||_1 with c = 2 pi gamma B0 `echo_time_s` in rad/ppm,
    the rest as in `tgv`, with which it agrees for small misfits; what the cosine does to large ones, and how it differs from the original: `nltv`.

    All other settings, their units and the stopping rule: `tgv`. Raises InputError for a total field, a setting out of range, or an edge weight
    without a scan.
    """
    check_positive(regularisation=regularisation, order_ratio=order_ratio, penalty=penalty, penalty_ratio=penalty_ratio, data_penalty=data_penalty)
    check_positive(echo_time_s=echo_time_s)
    problem = Problem.of(field, padding=padding, weighting=weighting)
    penalties = (penalty, penalty * penalty_ratio)
    solve = TgvSolve(problem.grid, *penalties, data_penalty)
    prior = generalised_variation(solve, problem, regularisation, order_ratio, penalties, spared_edges(problem, scan, edge_weight))
    misfit = cosine_misfit(problem, solve.field, data_penalty, problem.radians(echo_time_s))
    found = admm(solve, [*prior, misfit], n_iterations=n_iterations, tolerance=tolerance, on_step=on_step)
    return problem.grid.chi_map(found.x[0], found.outcome)
