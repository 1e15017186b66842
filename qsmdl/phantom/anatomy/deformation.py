"""How a head is placed and bent: flip, scale, rotation, offset and a smooth elastic warp that never folds.

Head coordinates are millimetres from the middle of the head's bounding box. The warp is added to positions: h -> A^-1 (h + u(h)), where A scales and
rotates. With the Frobenius norm of grad u below 1 everywhere, I + grad u has a positive determinant, so no two places of the head fall together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.phantom.drawing.ranges import Range, Triple, as_range, check_probability, draw_log_uniform, draw_seed, draw_uniform
from qsmdl.phantom.drawing.sampling import Axes, Lattice, gaussian_noise, seeded
from qsmdl.phantom.drawing.shapes import rotated_extent, rotation

_STEEPEST = 0.7
"""Largest Frobenius norm of the warp's gradient at the samples of its lattice, with room for what lies between them."""
_FILL = 0.96
_STREAM = 220


@dataclass(frozen=True, slots=True)
class DeformationRanges:
    """What deformations are drawn from.

    flip_probability: of exchanging left and right; rotation_deg: about each axis; scale: along each axis of the head; offset_mm: along each axis;
    warp_probability: of a warp; warp_mm: its largest displacement; warp_scale_mm: standard deviation of the Gaussian that smooths it. Steep warps are
    made less large, so that they do not fold. Raises InputError naming the setting.
    """

    flip_probability: float = 0.5
    rotation_deg: Range = (-15.0, 15.0)
    scale: Range = (0.85, 1.15)
    offset_mm: Range = (-5.0, 5.0)
    warp_probability: float = 1.0
    warp_mm: Range = (2.0, 8.0)
    warp_scale_mm: Range = (8.0, 16.0)

    def __post_init__(self) -> None:
        for name in ("flip_probability", "warp_probability"):
            object.__setattr__(self, name, check_probability(name, getattr(self, name)))
        checks = (
            ("rotation_deg", -180.0, 180.0, "degrees"),
            ("scale", 0.3, 3.0, ""),
            ("offset_mm", -50.0, 50.0, "mm"),
            ("warp_mm", 0.0, 50.0, "mm"),
            ("warp_scale_mm", 3.0, 100.0, "mm"),
        )
        for name, low, high, unit in checks:
            object.__setattr__(self, name, as_range(name, getattr(self, name), low=low, high=high, unit=unit))


