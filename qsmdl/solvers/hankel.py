"""Low-rank Hankel matrices of planes of k-space: the nuclear norm of a plane's sliding windows, and what minimises it together with a data term."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.solvers.krylov import cg

PLANE = (-2, -1)
START = 0.01
"""Of the damped division that the first planes come from; far above the dipole kernel near its cone, far below it elsewhere."""


def check_window(window: int, side: int) -> None:
    """Refuse windows that do not fit into planes whose smaller side is `side`."""
    if not 2 <= window <= side:
        raise InputError(f"window is {window}; it must be at least 2 and at most the smallest side of the grid, {side}.")


class HankelNorm:
    """tr (G + eps^2)^(1/2) of planes [plane, x, y], with G = H H^H of the Hankel matrix H whose columns are the window x window neighbourhoods of all
    samples of a plane, wrapped around its edges: the nuclear norm of H, rounded off below eps.

    H is never formed. Wrapped around, G holds the plane's autocorrelation, the transform of |u|^2 with u the plane's inverse transform, and H^H Q H
    is a multiplication of u by a map (Ongie and Jacob, IEEE Trans Comput Imaging 2017, GIRAF).
    """

    def __init__(self, shape: tuple[int, int], window: int) -> None:
        check_window(window, min(shape))
        self.shape, self.window = shape, window
        index = torch.arange(window)
        lag = index[:, None] - index[None, :]
        rows = lag[:, None, :, None].expand(window, window, window, window) % shape[0]
        columns = lag[None, :, None, :].expand(window, window, window, window) % shape[1]
        self._lags = (rows * shape[1] + columns).reshape(-1)

    def gram(self, planes: Tensor) -> Tensor:
        """G [plane, window^2, window^2]."""
        power = torch.fft.ifft2(planes, norm="ortho").abs().square()
        correlation = torch.fft.fft2(power).flatten(1)
        n = self.window**2
        gram: Tensor = correlation[:, self._lags.to(planes.device)].reshape(-1, n, n)
        return gram

    def value_and_weight(self, planes: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """The norm [plane], and rho [plane, x, y] with tr(G Q) = sum rho |u|^2 for Q = (G + eps^2)^(-1/2); eps: [plane]."""
        values, vectors = torch.linalg.eigh(self.gram(planes))
        roots = (values.clamp(min=0.0) + eps[:, None].square()).sqrt()
        inverse = (vectors / roots[:, None, :]) @ vectors.mH
        # The entries of Q^T that stand for one lag, summed.
        lags = self._lags.to(planes.device).expand(len(planes), -1)
        kernel = torch.zeros((len(planes), self.shape[0] * self.shape[1]), dtype=planes.dtype, device=planes.device)
        kernel.scatter_add_(1, lags, inverse.mT.reshape(len(planes), -1))
        return roots.sum(1), torch.fft.fft2(kernel.reshape(-1, *self.shape)).real.clamp(min=0.0)


@dataclass(frozen=True, eq=False, slots=True)
class Completion:
    """planes: the minimiser; values: the objective at the start and after every step, summed over the planes; change: of the last step."""

    planes: Tensor
    values: tuple[float, ...]
    change: float


def complete_planes(
    data: Tensor,
    kernel: Tensor,
    weights: tuple[Tensor, ...],
    *,
    window: int,
    regularisation: float,
    smoothing: float,
    n_iterations: int,
    cg_iterations: int,
) -> Completion:
    """argmin_x 1/2 ||kernel x - data||^2 + lambda sum_i ||H(weight_i x)||_*, each plane [plane, x, y] by itself, by iteratively reweighted least
    squares.

    Every step replaces the norm by the parabola tr(G Q) / 2 that touches it from above, and goes down on that by conjugate gradients from where it
    is: the objective never rises. smoothing: eps over the root mean square of a singular value at the start, kernel data / (kernel^2 + 0.01).
    """
    norm = HankelNorm((data.shape[-2], data.shape[-1]), window)
    x = data * kernel / (kernel.square() + START)
    floor = torch.finfo(kernel.dtype).tiny ** 0.5
    eps = [smoothing * (torch.linalg.vector_norm(w * x, dim=PLANE)).clamp(min=floor) for w in weights]
    right, squared = data * kernel, kernel.square()
    power = [w.abs().square() for w in weights]
    values: list[float] = []
    before = x
    for step in range(n_iterations + 1):
        parts = [norm.value_and_weight(w * x, e) for w, e in zip(weights, eps, strict=True)]
        misfit = (kernel * x - data).abs().square().sum(dtype=torch.float64) / 2
        values.append(float(misfit) + regularisation * sum(float(value.sum(dtype=torch.float64)) for value, _ in parts))
        if step == n_iterations:
            break
        rhos = [rho * regularisation for _, rho in parts]

        def apply(v: Tensor, rhos: list[Tensor] = rhos) -> Tensor:
            out = squared * v
            for w, rho in zip(weights, rhos, strict=True):
                out += w.conj() * torch.fft.fft2(torch.fft.ifft2(w * v).mul_(rho))
            return out

        diagonal = squared + sum((p * rho.mean(PLANE, keepdim=True) for p, rho in zip(power, rhos, strict=True)), torch.zeros_like(squared))
        inverse = torch.where(diagonal > 0, 1 / diagonal.clamp(min=floor), 0.0)

        def precondition(r: Tensor, inverse: Tensor = inverse) -> Tensor:
            return r * inverse

        before = x
        x = cg(apply, right, start=x, n_iterations=cg_iterations, tolerance=1e-6, precondition=precondition).x
    size = float(torch.linalg.vector_norm(x))
    return Completion(x, tuple(values), float(torch.linalg.vector_norm(x - before)) / size if size > 0 else 0.0)
