"""Paired comparisons of two methods on the same phantoms: how large the difference is, how sure, and on how many of them.

Sources: Student, Biometrika 1908 (paired t); Wilcoxon, Biometrics Bulletin 1945 (signed ranks). Both tests are one-sided: is the first lower?
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from qsmdl.errors import InputError

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Comparison:
    """A first method (the candidate) against a second, on the phantoms that both have a value of.

    n: how many; first, second: means over them; difference: mean of first - second, negative where the first is lower; low, high: its 95 %
    confidence interval by Student's t (infinite for one phantom); p_wilcoxon, p_t: one-sided p that the first is lower (1 where nothing can be
    told); wins: on how many the first is lower.
    """

    n: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    p_wilcoxon: float
    p_t: float
    wins: int

    @property
    def p(self) -> float:
        """The larger of both p: a claim has to stand both tests."""
        return max(self.p_wilcoxon, self.p_t)


def compare_paired(first: Mapping[int, float], second: Mapping[int, float]) -> Comparison:
    """Two methods by their values of each phantom (number -> value, lower is better). Phantoms of one alone are left out.

    Raises InputError where they share no phantom.
    """
    shared = sorted(set(first) & set(second))
    if not shared:
        raise InputError(f"The two have values of {len(first)} and {len(second)} phantoms, but of none in common. Run both on the same phantoms.")
    a, b = (np.array([values[number] for number in shared], dtype=np.float64) for values in (first, second))
    difference = a - b
    mean, (low, high) = float(difference.mean()), _interval(difference)
    return Comparison(
        n=len(shared),
        first=float(a.mean()),
        second=float(b.mean()),
        difference=mean,
        low=low,
        high=high,
        p_wilcoxon=_p_wilcoxon(difference),
        p_t=_p_t(difference),
        wins=int((difference < 0).sum()),
    )


def _standard_error(difference: NDArray[Any]) -> float:
    return float(difference.std(ddof=1)) / math.sqrt(difference.size)


def _interval(difference: NDArray[Any]) -> tuple[float, float]:
    if difference.size < 2:
        return -math.inf, math.inf
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, difference.size - 1)) * _standard_error(difference)
    mean = float(difference.mean())
    return mean - half, mean + half


def _p_t(difference: NDArray[Any]) -> float:
    if difference.size < 2:
        return 1.0
    mean, error = float(difference.mean()), _standard_error(difference)
    if error == 0:  # all differences are equal
        return 0.0 if mean < 0 else 1.0
    return float(stats.t.cdf(mean / error, difference.size - 1))


def _p_wilcoxon(difference: NDArray[Any]) -> float:
    """Differences of exactly 0 say nothing and are left out, as Wilcoxon did."""
    told = difference[difference != 0]
    return float(stats.wilcoxon(told, alternative="less").pvalue) if told.size else 1.0
