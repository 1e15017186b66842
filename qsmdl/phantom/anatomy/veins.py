"""The venous tree: dural sinuses, deep veins, medullary veins in white matter, and cortical veins that branch and dive into sulci.

Vessels are polylines with a radius at each point, in head millimetres. They are grown from the seed on the smooth lattice fields, all of one kind
at a time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.phantom.anatomy.cortex import Folding
from qsmdl.phantom.anatomy.envelope import LATTICE, Envelope
from qsmdl.phantom.anatomy.params import HeadParams
from qsmdl.phantom.drawing.ranges import Range, as_range, check_probability, draw_log_uniform, draw_uniform
from qsmdl.phantom.drawing.sampling import cubic_matrix, integers, normal, seeded, uniform
from qsmdl.phantom.drawing.shapes import unit_vectors
from qsmdl.phantom.inclusions.tubes import Tubes, with_bulbs

_STEP_MM = 1.5


@dataclass(frozen=True, slots=True)
class VeinStyleRanges:
    """How far the veins of heads stray from the first generator's; ranges of `VeinStyle`, factors log-uniform.

    probability: that a head's veins have a style of their own (0: off). Raises InputError naming the setting.
    """

    probability: float = 0.0
    count_factor: Range = (0.5, 2.0)
    radius_factor: Range = (0.6, 1.6)
    tortuosity_factor: Range = (0.5, 1.8)
    bulb_share: Range = (0.0, 0.15)
    bulb_factor: Range = (1.5, 3.0)

    def __post_init__(self) -> None:
        check_probability("veins.probability", self.probability)
        for name, low, high in (
            ("count_factor", 0.05, 4),
            ("radius_factor", 0.1, 4),
            ("tortuosity_factor", 0.01, 4),
            ("bulb_share", 0, 1),
            ("bulb_factor", 1, 10),
        ):
            object.__setattr__(self, name, as_range(f"veins.{name}", getattr(self, name), low=low, high=high))


@dataclass(frozen=True, slots=True)
class VeinStyle:
    """The veins of one head, relative to the first generator's (the defaults).

    count_factor: cortical and medullary veins; radius_factor: radii of all; tortuosity_factor: how much they wind; bulb_share: share of the thin ends
    that swell to bulb_factor times their radius.
    """

    count_factor: float = 1.0
    radius_factor: float = 1.0
    tortuosity_factor: float = 1.0
    bulb_share: float = 0.0
    bulb_factor: float = 1.0

    def __post_init__(self) -> None:
        for name in ("count_factor", "radius_factor", "tortuosity_factor", "bulb_factor"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be positive.")
        check_probability("bulb_share", self.bulb_share)


def draw_vein_style(ranges: VeinStyleRanges, rng: np.random.Generator) -> VeinStyle | None:
    """Draw the style of a head's veins, or None (off): those of the first generator."""
    style = VeinStyle(
        count_factor=draw_log_uniform(rng, ranges.count_factor),
        radius_factor=draw_log_uniform(rng, ranges.radius_factor),
        tortuosity_factor=draw_log_uniform(rng, ranges.tortuosity_factor),
        bulb_share=draw_uniform(rng, ranges.bulb_share),
        bulb_factor=draw_uniform(rng, ranges.bulb_factor),
    )
    return style if rng.random() < ranges.probability else None


_NAMED = (
    # Straight sinus from the great vein to the confluence.
    (0, ((0, -37, 9), (0, -41, 5), (0, -50, 1), (0, -70, -8), (0, -92, -15)), (1.1, 1.4, 1.4, 1.6, 2.0)),
    # Inferior sagittal sinus.
    (0, ((0, 34, 24), (0, 15, 34), (0, -10, 38), (0, -32, 30), (0, -42, 12)), (0.4, 0.6, 0.7, 0.8, 0.9)),
    # Transverse sinus along the tentorium's rim.
    (1, ((0, -93, -15), (28, -89, -19), (50, -70, -24), (56, -52, -30), (50, -42, -42)), (1.9, 2.1, 2.2, 2.1, 1.8)),
    # Internal cerebral, septal, thalamostriate and basal veins.
    (1, ((2.5, 2, 11), (2.5, -8, 14), (2.2, -24, 13), (0.5, -37, 9)), (0.7, 0.8, 1.0, 1.2)),
    (1, ((5, 27, 8), (3, 16, 9), (2.5, 2, 11)), (0.3, 0.4, 0.5)),
    (1, ((26, -26, 20), (19, -14, 18), (12, -2, 15), (2.5, 2, 11)), (0.3, 0.5, 0.6, 0.7)),
    (1, ((17, 4, -17), (20, -12, -13), (15, -27, -6), (0.5, -38, 8)), (0.4, 0.7, 0.8, 1.0)),
)


