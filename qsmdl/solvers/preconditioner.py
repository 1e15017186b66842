"""How strong a susceptibility is expected where: the preconditioners of total field inversion."""

import numpy as np
import torch
from scipy.optimize import curve_fit
from scipy.special import expit
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.fourier import multiply_spectrum
from qsmdl.solvers.krylov import Apply
from qsmdl.solvers.objective import FourierCoordinates

_FEWEST_IN_A_BIN = 10


def strength_by_threshold(r2star_per_s: Tensor, mask: Tensor, *, threshold_per_s: float, strength: float) -> Tensor:
    """P [x, y, z]: `strength` where R2* exceeds the threshold inside the mask (bool), 1 elsewhere (Liu et al., Magn Reson Med 2017, TFI)."""
    return torch.where(mask & (r2star_per_s > threshold_per_s), strength, 1.0).to(r2star_per_s.dtype)


def strength_by_r2star(r2star_per_s: Tensor, chi_ppm: Tensor, mask: Tensor, *, largest: float) -> Tensor:
    """P [x, y, z] = sigma(R2*) / s_1, between 1 and `largest`, 1 outside the mask (Liu et al., Magn Reson Med 2020, automatic preconditioner).

    sigma(R) = s_1 + (s_2 - s_1) / (1 + exp(-(R - r_1) / r_2)), fitted to the medians of |chi_ppm|, a first map, in bins of R2* of 1 / s; bins count
    by the root of their number of voxels, those with fewer than 10 not at all. Where the medians are all alike, P is 1. chi_ppm: [x, y, z].
    """
    rate, size = (v[mask].double().cpu().numpy() for v in (r2star_per_s, chi_ppm.abs()))
    bins = np.floor(rate).astype(int)
    order = np.argsort(bins, kind="stable")
    values, starts = np.unique(bins[order], return_index=True)
    groups = np.split(size[order], starts[1:])
    kept = [(b + 0.5, np.median(g), len(g)) for b, g in zip(values, groups, strict=True) if len(g) >= _FEWEST_IN_A_BIN]
    if len(kept) < 4:
        raise InputError(f"Only {len(kept)} bins of R2* hold {_FEWEST_IN_A_BIN} voxels or more; the preconditioner needs 4. Use tfi instead.")
    centre, median, count = (np.array(v, dtype=float) for v in zip(*kept, strict=True))
    low, high = float(median.min()), float(median.max())
    result = torch.ones_like(r2star_per_s)
    if not high > low > 0:
        return result
    span = centre[-1] - centre[0]
    bounds = (np.array([low * 0.1, low, centre[0], 0.5]), np.array([high, high * 10, centre[-1], max(span, 1.0)]))
    guess = np.array([low, high, centre[np.argmin(np.abs(median - (low + high) / 2))], span / 10]).clip(*bounds)
    fit, _ = curve_fit(_logistic, centre, median, p0=guess, sigma=count**-0.5, bounds=bounds, max_nfev=2000)
    ratio = _logistic(rate, *fit) / fit[0]
    result[mask] = torch.from_numpy(ratio).to(result.dtype).to(result.device).clamp(1.0, largest)
    return result


def _logistic(rate: np.ndarray, low: float, high: float, centre: float, width: float) -> np.ndarray:
    curve: np.ndarray = low + (high - low) * expit((rate - centre) / width)
    return curve


def preconditioner(kernel: Tensor, coordinates: FourierCoordinates, strength: Tensor | None = None) -> Apply:
    """The map r -> K^1/2 P^2 K^1/2 r for `cg` in Fourier coordinates: K = kernel, real on the half spectrum, P = strength [x, y, z] (None: 1).

    With K = 1 it is TFI's substitution x = P y: conjugate gradients for y take the same steps as conjugate gradients for x preconditioned by P^2.
    """
    if strength is None:
        return lambda r: multiply_spectrum(r.clone(), kernel)
    root, squared = kernel.sqrt(), strength.square()

    def apply(r: Tensor) -> Tensor:
        scaled = multiply_spectrum(r.clone(), root)
        return coordinates.filter(coordinates.unpack(scaled).mul_(squared), root)

    return apply
