"""Echoes of tiny field maps, and dense references that the solvers' tests share."""

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from qsmdl.scan import FieldMap, Scan
from qsmdl.units import rad_per_ppm

ECHO_TIMES_S = (0.004, 0.012, 0.020)


def scan_of(field: FieldMap, *, noise: float = 0.02, offset_rad: float = 0.0, r2star_per_s: float = 30.0, seed: int = 5) -> Scan:
    """Three echoes of a field map, with the field's weight as magnitude at TE = 0, R2* between 1/2 and 3/2 of a rate, and complex noise."""
    generator = torch.Generator().manual_seed(seed)
    shape, dtype = field.geometry.shape, field.field_ppm.dtype
    rate = r2star_per_s * (0.5 + torch.rand(shape, generator=generator, dtype=dtype))
    echoes = []
    for te in ECHO_TIMES_S:
        phase = rad_per_ppm(field.geometry.b0_tesla, te) * field.field_ppm + offset_rad
        disturbance = torch.complex(*(torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2)))
        echoes.append(torch.polar(field.weight * torch.exp(-te * rate), phase) + noise * disturbance)
    signal = torch.stack(echoes)
    return Scan(field.geometry, ECHO_TIMES_S, signal.abs(), signal.angle(), field.mask)


def neumann_gradient(field: FieldMap) -> np.ndarray:
    """The forward differences over the voxel size as a matrix, the last along each axis 0."""
    shape, size = field.geometry.shape, field.geometry.voxel_size_mm
    units = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    rows = []
    for axis in range(3):
        difference = (np.roll(units, -1, axis + 1) - units) / size[axis]
        last = [slice(None)] * 4
        last[axis + 1] = slice(-1, None)
        difference[tuple(last)] = 0
        rows.append(difference.reshape(len(units), -1).T)
    return np.concatenate(rows)


def smoothed(values: Tensor, eps: float) -> Tensor:
    """sum sqrt(v^2 + eps^2) - eps."""
    return ((values.square() + eps**2).sqrt() - eps).sum()


def minimum(objective, start: np.ndarray) -> np.ndarray:
    """The minimiser of a function of a float64 tensor by quasi-Newton steps with autograd's gradient, run until nothing moves any more."""

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        variable = torch.from_numpy(x.copy()).requires_grad_()
        value = objective(variable)
        value.backward()
        return float(value.detach()), variable.grad.numpy()

    x = start
    for _ in range(3):
        x = minimize(value_and_gradient, x, jac=True, method="L-BFGS-B", options={"maxiter": 20000, "maxfun": 40000, "ftol": 1e-16, "gtol": 1e-12}).x
    return x


def relative_distance(found: np.ndarray, expected: np.ndarray) -> float:
    """||found - expected|| / ||expected|| after taking off means."""
    found, expected = found - found.mean(), expected - expected.mean()
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