def _spline(points: Tensor, radii: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """A smooth curve through control points [p, 3] (Catmull-Rom), n points long."""
    matrix = cubic_matrix(torch.linspace(0, len(points) - 1, n), len(points))
    return matrix @ points, matrix @ radii


def _named_vessels(envelope: Envelope, generator: torch.Generator) -> list[Tubes]:
    tubes = []
    for paired, points, radii in _NAMED:
        for side in (-1.0, 1.0) if paired else (1.0,):
            control = torch.tensor([tuple(map(float, p)) for p in points]) * torch.tensor([side, 1.0, 1.0])
            control[1:-1] += 0.8 * normal(generator, len(points) - 2, 3) * torch.tensor([paired + 0.3, 1.0, 1.0])
            width = torch.tensor(radii) * (1 + 0.12 * normal(generator)).clamp(0.7, 1.3)
            curve, radius = _spline(control, width, 60)
            tubes.append(Tubes(envelope.frame.head(curve)[None], radius[None]))
    return tubes


def _sagittal_sinus(envelope: Envelope, generator: torch.Generator) -> Tubes:
    """Along the midline of the hull, from the forehead over the vertex to the confluence, widening."""
    angle = torch.linspace(math.radians(12), math.radians(196), 90)
    centre = torch.tensor([0.0, -12.0, 0.0])
    direction = torch.stack((torch.zeros_like(angle), angle.cos(), angle.sin()), -1)
    reach = torch.arange(30.0, 110.0, 0.5)
    ray = envelope.frame.head(centre + reach[None, :, None] * direction[:, None])
    radius = torch.linspace(0.7, 2.3, 90) * (1 + 0.15 * normal(generator)).clamp(0.7, 1.3)
    inside = LATTICE.read_points(envelope.brain, ray) > 0.75 * radius[:, None]
    last = (inside * torch.arange(1, len(reach) + 1)).amax(1).clamp_min(1) - 1
    points = ray[torch.arange(90), last]
    # The ray search moves in steps; a sinus does not.
    smoothed = torch.nn.functional.avg_pool1d(points.T[None], 5, stride=1, padding=2, count_include_pad=False)[0].T
    return Tubes(smoothed[None], radius[None])


def _walk(
    start: Tensor, heading: Tensor, n_steps: int, turn: float, generator: torch.Generator, correct: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Persistent random walks [vessel, n_steps, 3]; correct(position, heading) returns the next position after a free step."""
    path, position = [start], start
    for _ in range(n_steps - 1):
        heading = unit_vectors(heading + turn * normal(generator, *heading.shape))
        moved = correct(position + _STEP_MM * heading, heading)
        heading = unit_vectors(0.5 * heading + 0.5 * unit_vectors(moved - position))
        position = moved
        path.append(position)
    return torch.stack(path, 1)


def _normals(field: Tensor, points: Tensor) -> Tensor:
    """Unit gradient of a lattice field at points [..., 3]."""
    return unit_vectors(LATTICE.read_points(field, points).movedim(0, -1))


def _taper(n_vessels: int, n_points: int, first: Tensor, last: float) -> Tensor:
    return first[:, None] + (last - first[:, None]) * torch.linspace(0, 1, n_points).expand(n_vessels, -1)


def _cortical_veins(
    params: HeadParams, style: VeinStyle, envelope: Envelope, folding: Folding, sinus: Tubes, generator: torch.Generator
) -> list[Tubes]:
    inward = LATTICE.gradient(envelope.brain)

    def stay_on_hull(position: Tensor, _: Tensor) -> Tensor:
        off = LATTICE.read_points(envelope.brain, position) - 1.6
        return position - off[:, None] * _normals(inward, position)

    n, winding = max(1, round(style.count_factor * params.n_cortical_veins)), style.tortuosity_factor
    entry = integers(generator, 8, 84, n)
    side = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0)
    start = sinus.points_mm[0, entry]
    heading = unit_vectors(torch.stack((side, 0.7 * normal(generator, n), torch.full((n,), -0.3)), -1))
    first = params.vein_radius_mm * (0.7 + 0.6 * uniform(generator, n))
    trunks = _walk(start, heading, 44, 0.22 * winding, generator, stay_on_hull)
    trunk_radii = _taper(n, 44, first, 0.35)
    branches, branch_radii = _branches(trunks, trunk_radii, 3, 18, winding, generator, stay_on_hull)
    dives = _dives(torch.cat((trunks[:, 6::7].reshape(-1, 3), branches[:, 6::8].reshape(-1, 3))), inward, folding, winding, generator)
    thin = 0.3 + 0.25 * uniform(generator, len(dives))
    return [Tubes(trunks, trunk_radii), Tubes(branches, branch_radii), Tubes(dives, _taper(len(dives), dives.shape[1], thin, 0.2))]


def _branches(
    trunks: Tensor,
    radii: Tensor,
    per_trunk: int,
    n_steps: int,
    winding: float,
    generator: torch.Generator,
    correct: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Tributaries that leave each trunk sideways at random points: points and radii."""
    n, length, _ = trunks.shape
    node = integers(generator, 4, length - 4, n, per_trunk)
    rows = torch.arange(n)[:, None].expand_as(node)
    start = trunks[rows, node].reshape(-1, 3)
    along = unit_vectors(trunks[rows, node + 1] - trunks[rows, node]).reshape(-1, 3)
    heading = unit_vectors(along + normal(generator, *along.shape))
    points = _walk(start, heading, n_steps, 0.3 * winding, generator, correct)
    return points, _taper(len(points), n_steps, 0.7 * radii[rows, node].reshape(-1), 0.25)


def _dives(start: Tensor, inward: Tensor, folding: Folding, winding: float, generator: torch.Generator) -> Tensor:
    """Veins that run down the walls of sulci: inward, drawn towards the nearest sheet."""
    slope = LATTICE.gradient(folding.primary_mm)

    def follow_sheet(position: Tensor, _: Tensor) -> Tensor:
        away = LATTICE.read_points(folding.primary_mm, position).clamp(-1.5, 1.5)
        return position - 0.5 * away[:, None] * _normals(slope, position)

    return _walk(start, _normals(inward, start), 10, 0.2 * winding, generator, follow_sheet)


def _medullary_veins(params: HeadParams, style: VeinStyle, envelope: Envelope, generator: torch.Generator) -> Tubes:
    """Fine veins from the walls of the lateral ventricles fanning out into the white matter."""
    n = 2 * max(1, round(style.count_factor * params.n_deep_veins))
    side = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0)
    y = -40 + 66 * uniform(generator, n)
    start = torch.stack((side * (12 + 0.005 * (y - 5) ** 2), y, 19 - 0.006 * (y + 5) ** 2), -1)
    up = 0.2 + 1.1 * uniform(generator, n)
    heading = unit_vectors(torch.stack((side, 0.012 * (y + 8) + 0.15 * normal(generator, n), up), -1))
    points = _walk(start, heading, 16, 0.12 * style.tortuosity_factor, generator, lambda position, _: position)
    first = 0.25 + 0.25 * uniform(generator, n)
    return Tubes(envelope.frame.head(points), _taper(n, 16, first, 0.15))


def grow_vessels(params: HeadParams, envelope: Envelope, folding: Folding, style: VeinStyle | None = None) -> list[Tubes]:
    """The venous tree of a head; style: None for the first generator's."""
    chosen = VeinStyle() if style is None else style
    generator = seeded(params.seed, 90)
    sinus = _sagittal_sinus(envelope, generator)
    named = _named_vessels(envelope, generator)
    trunks, branches, dives = _cortical_veins(params, chosen, envelope, folding, sinus, generator)
    medullary = _medullary_veins(params, chosen, envelope, generator)
    if chosen.bulb_share > 0:
        swell = seeded(params.seed, 91)
        dives, medullary = (with_bulbs(ends, chosen.bulb_share, chosen.bulb_factor, swell) for ends in (dives, medullary))
    tubes = [sinus, *named, trunks, branches, dives, medullary]
    return [Tubes(t.points_mm, t.radii_mm * chosen.radius_factor) for t in tubes]
