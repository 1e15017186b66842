"""Single-step total generalised variation from the wrapped phase."""

from dataclasses import replace

import torch
from torch import Tensor

from qsmdl.about import about
from qsmdl.errors import InputError
from qsmdl.physics.derivatives import Gradient, SymmetricGradient
from qsmdl.physics.fourier import irfft3, multiply_spectrum, rfft3
from qsmdl.scan import ChiMap, FieldMap, Scan
from qsmdl.solvers.admm import OnStep
from qsmdl.solvers.grid import PADDING
from qsmdl.solvers.phase import integrate_differences, phase_differences
from qsmdl.solvers.primal_dual import DualTerm, primal_dual
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.weights import Weighting
from qsmdl.validation import check_positive


class SingleStep:
    """The four terms of `tgvqsm` for the stacked unknowns x, h and v [5, x, y, z], and their preconditioner.

    radii: alpha_1 and alpha_0; steps: sigma of the misfit, the Laplacian, G x - v and E v. The preconditioner is diagonal in k-space for x and h and
    a number for v, each twice what the squared norm of its columns asks for where a row holds two unknowns.
    """

    def __init__(self, problem: Problem, radii: tuple[float, float], steps: tuple[float, float, float, float]) -> None:
        size = problem.grid.field.geometry.voxel_size_mm
        self._gradient, self._symmetric = Gradient(size), SymmetricGradient(size)
        self._dipole, self._shape = problem.grid.dipole(), problem.grid.shape
        self._squared, self._weighted = problem.weight.square(), problem.weight.square() * problem.data
        self._interior = problem.grid.place(interior(problem.grid.field.mask).to(problem.data.dtype))
        self._radii, self._steps = radii, steps
        misfit, laplacian, first, second = steps
        power = problem.grid.gradient_power()
        self._of_h = power.square().mul_(laplacian).add_(2 * misfit).reciprocal_()
        self._of_v = 1 / (2 * first + second * float(power.max()))
        self._of_x = self._dipole.square().mul_(2 * misfit).add_(power, alpha=2 * first)
        self._of_x[0, 0, 0] = torch.inf
        self._of_x.reciprocal_()

    def _filtered(self, volume: Tensor, kernel: Tensor) -> Tensor:
        return irfft3(multiply_spectrum(rfft3(volume), kernel), self._shape)

    def _laplacian(self, volume: Tensor) -> Tensor:
        return self._gradient.apply_adjoint(self._gradient.apply_forward(volume))

    def terms(self) -> list[DualTerm]:
        """1/2 ||w (D x - h - f)||^2, 0 where the Laplacian of h vanishes within the mask, alpha_1 |G x - v| and alpha_0 |E v|."""
        misfit, laplacian, first, second = self._steps

        def add_dipole(y: Tensor, total: Tensor) -> None:
            total[0] += self._filtered(y, self._dipole)
            total[1] -= y

        def fit(v: Tensor) -> Tensor:
            return v.mul_(self._squared).sub_(self._weighted, alpha=misfit).div_(self._squared + misfit)

        def add_laplacian(y: Tensor, total: Tensor) -> None:
            total[1] += self._laplacian(y)

        def add_slope(y: Tensor, total: Tensor) -> None:
            total[0] += self._gradient.apply_adjoint(y)
            total[2:] -= y

        def add_bend(y: Tensor, total: Tensor) -> None:
            total[2:] += self._symmetric.apply_adjoint(y)

        return [
            DualTerm(lambda u: self._filtered(u[0], self._dipole).sub_(u[1]), add_dipole, misfit, fit),
            DualTerm(lambda u: self._laplacian(u[1]).mul_(self._interior), add_laplacian, laplacian, lambda v: v),
            DualTerm(lambda u: self._gradient.apply_forward(u[0]).sub_(u[2:]), add_slope, first, lambda v: _shortened(v, self._radii[0])),
            DualTerm(lambda u: self._symmetric.apply_forward(u[2:]), add_bend, second, lambda v: _shortened(v, self._radii[1])),
        ]

    def precondition(self, pull: Tensor) -> Tensor:
        """T r."""
        out = pull * self._of_v
        out[0] = self._filtered(pull[0], self._of_x)
        out[1] = self._filtered(pull[1], self._of_h)
        return out


