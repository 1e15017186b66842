"""The phase at TE = 0: what coils and the transmit field leave in every echo."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from qsmdl.phantom.drawing.ranges import Range, check_probability, draw_count, draw_uniform
from qsmdl.phantom.drawing.sampling import grid_axes
from qsmdl.phantom.scanning.switches import Limits, Switch, checked_count
from qsmdl.physics.box import Box
from qsmdl.scan import Geometry

Monomial = tuple[int, int, int]


@dataclass(frozen=True)
class OffsetRanges(Switch):
    """Phase at TE = 0. smooth_share: how many of the offsets vary over the head, the others are one constant in -pi ... pi; amplitude_rad: half of
    the difference between the largest and the smallest phase in the field of view; order: degree of the polynomial.

    A quadratic of about pi is an option of the challenge's forward model (qsm-forward; Marques et al., Magn Reson Med 2021), although the challenge's
    own scans have no offset to speak of; the combined phase of an array coil varies about as slowly (Robinson et al., NMR Biomed 2017). How often,
    how large and of which order is this project's own choice.
    """

    SETTING: ClassVar[str] = "offset"
    LIMITS: ClassVar[Limits] = {"amplitude_rad": (0.0, 20.0, "rad"), "order": (1, 4, "")}

    smooth_share: float = 0.7
    amplitude_rad: Range = (1.0, math.pi)
    order: Range = (1, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probability("offset.smooth_share", self.smooth_share)
        checked_count("offset.order", self.order)


@dataclass(frozen=True, slots=True)
class OffsetParams:
    """constant_rad, and monomials ((i, j, k), rad) of x^i y^j z^k with coordinates from -1 to 1 across the field of view."""

    constant_rad: float
    terms: tuple[tuple[Monomial, float], ...] = ()


def evaluate_polynomial(coefficients: Sequence[tuple[tuple[int, int, int], float]], axes: Sequence[Tensor]) -> Tensor:
    """Sum of coefficient x^i y^j z^k on the grid [x, y, z] of three axes."""
    x, y, z = axes
    total = torch.zeros(len(x), len(y), len(z), device=x.device)
    for (i, j, k), value in coefficients:
        total += (x**i * value)[:, None, None] * ((y**j)[:, None] * z**k)
    return total


def _spread(terms: list[tuple[Monomial, float]]) -> float:
    """Half of largest minus smallest value of a polynomial in the cube -1 ... 1, on a grid of 17 points per axis."""
    line = torch.linspace(-1, 1, 17)
    values = evaluate_polynomial(terms, (line, line, line))
    return float(values.max() - values.min()) / 2


def draw_offset(ranges: OffsetRanges, rng: np.random.Generator) -> OffsetParams | None:
    """The offset of one sample, None for no offset."""
    if not ranges.happens(rng):
        return None
    constant = draw_uniform(rng, (-math.pi, math.pi))
    if rng.random() >= ranges.smooth_share:
        return OffsetParams(constant)
    degree, amplitude = draw_count(rng, ranges.order), draw_uniform(rng, ranges.amplitude_rad)
    powers = [(i, j, k) for i in range(degree + 1) for j in range(degree + 1) for k in range(degree + 1) if 0 < i + j + k <= degree]
    terms = [(power, float(rng.normal())) for power in powers]
    size = amplitude / _spread(terms)
    return OffsetParams(constant, tuple((power, value * size) for power, value in terms))


def render_offset(params: OffsetParams, geometry: Geometry, box: Box, device: torch.device) -> Tensor:
    """The phase in rad at TE = 0 in a box of a grid."""
    axes = [axis[span] / (extent / 2) for axis, span, extent in zip(grid_axes(geometry, device), box, geometry.field_of_view_mm, strict=True)]
    return evaluate_polynomial(params.terms, axes).add_(params.constant_rad)
