"""Rules that choose one of several maps, or rather the setting it was made with, from what can be measured without truth.

- "lcurve": the corner of the L-curve, the largest curvature of ln ||G x||_1^2 over ln ||w (D x - f)||^2 (Hansen, SIAM Rev 1992);
- "zero": the inflection of that curve, the first change of sign of its curvature on the way from strong to weak regularisation (the zero-curvature
  rule of Milovic et al., Magn Reson Med 2021);
- "frequency": the least zeta = ((e2 - e3) / (e2 + e3))^2 of the mean amplitudes e2 and e3 in two bands of |D| (frequency equalisation, same paper,
  which multiplies what it finds by 1.5 to 2; this rule does not). It takes the object's own spectrum to be balanced;
- "discrepancy": the strongest regularisation whose whitened residual (D x - f) / sigma has a mean square of at most 1 (Morozov 1966). It takes the
  noise to be the only misfit.

Derivatives are taken in the logarithm of the setting: on a logarithmic grid, splines in the setting itself are ill-conditioned. Strong and weak are
told by the roughness and not by the setting, so a setting that multiplies the data term, or a number of iterations, may be chosen as well.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qsmdl.errors import InputError
from qsmdl.selecting.costs import Costs
from qsmdl.validation import did_you_mean

CRITERIA = {
    "lcurve": "curvature of the L-curve",
    "zero": "curvature of the L-curve",
    "frequency": "zeta, imbalance of the bands",
    "discrepancy": "mean square of the whitened residual",
}
"""What each rule looks at; none has a unit."""
RULES = tuple(CRITERIA)
N_FEWEST = 5
"""Candidates: the curvature is that of a parabola through five neighbours."""
Values = NDArray[np.float64]


def check_rule(rule: str) -> None:
    """Raises InputError for a rule that is not known."""
    if rule not in RULES:
        raise InputError(f"select is {rule!r}{did_you_mean(str(rule), RULES) or '.'} It must be null or one of {', '.join(RULES)}.")


def curvature(parameter: Values, misfit: Values, roughness: Values) -> Values:
    """Of the L-curve rho = ln misfit^2, eta = ln roughness^2 at each candidate, positive at its corner.

    kappa = 2 (rho' eta'' - rho'' eta') / (rho'^2 + eta'^2)^1.5, derivatives in the logarithm of the parameter, each from the parabola that fits five
    neighbours best. The parameter must go from weak to strong regularisation, which gives the curve its direction.
    """
    t, rho, eta = np.log(parameter), 2 * np.log(misfit), 2 * np.log(roughness)
    # The direction of travel counts, not the setting's: t grows with the regularisation.
    t = t if t[-1] > t[0] else -t
    (rho1, rho2), (eta1, eta2) = _derivatives(t, rho), _derivatives(t, eta)
    speed = np.maximum(rho1**2 + eta1**2, np.finfo(float).tiny)
    found: Values = 2 * (rho1 * eta2 - rho2 * eta1) / speed**1.5
    return found


def _derivatives(t: Values, y: Values) -> tuple[Values, Values]:
    first, second = np.empty_like(y), np.empty_like(y)
    for i, at in enumerate(t):
        start = min(max(i - N_FEWEST // 2, 0), len(t) - N_FEWEST)
        near = slice(start, start + N_FEWEST)
        second[i], first[i] = np.polyfit(t[near] - at, y[near], 2)[:2] * np.array([2, 1])
    return first, second


def _corner(kappa: Values) -> int:
    return int(np.argmax(kappa))


def _inflection(kappa: Values) -> int:
    """From the strong end, the candidate nearest to the first change of sign; where there is none, the straightest part of the curve."""
    for i in range(len(kappa) - 1, 0, -1):
        if kappa[i] * kappa[i - 1] <= 0:
            return i if abs(kappa[i]) <= abs(kappa[i - 1]) else i - 1
    return int(np.argmin(np.abs(kappa)))


def _within_noise(whitened: Values) -> int:
    """The strongest that explains the field to within the noise; where none does, the one that comes closest."""
    explained = np.flatnonzero(whitened <= 1)
    return int(explained[-1]) if explained.size else int(np.argmin(whitened))


def _criterion(rule: str, parameter: Values, costs: Sequence[Costs]) -> Values:
    if rule == "frequency":
        bands = np.array([cost.band_ppm for cost in costs])
        zeta: Values = ((bands[:, 1] - bands[:, 2]) / np.maximum(bands[:, 1] + bands[:, 2], np.finfo(float).tiny)) ** 2
        return zeta
    if rule == "discrepancy":
        return np.array([cost.whitened for cost in costs])
    misfit, roughness = (np.array([getattr(cost, name) for cost in costs]) for name in ("misfit_ppm", "roughness_ppm_per_mm"))
    if misfit.min() <= 0 or roughness.min() <= 0:
        raise InputError(f"select is {rule!r}, but a map has no misfit or no gradient at all, so the L-curve has no logarithm. Is the field 0?")
    return curvature(parameter, misfit, roughness)


def choose(rule: str, parameter: Sequence[float], costs: Sequence[Costs]) -> tuple[int, tuple[float, ...]]:
    """The index of the candidate that a rule chooses, and what the rule looked at for each (`CRITERIA`).

    parameter: the candidates, positive and ascending; costs: of the map of each. Raises InputError: an unknown rule, fewer than five candidates,
    unknown noise for "discrepancy", or a map without misfit or gradient for the L-curve.
    """
    check_rule(rule)
    if len(parameter) < N_FEWEST:
        raise InputError(f"select_candidates holds {len(parameter)} values; a choice needs at least {N_FEWEST}.")
    if rule == "discrepancy" and any(math.isnan(cost.whitened) for cost in costs):
        raise InputError(
            "select is 'discrepancy', but the noise of the field map is not known (noise_ppm). Give a scan with its echoes, or choose lcurve, zero "
            "or frequency."
        )
    values, roughness = np.array(parameter, dtype=float), np.array([cost.roughness_ppm_per_mm for cost in costs])
    # From weak to strong regularisation, whichever way the setting counts: maps become smoother. (The misfit need not grow: where an iteration ends
    # before it has converged, the weakest regularisation fits worst.)
    order = np.arange(len(values)) if np.polyfit(np.log(values), roughness, 1)[0] <= 0 else np.arange(len(values))[::-1]
    ordered = _criterion(rule, values[order], [costs[i] for i in order])
    found = {"lcurve": _corner, "zero": _inflection, "frequency": lambda zeta: int(np.argmin(zeta)), "discrepancy": _within_noise}[rule](ordered)
    criterion = np.empty_like(ordered)
    criterion[order] = ordered
    return int(order[found]), tuple(float(value) for value in criterion)


def doubt(rule: str, index: int, criterion: Sequence[float]) -> str:
    """Why a choice of `choose` is not to be trusted, in words; "" where nothing speaks against it."""
    if rule == "discrepancy" and criterion[index] > 1:
        return "no candidate explains the field to within its noise: this is the closest one"
    if rule == "zero" and min(criterion) * max(criterion) > 0:
        return "the curvature changes its sign nowhere among the candidates: this is where it is least"
    if index in (0, len(criterion) - 1):
        return "this is an end of the candidates: the best may lie beyond (select_candidates)"
    return ""
