"""Reference minimisers for small problems, written without the package: dense matrices, and descent on a smoothed objective."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import lsq_linear


def tv_minimiser(hessian: np.ndarray, linear: np.ndarray, gradient: np.ndarray, bound: float | np.ndarray) -> np.ndarray:
    """argmin of 1/2 x'Hx - g'x + sum bound |Gx| with a mean of 0, by its dual, a bounded least-squares problem: x = H^+ (g - G'p), |p| <= bound.

    H has the constants as its null space.
    """
    values, vectors = np.linalg.eigh(hessian)
    seen = values > 1e-9 * values.max()
    assert int((~seen).sum()) == 1
    root = (vectors[:, seen] / np.sqrt(values[seen])).T
    bound = np.broadcast_to(bound, len(gradient))
    dual = lsq_linear(root @ gradient.T, root @ linear, bounds=(-bound, bound), tol=1e-13, max_iter=500)
    x = root.T @ (root @ (linear - gradient.T @ dual.x))
    return x - x.mean()


def smooth_minimiser(
    cost: Callable[[torch.Tensor, float], torch.Tensor], start: torch.Tensor, roundings: Sequence[float] = (1e-2, 1e-3, 1e-4, 1e-5)
) -> torch.Tensor:
    """argmin of cost(x, eps) as eps, the rounding of its kinks, falls: quasi-Newton descent in double precision."""
    x = start.clone().double().requires_grad_()
    for rounding in roundings:
        search = torch.optim.LBFGS([x], max_iter=300, history_size=40, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe")

        def closure(rounding: float = rounding, search: torch.optim.LBFGS = search) -> torch.Tensor:
            search.zero_grad()
            value = cost(x, rounding)
            value.backward()
            return value

        search.step(closure)
    return x.detach()


def rounded(values: torch.Tensor, rounding: float) -> torch.Tensor:
    """|values| with its kink rounded off."""
    return (values.square() + rounding**2).sqrt() - rounding


def majorised_minimiser(
    slope: Callable[[np.ndarray], np.ndarray], curvature: np.ndarray, gradient: np.ndarray, alpha: float, *, n_steps: int = 150
) -> np.ndarray:
    """argmin of a smooth function plus alpha ||Gx||_1, from 0: every step minimises a quadratic that lies above both, by a dense solve.

    slope: its gradient; curvature: a matrix that its second derivative never exceeds. The kinks are rounded off less and less.
    """
    x = np.zeros(curvature.shape[0])
    for rounding in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        for _ in range(n_steps):
            size = np.sqrt((gradient @ x) ** 2 + rounding**2)
            bowl = curvature + alpha * gradient.T @ (gradient / size[:, None])
            x = x - np.linalg.lstsq(bowl, slope(x) + alpha * gradient.T @ (gradient @ x / size), rcond=1e-14)[0]
    return x
