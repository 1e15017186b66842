"""Samples without anatomy: many cuboids, spheres, ellipsoids and bent tubes inside a head-sized mask.

A variety of sources gives better accuracy than anatomy alone (Jochmann et al., ISMRM 2020, 3195); DeepQSM, QSMResGAN and qsm-forward draw shapes too.
How many, how large and how strong is this project's own choice. Smaller bodies are painted over larger ones. What a body does to chi and what it does
to R1, R2* and M0 are drawn apart: some bodies show in one of both only, so that magnitude edges are no oracle for edges of chi.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch

from qsmdl.errors import InputError
from qsmdl.phantom.abstract.bodies import BODY_KINDS, Body, body_fraction
from qsmdl.phantom.abstract.outline import (
    OutlineParams,
    OutlineRanges,
    check_field_of_view,
    draw_outline,
    draw_rotation,
    plain_labels,
    render_outline,
)
from qsmdl.phantom.drawing.ranges import Range, Triple, as_range, draw_count, draw_log_uniform, draw_uniform
from qsmdl.phantom.drawing.shapes import rotation
from qsmdl.scan import Geometry, Phantom
from qsmdl.validation import check_not_negative

ShowsIn = Literal["both", "chi", "magnitude"]
_RATES = ("r2star_per_s", "r1_per_s", "m0")


@dataclass(frozen=True, slots=True)
class ShapeRanges:
    """What geometry-only samples are drawn from.

    n_shapes; size_mm: largest extent of a body, log-uniform; aspect: other extents of cuboids and ellipsoids relative to the largest;
    tube_aspect: diameter of a tube relative to its length; bend_deg: angle between a tube's ends; chi_spread_ppm: standard deviation of the bodies'
    chi (mean 0), log-uniform, one for each sample; correlation: absolute rank correlation of each of R2*, R1 and M0 with chi, its sign being drawn
    for each sample; r2star_per_s, r1_per_s, m0 (arbitrary units): of bodies and background, log-uniform; only_chi and only_magnitude: share of the
    bodies that show in chi only and in R2*, R1 and M0 only; outline: of the mask. Raises InputError naming the setting.
    """

    n_shapes: Range = (100, 300)
    size_mm: Range = (1.0, 40.0)
    aspect: Range = (0.25, 1.0)
    tube_aspect: Range = (0.05, 0.4)
    bend_deg: Range = (5.0, 150.0)
    chi_spread_ppm: Range = (0.01, 0.5)
    correlation: Range = (0.0, 0.8)
    r2star_per_s: Range = (5.0, 150.0)
    r1_per_s: Range = (0.3, 2.0)
    m0: Range = (0.3, 1.0)
    only_chi: float = 0.2
    only_magnitude: float = 0.2
    outline: OutlineRanges = field(default_factory=OutlineRanges)

    def __post_init__(self) -> None:
        checks = (
            ("n_shapes", 1, 2000, ""),
            ("size_mm", 0.1, 200.0, "mm"),
            ("aspect", 0.05, 1.0, ""),
            # A thicker tube would touch itself where it bends.
            ("tube_aspect", 0.01, 0.6, ""),
            ("bend_deg", 1.0, 180.0, "degrees"),
            ("chi_spread_ppm", 1e-4, 5.0, "ppm"),
            ("correlation", 0.0, 1.0, ""),
            ("r2star_per_s", 0.1, 500.0, "1/s"),
            ("r1_per_s", 0.01, 10.0, "1/s"),
            ("m0", 0.001, 10.0, ""),
        )
        for name, low, high, unit in checks:
            object.__setattr__(self, name, as_range(name, getattr(self, name), low=low, high=high, unit=unit))
        if min(self.only_chi, self.only_magnitude) < 0 or not self.only_chi + self.only_magnitude <= 1:
            raise InputError(f"only_chi {self.only_chi} and only_magnitude {self.only_magnitude} are shares of the bodies: at least 0, 1 in all.")


@dataclass(frozen=True, slots=True)
class PaintedBody:
    """A body and what it paints: chi_ppm, R2* and R1 in 1/s, m0; shows_in: "chi" or "magnitude" where it changes only that."""

    body: Body
    chi_ppm: float
    r2star_per_s: float
    r1_per_s: float
    m0: float
    shows_in: ShowsIn = "both"

    def __post_init__(self) -> None:
        if self.shows_in not in get_args(ShowsIn):
            raise InputError(f"shows_in is {self.shows_in!r}; it must be one of {', '.join(map(repr, get_args(ShowsIn)))}.")
        check_not_negative(r2star_per_s=self.r2star_per_s, r1_per_s=self.r1_per_s, m0=self.m0)


@dataclass(frozen=True, slots=True)
class ShapeParams:
    """One geometry-only sample: bodies in the order of painting, the mask's outline, and the background's R2* and R1 (1/s) and M0; its chi is 0."""

    bodies: tuple[PaintedBody, ...]
    outline: OutlineParams
    r2star_per_s: float
    r1_per_s: float
    m0: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "bodies", tuple(self.bodies))
        check_not_negative(r2star_per_s=self.r2star_per_s, r1_per_s=self.r1_per_s, m0=self.m0)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, tuples and dicts, as kept in `Phantom.params`."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "ShapeParams":
        """The parameters that `as_dict` wrote, also after JSON turned tuples into lists."""
        bodies = tuple(PaintedBody(**{**painted, "body": Body(**painted["body"])}) for painted in values["bodies"])
        return ShapeParams(**{**values, "bodies": bodies, "outline": OutlineParams(**values["outline"])})


def _quantile(z: float) -> float:
    """The share of a normal distribution below z."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _draw_rates(ranges: ShapeRanges, rng: np.random.Generator, score: float, correlation: Sequence[float]) -> dict[str, float]:
    """R2*, R1 and M0, each log-uniform in its range, its normal score correlated with that of chi."""
    rates = {}
    for name, c in zip(_RATES, correlation, strict=True):
        low, high = getattr(ranges, name)
        share = _quantile(c * score + math.sqrt(1 - c * c) * float(rng.standard_normal()))
        rates[name] = low * (high / low) ** share
    return rates