@dataclass(frozen=True, slots=True)
class Deformation:
    """One deformation: plain numbers; seed: of the warp."""

    seed: int = 0
    is_flipped: bool = False
    rotation_deg: Triple = (0.0, 0.0, 0.0)
    scale: Triple = (1.0, 1.0, 1.0)
    offset_mm: Triple = (0.0, 0.0, 0.0)
    warp_mm: float = 0.0
    warp_scale_mm: float = 12.0

    def __post_init__(self) -> None:
        for name in ("rotation_deg", "scale", "offset_mm"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        if self.seed < 0 or min(self.scale) <= 0 or self.warp_mm < 0 or self.warp_scale_mm <= 0:
            raise InputError(
                f"seed {self.seed} and warp_mm {self.warp_mm} must not be negative, scale {self.scale} and warp_scale_mm {self.warp_scale_mm} "
                "must be positive."
            )

    def _extent_mm(self, half_extent_mm: Triple) -> Triple:
        return rotated_extent([e * s for e, s in zip(half_extent_mm, self.scale, strict=True)], rotation(self.rotation_deg))

    def reach_mm(self, half_extent_mm: Triple) -> Triple:
        """Half the widths along x, y, z of a box around the middle that holds the deformed head, an ellipsoid of these semi-axes before."""
        x, y, z = (e + abs(o) + self.warp_mm for e, o in zip(self._extent_mm(half_extent_mm), self.offset_mm, strict=True))
        return x, y, z

    def fit(self, half_extent_mm: Triple, field_of_view_mm: Sequence[float]) -> float:
        """Scanner millimetres per millimetre of head: 1, or less where the deformed head must shrink to fit the field of view."""
        return min(1.0, *(_FILL * f / 2 / r for f, r in zip(field_of_view_mm, self.reach_mm(half_extent_mm), strict=True)))

    def lattice(self, half_extent_mm: Triple) -> Lattice:
        """The lattice of the warp: two samples for each standard deviation of its smoothing, over the whole head."""
        spacing = self.warp_scale_mm / 2
        x, y, z = (2 * math.ceil(extent / spacing) + 9 for extent in self._extent_mm(half_extent_mm))
        return Lattice((x, y, z), spacing)

    def _noise(self, half_extent_mm: Triple) -> tuple[Tensor, Tensor, Tensor]:
        """A smooth vector field [3, *lattice], its largest length, and the largest Frobenius norm of its gradient per mm."""
        lattice = self.lattice(half_extent_mm)
        noise = torch.stack([gaussian_noise(lattice, seeded(self.seed, _STREAM + i), self.warp_scale_mm) for i in range(3)])
        slopes = torch.stack([g for component in noise for g in torch.gradient(component, spacing=lattice.spacing_mm)])
        return noise, noise.square().sum(0).sqrt().max(), slopes.square().sum(0).sqrt().max()

    def steepest_warp_mm(self, half_extent_mm: Triple) -> float:
        """The largest displacement that this warp may have without folding."""
        _, longest, steepest = self._noise(half_extent_mm)
        return float(_STEEPEST * longest / steepest)

    def warp(self, half_extent_mm: Triple) -> Tensor:
        """Displacements in mm [3, *lattice], the longest warp_mm long, or shorter where that would fold."""
        noise, longest, steepest = self._noise(half_extent_mm)
        return noise * torch.minimum(self.warp_mm / longest, _STEEPEST / steepest)

    def source_mm(self, axes: Axes, half_extent_mm: Triple) -> list[Tensor]:
        """Where in the undeformed head the points of a grid (axes in head mm) come from: x, y and z, each [x, y, z], in mm."""
        x, y, z = (a - o for a, o in zip(axes, self.offset_mm, strict=True))
        moved = [x[:, None, None], y[:, None], z]
        if self.warp_mm > 0:
            lattice, field = self.lattice(half_extent_mm), self.warp(half_extent_mm)
            moved = [position + lattice.read(component, (x, y, z)) for position, component in zip(moved, field, strict=True)]
        turn = rotation(self.rotation_deg)
        flip = (-1.0 if self.is_flipped else 1.0, 1.0, 1.0)
        factors = [[turn[j][i] * flip[i] / self.scale[i] for j in range(3)] for i in range(3)]
        return [a * moved[0] + b * moved[1] + c * moved[2] for a, b, c in factors]

    def image_box_mm(self, low_mm: Triple, high_mm: Triple) -> tuple[Triple, Triple]:
        """A box in head mm that holds the image of a box of the undeformed head: its lowest and its highest corner."""
        turn, sign = np.asarray(rotation(self.rotation_deg)), np.array([-1.0 if self.is_flipped else 1.0, 1.0, 1.0])
        middle, half = (np.asarray(high_mm) + low_mm) / 2, (np.asarray(high_mm) - low_mm) / 2
        centre = turn @ (middle * sign * self.scale) + self.offset_mm
        reach = np.abs(turn) @ (half * self.scale) + self.warp_mm
        low, high = (tuple(float(v) for v in corner) for corner in (centre - reach, centre + reach))
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def draw_deformation(ranges: DeformationRanges, rng: np.random.Generator, half_extent_mm: Triple) -> Deformation:
    """Draw a deformation of a head with these semi-axes; a warp that would fold is drawn as large as it may be."""

    def three(ends: Range) -> Triple:
        return draw_uniform(rng, ends), draw_uniform(rng, ends), draw_uniform(rng, ends)

    drawn = Deformation(
        seed=draw_seed(rng),
        is_flipped=bool(rng.uniform() < ranges.flip_probability),
        rotation_deg=three(ranges.rotation_deg),
        scale=three(ranges.scale),
        offset_mm=three(ranges.offset_mm),
        warp_mm=draw_uniform(rng, ranges.warp_mm) * bool(rng.uniform() < ranges.warp_probability),
        warp_scale_mm=draw_log_uniform(rng, ranges.warp_scale_mm),
    )
    return replace(drawn, warp_mm=min(drawn.warp_mm, drawn.steepest_warp_mm(half_extent_mm)))
