"""Vessel trees for any mask: random walks that branch by Murray's law and keep inside.

At every fork the cubes of the radii add up, r0^3 = r1^3 + r2^3, and the branches turn away by the angles of least work (Murray, PNAS 1926;12:207-214
and J Gen Physiol 1926;9:835-841).
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsmdl.phantom.drawing.box import box_between
from qsmdl.phantom.drawing.placing import Region
from qsmdl.phantom.drawing.ranges import Range, Triple, as_range, check_probability, draw_count, draw_log_uniform, draw_seed, draw_uniform
from qsmdl.phantom.drawing.sampling import Axes, Lattice, apply_separable, seeded
from qsmdl.phantom.drawing.shapes import unit_vectors
from qsmdl.phantom.inclusions.overlay import Layer
from qsmdl.phantom.inclusions.threads import exact_fraction
from qsmdl.phantom.inclusions.tubes import Tubes, with_bulbs
from qsmdl.phantom.tissue.blood import BloodParams, BloodRanges, draw_blood

_STEPS = 8
"""Points of a branch, less one."""
_WALL_SAMPLES = 40
_CLOSEST_MM = 1.0
"""How near vessels come to the mask's surface, or their radius if that is more."""


@dataclass(frozen=True, slots=True)
class VesselRanges:
    """What the vessel trees of a phantom are drawn from.

    probability: that a phantom has any (0: off); count: trees; radius_mm: of a root, log-uniform; generations: forks from root to tip; asymmetry:
    share of a vessel's cubed radius that goes to the larger branch, 0.5 ... 1; length_ratio: length of a branch over its radius; tortuosity_rad: rms
    change of direction along 1 mm; bulb_share: tips that swell to bulb_factor times their radius; artery_share: trees that are arteries; blood (its
    own probability is not used: trees always hold blood of their own). Raises InputError naming the setting.
    """

    probability: float = 0.0
    count: Range = (10, 40)
    radius_mm: Range = (0.4, 1.5)
    generations: Range = (3, 6)
    asymmetry: Range = (0.5, 0.85)
    length_ratio: Range = (15.0, 40.0)
    tortuosity_rad: Range = (0.05, 0.3)
    bulb_share: Range = (0.0, 0.15)
    bulb_factor: Range = (1.5, 3.0)
    artery_share: Range = (0.0, 0.4)
    blood: BloodRanges = field(default_factory=BloodRanges)

    def __post_init__(self) -> None:
        check_probability("vessels.probability", self.probability)
        for name, low, high, unit in (
            ("count", 1, 1000, ""),
            ("radius_mm", 0.05, 20, "mm"),
            ("generations", 0, 9, ""),
            ("asymmetry", 0.5, 0.999, ""),
            ("length_ratio", 2, 500, ""),
            ("tortuosity_rad", 0, 2, "rad"),
            ("bulb_share", 0, 1, ""),
            ("bulb_factor", 1, 10, ""),
            ("artery_share", 0, 1, ""),
        ):
            object.__setattr__(self, name, as_range(f"vessels.{name}", getattr(self, name), low=low, high=high, unit=unit))


@dataclass(frozen=True, slots=True)
class VesselParams:
    """The vessel trees of one phantom: for each tree a place (`Region.locate`), the radius of its root in mm and whether it is an artery; the rest is
    shared (see `VesselRanges`). seed: of the walks.
    """

    seed: int
    places: tuple[Triple, ...]
    radius_mm: tuple[float, ...]
    arterial: tuple[bool, ...]
    generations: int
    asymmetry: float
    length_ratio: float
    tortuosity_rad: float
    bulb_share: float
    bulb_factor: float
    blood: BloodParams

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, tuples and dicts."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "VesselParams":
        """The parameters that `as_dict` wrote (lists, as JSON makes them, become tuples again)."""
        plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        places = tuple((float(x), float(y), float(z)) for x, y, z in values["places"])
        return VesselParams(**{**plain, "places": places, "blood": BloodParams(**values["blood"])})


