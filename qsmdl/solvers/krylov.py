"""Krylov methods on tensors of any shape: conjugate gradients, and CGLS for least squares. Inner products are summed in double precision."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.solvers.admm import OnStep, check_iterations
from qsmdl.solvers.solution import Solution

Apply = Callable[[Tensor], Tensor]


def inner(a: Tensor, b: Tensor) -> float:
    """Re sum(conj(a) b), summed in double precision."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    return float((a * b).sum(dtype=torch.float64))


def cg(
    apply: Apply,
    b: Tensor,
    *,
    n_iterations: int,
    tolerance: float,
    start: Tensor | None = None,
    precondition: Apply | None = None,
    on_step: OnStep | None = None,
) -> Solution[Tensor]:
    """Solve A x = b, A self-adjoint and positive semidefinite (Hestenes and Stiefel 1952), from 0 or `start`.

    apply: x -> A x; precondition: r -> M^-1 r, self-adjoint and positive; both return new tensors. Stops when ||b - A x|| <= tolerance ||b||, by the
    residual that is carried along, or when a direction has no curvature (then b lies outside the range of A). residual and curve: ||r|| / ||b||.
    Raises InputError where a value is no longer finite.
    """
    check_iterations(n_iterations, tolerance)
    norm = math.sqrt(inner(b, b))
    x = torch.zeros_like(b) if start is None else start.clone()
    r = b.clone() if start is None else b - apply(x)
    if norm == 0:
        return Solution(torch.zeros_like(b), 0, "tolerance reached", 0.0)
    z = r if precondition is None else precondition(r)
    p, rz, curve = z.clone(), inner(r, z), [math.sqrt(inner(r, r)) / norm]
    stopped, step = "max steps", 0
    if curve[0] <= tolerance:
        return Solution(x, 0, "tolerance reached", curve[0], tuple(curve))
    for step in range(1, n_iterations + 1):
        q = apply(p)
        curvature = inner(p, q)
        if not math.isfinite(curvature):
            raise InputError(f"Conjugate gradients met a value that is not finite after {step} steps. Check the data and the weights for extremes.")
        if curvature <= 0:
            stopped = "no curvature left"
            break
        alpha = rz / curvature
        x.add_(p, alpha=alpha)
        r.sub_(q, alpha=alpha)
        z = r if precondition is None else precondition(r)
        curve.append(math.sqrt(inner(r, r)) / norm)
        if on_step is not None:
            on_step(step, curve[-1])
        if curve[-1] <= tolerance:
            stopped = "tolerance reached"
            break
        rz, before = inner(r, z), rz
        p.mul_(rz / before).add_(z)
    return Solution(x, step, stopped, curve[-1], tuple(curve))


def cgls(
    forward: Apply, adjoint: Apply, b: Tensor, *, n_iterations: int, tolerance: float, on_step: OnStep | None = None
) -> Solution[Tensor]:
    """Minimise ||A x - b||, from 0, without forming A^H A (Bjorck, Numerical Methods for Least Squares Problems, 1996): the iterates of LSQR.

    Stops when ||b - A x|| <= tolerance ||b|| or ||A^H r|| <= tolerance ||A^H b||, as LSQR does where the system is inconsistent. residual and curve:
    ||b - A x|| / ||b||, which never rises.
    """
    check_iterations(n_iterations, tolerance)
    r, s = b.clone(), adjoint(b)
    norm, gamma = math.sqrt(inner(b, b)), inner(s, s)
    x, p, curve, first = torch.zeros_like(s), s.clone(), [1.0], gamma
    if norm == 0 or gamma == 0:
        return Solution(x, 0, "tolerance reached", 0.0 if norm == 0 else 1.0)
    stopped, step = "max steps", 0
    for step in range(1, n_iterations + 1):
        q = forward(p)
        power = inner(q, q)
        if not math.isfinite(power):
            raise InputError(f"CGLS met a value that is not finite after {step} steps. Check the data and the weights for extremes.")
        if power == 0:
            stopped = "no curvature left"
            break
        alpha = gamma / power
        x.add_(p, alpha=alpha)
        r.sub_(q, alpha=alpha)
        s = adjoint(r)
        gamma, before = inner(s, s), gamma
        curve.append(math.sqrt(inner(r, r)) / norm)
        if on_step is not None:
            on_step(step, curve[-1])
        if curve[-1] <= tolerance or gamma <= tolerance**2 * first:
            stopped = "tolerance reached"
            break
        p.mul_(gamma / before).add_(s)
    return Solution(x, step, stopped, curve[-1], tuple(curve))