@about(
    input="wrapped phase",
    reference="Langkammer et al., NeuroImage 2015",
    parameter="regularisation",
)
def tgvqsm(
    field: FieldMap,
    *,
    scan: Scan | None = None,
    regularisation: float = 1.5e-4,
    order_ratio: float = 3.0,
    echo_time_s: float | None = None,
    penalty: float = 0.05,
    penalty_ratio: float = 0.4,
    data_penalty: float = 1.0,
    harmonic_penalty: float = 10.0,
    n_iterations: int = 80,
    tolerance: float = 1e-3,
    weighting: Weighting = "noise",
    padding: float | None = PADDING,
    on_step: OnStep | None = None,
) -> ChiMap:
    """Single-step inversion of the wrapped phase with total generalised variation (TGV-QSM; Langkammer, Bredies, Poser et al., NeuroImage 2015).

    The original minimises 1/2 ||psi||^2 + alpha_1 ||G x - v||_2,1 + alpha_0 ||E v||_F,1 subject to W x = Lap psi + Lap phi in the interior of the
    mask, with Lap phi from the wrapped phase phi and W = Lap D: whatever is harmonic there, as the field of sources outside, is no part of Lap phi.
    Here psi = D x - h - f is put in: minimises 1/2 ||w (D x - h - f)||^2 + alpha_1 sum |G x - v| + alpha_0 sum |E v|_F subject to Lap h = 0 in the
    interior (all six neighbours in the mask), the same problem with a background field h, better conditioned, and with a weight. f in ppm has the
    Laplacian of the wrapped phases: their differences between neighbours, fitted over all echoes (`phase_differences`) and integrated by least
    squares. Also unlike the original: D is the continuous kernel instead of a stencil, the mask is not eroded, and G and E are periodic
    forward differences on the padded grid.

    The field map gives the mask, the weight w, the geometry and the device; its field, local or total, is not used, unless there is no scan: then it
    is f. echo_time_s: use the echo nearest to this time alone (None: all). regularisation: alpha_1 in ppm mm for a w of mean 1; published 5e-4 rad
    without weight, to be divided by 2 pi gamma B0 TE; the default was chosen on two simulated heads (peak SNR 100, 7 T). order_ratio: alpha_0 /
    alpha_1 in mm, published 3. weighting: "noise" or "uniform". padding: see `WorkingGrid.of`. on_step(step, change): progress.

    penalty (sigma of G x - v, mm^2), penalty_ratio (that of E v over it), data_penalty (of D x - h) and harmonic_penalty (of Lap h, mm^4) set the
    speed of the primal-dual steps from x = h = 0 (`primal_dual`). The minimiser is far more than n_iterations away: like the original's fixed number
    of steps, these are part of the method. h is what comes last, so a strong background field wants more steps than the default and a
    harmonic_penalty of about 1; where there is none, a larger one is a little better.

    Stops at a relative change of all unknowns together below the tolerance. The k = 0 component of x is 0. Every step takes eight real transforms.
    Raises InputError for a setting out of range or a scan on another grid.
    """
    check_positive(regularisation=regularisation, order_ratio=order_ratio, penalty=penalty, penalty_ratio=penalty_ratio)
    check_positive(data_penalty=data_penalty, harmonic_penalty=harmonic_penalty)
    if scan is not None:
        field = replace(field, field_ppm=_integrated(field, scan, echo_time_s))
    problem = Problem.of(replace(field, kind="local"), padding=padding, weighting=weighting)
    steps = (data_penalty, harmonic_penalty, penalty, penalty * penalty_ratio)
    single = SingleStep(problem, (regularisation, regularisation * order_ratio), steps)
    found = primal_dual(
        single.terms(),
        problem.data.new_zeros((5, *problem.grid.shape)),
        precondition=single.precondition,
        n_iterations=n_iterations,
        tolerance=tolerance,
        on_step=on_step,
    )
    return problem.grid.chi_map(found.x[0], found.outcome)


def interior(mask: Tensor) -> Tensor:
    """Voxels of a mask [x, y, z] whose six neighbours lie in the mask too."""
    wide = torch.nn.functional.pad(mask, (1,) * 6)
    kept = wide.clone()
    for axis in range(3):
        kept &= wide.roll(1, axis) & wide.roll(-1, axis)
    return kept[1:-1, 1:-1, 1:-1]


def _integrated(field: FieldMap, scan: Scan, echo_time_s: float | None) -> Tensor:
    if scan.geometry.shape != field.geometry.shape:
        raise InputError(f"The scan has the grid {scan.geometry.shape} and the field map {field.geometry.shape}; both must lie on one grid.")
    inside = replace(scan, mask=field.mask)
    return integrate_differences(phase_differences(inside, echo_time_s), field.mask, field.geometry.voxel_size_mm).to(field.field_ppm)


def _shortened(v: Tensor, radius: float) -> Tensor:
    """Vectors along the first axis, those longer than the radius cut to it."""
    # torch.linalg.vector_norm along the first axis takes ten times as long.
    squared = torch.zeros_like(v[0])
    for component in v:
        squared.addcmul_(component, component)
    return v.mul_(squared.clamp_(min=radius**2).rsqrt_().mul_(radius))
