"""Ranges that phantoms are drawn from, and how values are drawn."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from qsmdl.errors import InputError

Range = tuple[float, float]
Triple = tuple[float, float, float]


def as_range(name: str, value: Any, *, low: float = -math.inf, high: float = math.inf, unit: str = "") -> Range:
    """[low, high] as a tuple of two finite floats, the first not above the second, both within the limits. Raises InputError naming the setting."""
    ends = tuple(float(v) for v in value)
    space = f" {unit}" if unit else ""
    if len(ends) != 2 or not all(math.isfinite(v) for v in ends) or ends[0] > ends[1]:
        raise InputError(f"{name} is {list(ends)}; it must be a range [low, high] of finite numbers with low <= high.")
    if ends[0] < low or ends[1] > high:
        raise InputError(f"{name} is {list(ends)}{space}; both ends must lie between {low:g} and {high:g}{space}.")
    return ends[0], ends[1]


def as_triple(values: Iterable[float]) -> Triple:
    """Three numbers, of an array too, as plain floats."""
    x, y, z = (float(v) for v in values)
    return x, y, z


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


def draw_seed(rng: np.random.Generator) -> int:
    """A seed for the random fields of a renderer."""
    return int(rng.integers(2**31))


def unit_vector(cosine: float, azimuth_rad: float) -> Triple:
    """The direction at an angle of this cosine from the z axis."""
    sine = math.sqrt(max(0.0, 1 - cosine**2))
    return sine * math.cos(azimuth_rad), sine * math.sin(azimuth_rad), float(cosine)


def draw_direction(rng: np.random.Generator, max_tilt_deg: float = 180.0) -> Triple:
    """A unit vector uniform on the part of the sphere within an angle of the z axis."""
    cosine = rng.uniform(math.cos(math.radians(max_tilt_deg)), 1.0)
    return unit_vector(cosine, rng.uniform(0, 2 * math.pi))
