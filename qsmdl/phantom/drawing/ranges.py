"""Ranges that phantoms are drawn from, and how a value is drawn from one."""

import math
from typing import Any

import numpy as np

from qsmdl.errors import InputError

Range = tuple[float, float]


def as_range(name: str, value: Any, *, low: float = -math.inf, high: float = math.inf, unit: str = "") -> Range:
    """[low, high] as a tuple of two finite floats, the first not above the second, both within the limits. Raises InputError naming the setting."""
    ends = tuple(float(v) for v in value)
    space = f" {unit}" if unit else ""
    if len(ends) != 2 or not all(math.isfinite(v) for v in ends) or ends[0] > ends[1]:
        raise InputError(f"{name} is {list(ends)}; it must be a range [low, high] of finite numbers with low <= high.")
    if ends[0] < low or ends[1] > high:
        raise InputError(f"{name} is {list(ends)}{space}; both ends must lie between {low:g} and {high:g}{space}.")
    return ends[0], ends[1]


def as_tuples(value: Any) -> Any:
    """Lists, as JSON makes them of tuples, turned back, nested ones too; everything else as it is."""
    return tuple(as_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def check_probability(name: str, value: float) -> float:
    """A probability as a float. Raises InputError outside 0 ... 1."""
    if not 0 <= value <= 1:
        raise InputError(f"{name} is {value}; a probability lies between 0 (never) and 1 (always).")
    return float(value)


def draw_uniform(rng: np.random.Generator, ends: Range) -> float:
    """A number drawn uniformly."""
    return float(rng.uniform(*ends))


def draw_log_uniform(rng: np.random.Generator, ends: Range) -> float:
    """A positive number drawn uniformly on a logarithmic scale."""
    return math.exp(rng.uniform(math.log(ends[0]), math.log(ends[1]))) if ends[1] > ends[0] else float(ends[0])


def draw_count(rng: np.random.Generator, ends: Range) -> int:
    """A whole number drawn uniformly, both ends included."""
    return int(rng.integers(round(ends[0]), round(ends[1]) + 1))