def draw_vessels(ranges: VesselRanges, rng: np.random.Generator) -> VesselParams | None:
    """Draw the vessel trees of a phantom, or None (off)."""
    if rng.random() >= ranges.probability:
        return None
    count, arteries = draw_count(rng, ranges.count), draw_uniform(rng, ranges.artery_share)
    # What is in the vessels is drawn always: there are vessels.
    blood = draw_blood(replace(ranges.blood, probability=1.0), rng)
    assert blood is not None
    return VesselParams(
        seed=draw_seed(rng),
        places=tuple((float(x), float(y), float(z)) for x, y, z in rng.uniform(size=(count, 3))),
        radius_mm=tuple(draw_log_uniform(rng, ranges.radius_mm) for _ in range(count)),
        arterial=tuple(bool(rng.random() < arteries) for _ in range(count)),
        generations=draw_count(rng, ranges.generations),
        asymmetry=draw_uniform(rng, ranges.asymmetry),
        length_ratio=draw_uniform(rng, ranges.length_ratio),
        tortuosity_rad=draw_uniform(rng, ranges.tortuosity_rad),
        bulb_share=draw_uniform(rng, ranges.bulb_share),
        bulb_factor=draw_uniform(rng, ranges.bulb_factor),
        blood=blood,
    )


@dataclass(frozen=True, eq=False, slots=True)
class _Wall:
    """Depth in mm below a mask's smoothed surface and its gradient, on a lattice around the mask's centre."""

    lattice: Lattice
    centre_mm: Tensor
    depth_mm: Tensor
    gradient: Tensor

    @staticmethod
    def of(region: Region) -> "_Wall":
        extents = [6.5 * s for s in region.spread_mm]
        spacing = (extents[0] * extents[1] * extents[2]) ** (1 / 3) / _WALL_SAMPLES
        x, y, z = (max(4, round(e / spacing)) for e in extents)
        lattice = Lattice((x, y, z), spacing)
        # The mask blurred by a Gaussian of one spacing, read at the lattice in one go: a flat wall then has a profile of known shape.
        matrices = []
        for axis, nodes, centre in zip(region.axes, lattice.axes, region.centre_mm, strict=True):
            away = (nodes.to(axis)[:, None] + centre - axis) / spacing
            weights = torch.exp(-0.5 * away * away)
            matrices.append(weights * ((axis[1] - axis[0]) / (spacing * (2 * torch.pi) ** 0.5)))
        share = apply_separable(region.mask.float(), (matrices[0], matrices[1], matrices[2]))
        depth = spacing * torch.special.ndtri(share.clamp(0.01, 0.99))
        return _Wall(lattice, torch.tensor(region.centre_mm).to(depth), depth, lattice.gradient(depth))

    def read(self, points_mm: Tensor) -> tuple[Tensor, Tensor]:
        """Depth [...] and inward unit normals [..., 3] at points [..., 3]."""
        local = points_mm - self.centre_mm
        inward = self.lattice.read_points(self.gradient, local).movedim(0, -1)
        return self.lattice.read_points(self.depth_mm, local), torch.nn.functional.normalize(inward, dim=-1, eps=1e-6)