def _draw_place(outline: OutlineParams, rng: np.random.Generator) -> Triple:
    """A point drawn uniformly from the outline's ellipsoid."""
    direction = rng.standard_normal(3)
    inside = np.asarray(outline.semi_axes_mm) * direction / np.linalg.norm(direction) * rng.uniform() ** (1 / 3)
    x, y, z = (float(v) for v in np.asarray(rotation(outline.rotation_deg)) @ inside + np.asarray(outline.centre_mm))
    return x, y, z


def _draw_body(ranges: ShapeRanges, rng: np.random.Generator, outline: OutlineParams) -> Body:
    kind = BODY_KINDS[int(rng.integers(len(BODY_KINDS)))]
    largest, bend = draw_log_uniform(rng, ranges.size_mm), 0.0
    size = (largest, largest, largest)
    if kind in ("cuboid", "ellipsoid"):
        # No extent falls below the smallest size: thinner bodies would be lost between voxels.
        size = (largest, *(max(largest * draw_uniform(rng, ranges.aspect), ranges.size_mm[0]) for _ in range(2)))  # type: ignore[assignment]
    elif kind == "tube":
        width = min(max(largest * draw_uniform(rng, ranges.tube_aspect), ranges.size_mm[0]), largest)
        # The bend's radius must exceed the tube's own.
        bend = min(draw_uniform(rng, ranges.bend_deg), math.degrees(largest / width) / 0.75)
        size = (width, largest, width)
    return Body(kind, _draw_place(outline, rng), size, draw_rotation(rng) if kind != "sphere" else (0.0, 0.0, 0.0), bend)


def draw_shapes(ranges: ShapeRanges, rng: np.random.Generator, field_of_view_mm: Sequence[float]) -> ShapeParams:
    """Draw a geometry-only sample for a field of view (x, y, z). Bodies are painted from the largest to the smallest: none is covered by a larger."""
    outline = draw_outline(ranges.outline, rng, check_field_of_view(field_of_view_mm))
    spread = draw_log_uniform(rng, ranges.chi_spread_ppm)
    correlation = [draw_uniform(rng, ranges.correlation) * float(rng.choice((-1.0, 1.0))) for _ in _RATES]
    background = _draw_rates(ranges, rng, 0.0, correlation)
    painted = []
    for _ in range(draw_count(rng, ranges.n_shapes)):
        body, score, lot = _draw_body(ranges, rng, outline), float(rng.standard_normal()), rng.uniform()
        shows_in: ShowsIn = "chi" if lot < ranges.only_chi else "magnitude" if lot < ranges.only_chi + ranges.only_magnitude else "both"
        painted.append(PaintedBody(body, chi_ppm=spread * score, shows_in=shows_in, **_draw_rates(ranges, rng, score, correlation)))
    painted.sort(key=lambda p: -p.body.volume_mm3)
    return ShapeParams(tuple(painted), outline, **background)


@torch.no_grad()
def render_shapes(params: ShapeParams, geometry: Geometry) -> Phantom:
    """Render a geometry-only sample: chi is 0 outside the mask, labels are white matter inside and CSF outside (there is no anatomy to name).

    A body replaces what lies below it by its share of each voxel; its edge is a ramp one voxel wide that keeps its volume. Positions are mm from the
    middle of the field of view. Same parameters, same bits. Raises InputError where no voxel lies inside the mask.
    """
    mask = render_outline(params.outline, geometry)
    maps = {name: torch.full(geometry.shape, getattr(params, name)) for name in _RATES}
    maps["chi_ppm"] = torch.zeros(geometry.shape)
    for painted in params.bodies:
        found = body_fraction(painted.body, geometry)
        if found is None:
            continue
        box, fraction = found
        kept = 1 - fraction
        names = {"chi": ("chi_ppm",), "magnitude": _RATES, "both": ("chi_ppm", *_RATES)}[painted.shows_in]
        for name in names:
            maps[name][box].mul_(kept).add_(fraction, alpha=getattr(painted, name))
    maps["chi_ppm"].mul_(mask)
    chi, m0, r1, r2star = (maps[name] for name in ("chi_ppm", "m0", "r1_per_s", "r2star_per_s"))
    return Phantom(geometry, chi, m0, r1, r2star, plain_labels(mask), mask, {"kind": "shapes", **params.as_dict()})
