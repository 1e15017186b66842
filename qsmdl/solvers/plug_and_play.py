"""Plug-and-play: a denoiser, which is handed in as a function, in the place of a regulariser's proximal map."""

import math
from collections.abc import Callable

from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.fourier import irfft3, multiply_spectrum, rfft3
from qsmdl.solvers.admm import OnStep, relative_change
from qsmdl.solvers.grid import WorkingGrid
from qsmdl.solvers.problem import Problem
from qsmdl.solvers.solution import Solution
from qsmdl.solvers.terms import cosine_misfit

Denoise = Callable[[Tensor, float], Tensor]
"""A map [x, y, z] in ppm on the working grid's box and the standard deviation in ppm of the noise to take away, to the map without it."""


class PointDipoleSolve:
    """argmin_x mu_x/2 ||x - t_x||^2 + mu_d/2 ||D x - t_d||^2 on a periodic grid, exactly; `field` is D x."""

    def __init__(self, grid: WorkingGrid, data_penalty: float) -> None:
        self._shape, self._data_penalty = grid.shape, data_penalty
        self._dipole = grid.dipole()

    def __call__(self, target: Tensor, data_target: Tensor, penalty: float) -> Tensor:
        """target: t_x, data_target: t_d, both [x, y, z]; penalty: mu_x."""
        spectrum = rfft3(target).mul_(penalty)
        spectrum += multiply_spectrum(rfft3(data_target), self._dipole * self._data_penalty)
        return irfft3(spectrum.div_(self._dipole.square().mul_(self._data_penalty).add_(penalty)), self._shape)

    def field(self, x: Tensor) -> Tensor:
        """D x."""
        return irfft3(multiply_spectrum(rfft3(x), self._dipole), self._shape)


def noise_levels(first_ppm: float, last_ppm: float, n_iterations: int) -> list[float]:
    """From the first to the last level in even ratios."""
    if not 0 < last_ppm <= first_ppm < math.inf:
        raise InputError(f"The noise levels go from {first_ppm} to {last_ppm} ppm; both must be positive, and the first the larger one.")
    if n_iterations < 1:
        raise InputError(f"n_iterations is {n_iterations}; at least one step is needed.")
    return [first_ppm * (last_ppm / first_ppm) ** (k / max(n_iterations - 1, 1)) for k in range(n_iterations)]


def plug_and_play(
    problem: Problem,
    denoise: Denoise,
    *,
    field_noise_ppm: float,
    levels_ppm: list[float],
    strength: float,
    data_penalty: float,
    n_inner: int,
    rad_per_ppm: float,
    start: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Solution[Tensor]:
    """Half-quadratic splitting with a denoiser (Venkatakrishnan et al., GlobalSIP 2013; Zhang et al., DPIR, IEEE Trans Pattern Anal 2022).

    For each level sigma_k: x is what explains the field (misfit of complex signals, `terms.cosine_misfit`, `n_inner` steps of its split) next to the
    last denoised map z, weighed by mu_k = strength (field_noise_ppm / sigma_k)^2; then z = denoise(x, sigma_k). That is how a map would be estimated
    whose regulariser's proximal map the denoiser is, the field's noise being known. start: z to begin with (None: 0). Returns the last z; residual
    and curve: relative change of z.
    """
    solve = PointDipoleSolve(problem.grid, data_penalty)
    misfit = cosine_misfit(problem, solve.field, data_penalty, rad_per_ppm)
    z = problem.data.new_zeros(problem.grid.shape) if start is None else start
    data_target, dual = misfit.start, problem.data.new_zeros(problem.grid.shape)
    curve: list[float] = []
    for step, level in enumerate(levels_ppm, 1):
        penalty = strength * (field_noise_ppm / level) ** 2
        x = solve(z, data_target, penalty)
        for _ in range(n_inner):
            v = misfit.forward(x).add_(dual)
            split = misfit.prox(v)
            dual = v - split
            data_target = split - dual
            x = solve(z, data_target, penalty)
        before, z = z, problem.data.new_zeros(problem.grid.shape)
        z[problem.grid.inner] = denoise(x[problem.grid.inner], level)
        curve.append(relative_change(z, before if step > 1 or start is not None else None))
        if not math.isfinite(curve[-1]):
            raise InputError(f"The map is no longer finite after {step} steps. Check the denoiser's weights, and the field for extreme values.")
        if on_step is not None:
            on_step(step, curve[-1])
    return Solution(z, len(curve), f"all {len(curve)} noise levels", curve[-1], tuple(curve))