class _Dice:
    """Random numbers of one seed, on any device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.generator, self.device = seeded(seed, 1), device

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.generator.device).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.generator.device).to(self.device)


def _walk(start: Tensor, heading: Tensor, radius: Tensor, params: VesselParams, wall: _Wall, dice: _Dice) -> tuple[Tensor, Tensor]:
    """Branches [n, points, 3] from starts [n, 3], and their last headings; pushed back where they come near the wall."""
    step = params.length_ratio * radius / _STEPS * (0.7 + 0.6 * dice.uniform(len(radius)))
    margin = radius.clamp_min(_CLOSEST_MM)
    path, position = [start], start
    for _ in range(_STEPS):
        heading = unit_vectors(heading + params.tortuosity_rad * step.sqrt()[:, None] * dice.normal(len(radius), 3))
        free = position + step[:, None] * heading
        depth, inward = wall.read(free)
        moved = free + ((margin - depth).clamp_min(0)[:, None]) * inward
        # Pushed vessels go on along the wall, not into it again and again.
        heading = unit_vectors(0.5 * heading + 0.5 * unit_vectors(moved - position))
        position = moved
        path.append(position)
    return torch.stack(path, 1), heading


def _fork(heading: Tensor, radius: Tensor, asymmetry: float, dice: _Dice) -> tuple[Tensor, Tensor]:
    """Headings [2 n, 3] and radii [2 n] of two branches each: r0^3 = r1^3 + r2^3, angles of least work; rows 2 i and 2 i + 1 leave branch i."""
    share = 0.5 + 2 * (asymmetry - 0.5) * dice.uniform(len(radius))
    share = share.clamp_(max=0.999)
    larger, smaller = radius * share ** (1 / 3), radius * (1 - share) ** (1 / 3)
    aside = unit_vectors(torch.linalg.cross(heading, dice.normal(len(radius), 3)))
    headings = []
    for own, other, side in ((larger, smaller, 1.0), (smaller, larger, -1.0)):
        cosine = ((radius**4 + own**4 - other**4) / (2 * radius**2 * own**2)).clamp(-1, 1)
        headings.append(cosine[:, None] * heading + side * (1 - cosine * cosine).sqrt()[:, None] * aside)
    return torch.stack(headings, 1).reshape(-1, 3), torch.stack((larger, smaller), 1).reshape(-1)


def grow_tree(params: VesselParams, mask: Tensor, axes: Axes) -> list[Tubes]:
    """The branches of all trees, one entry for each generation from roots to tips; branches 2 i and 2 i + 1 leave branch i of the one before.

    mask: boolean [x, y, z], on the grid of three axes in mm. The trees depend on the mask's shape in mm but hardly on its voxels. Raises InputError
    for an empty mask.
    """
    region = Region.of(mask, axes)
    wall, dice = _Wall.of(region), _Dice(params.seed, axes[0].device)
    start = torch.tensor([region.locate(place) for place in params.places], device=dice.device)
    radius = torch.tensor(params.radius_mm, device=dice.device)
    heading = unit_vectors(dice.normal(len(radius), 3))
    tubes: list[Tubes] = []
    for generation in range(params.generations + 1):
        if generation > 0:
            heading, radius = _fork(heading, radius, params.asymmetry, dice)
            start = tubes[-1].points_mm[:, -1].repeat_interleave(2, 0)
        points, heading = _walk(start, heading, radius, params, wall, dice)
        tubes.append(Tubes(points, radius[:, None].expand(-1, _STEPS + 1)))
    return tubes


def vessel_layers(params: VesselParams, axes: Axes, mask: Tensor, *, b0_tesla: float, m0: float = 0.7) -> list[Layer]:
    """The vessel trees of a phantom as layers for `lay`: veins, and arteries if there are any; m0: of the tissue around, in the units of the maps."""
    tubes = grow_tree(params, mask, axes)
    if params.bulb_share > 0:
        tubes[-1] = with_bulbs(tubes[-1], params.bulb_share, params.bulb_factor, seeded(params.seed, 2))
    layers = []
    for arterial in (False, True):
        chosen = torch.tensor([a is arterial for a in params.arterial], device=axes[0].device)
        part = [Tubes(t.points_mm[rows], t.radii_mm[rows]) for t in tubes if (rows := chosen.repeat_interleave(len(t.radii_mm) // len(chosen))).any()]
        if layer := _layer(part, axes, params.blood, arterial, b0_tesla, m0):
            layers.append(layer)
    return layers


def _layer(tubes: list[Tubes], axes: Axes, blood: BloodParams, arterial: bool, b0_tesla: float, m0: float) -> Layer | None:
    if not tubes:
        return None
    points = torch.cat([t.points_mm.reshape(-1, 3) for t in tubes])
    widest = max(float(t.radii_mm.max()) for t in tubes)
    (x0, y0, z0), (x1, y1, z1) = (points.amin(0) - widest).tolist(), (points.amax(0) + widest).tolist()
    box = box_between(axes, (x0, y0, z0), (x1, y1, z1))
    if box is None:
        return None
    # Two voxels at least along each axis: one has no size.
    spans = [slice(min(s.start, len(a) - 2), max(s.stop, s.start + 2)) for s, a in zip(box, axes, strict=True)]
    box = spans[0], spans[1], spans[2]
    fraction = exact_fraction(tubes, (axes[0][box[0]], axes[1][box[1]], axes[2][box[2]]))
    return Layer(box, fraction, blood.tissue(b0_tesla, arterial=arterial, m0=m0))
