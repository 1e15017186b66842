"""Ventricles, deep nuclei and the other small structures of the inner brain, each evaluated only in the box it needs."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import torch
from torch import Tensor

from qsmdl.phantom.anatomy.envelope import LATTICE, Frame
from qsmdl.phantom.anatomy.params import HeadParams
from qsmdl.phantom.drawing.ranges import Triple
from qsmdl.phantom.drawing.sampling import Axes, inner_axes, seeded, smooth_noise
from qsmdl.phantom.drawing.shapes import ellipsoid_depth, rotation_matrix, tube_depth
from qsmdl.phantom.tissue.mosaic import Mosaic
from qsmdl.physics.box import Box
from qsmdl.scan import LABELS

Radii = Sequence[float]

_VENTRICLE = ((7, 30, 3), (6.5, 26, 8), (5.5, 14, 13), (5.5, 0, 18), (7, -14, 20), (13, -28, 18), (23, -40, 12), (25, -54, 8), (23, -66, 6))
_VENTRICLE_RADII = (2.5, 4.5, 4.6, 4.0, 4.2, 5.0, 6.2, 3.6, 1.5)
_HORN = ((24, -40, 10), (32, -35, -3), (35, -23, -14), (33, -12, -18))
_HORN_RADII = (4.5, 2.6, 2.2, 2.2)
_CAUDATE = ((10.5, 19, -4), (12.5, 17, 3), (14, 10, 10), (16, -3, 17), (19, -16, 20), (25, -28, 18), (31, -33, 8), (34, -30, -3), (35, -20, -11))
_CAUDATE_RADII = (4.2, 5.6, 4.8, 3.6, 2.6, 2.0, 1.6, 1.5, 1.5)
_HIPPOCAMPUS = ((22, -8, -20), (26, -14, -19), (30, -25, -13), (27, -35, -4))
_HIPPOCAMPUS_RADII = (6.0, 4.5, 3.8, 2.5)
_INNER_BRAIN_MM = ((-42.0, 42.0), (-74.0, 40.0), (-52.0, 32.0))
"""Ends of the box along x, y and z that holds nearly all of it."""


def around(grid: Axes, frame: Frame, corners_mm: Sequence[Triple], margin_mm: float) -> Box:
    """The box of voxels that holds some template points, their mirror images not included, and a margin."""
    points = frame.head(torch.tensor([tuple(map(float, c)) for c in corners_mm]))
    low, high = points.amin(0) - margin_mm, points.amax(0) + margin_mm
    edges = [
        slice(int(torch.searchsorted(axis, low[i].item())), int(torch.searchsorted(axis, high[i].item(), right=True))) for i, axis in enumerate(grid)
    ]
    return edges[0], edges[1], edges[2]


@dataclass(frozen=True, eq=False)
class Painter:
    """Writes tissues into a mosaic [x, y, z], structure by structure, from depths in template coordinates."""

    params: HeadParams
    frame: Frame
    grid: Axes
    mosaic: Mosaic
    ruffle: Tensor
    _inner: list[tuple[Box, Tensor, Tensor]] = field(default_factory=list)

    @staticmethod
    def of(params: HeadParams, frame: Frame, grid: Axes, mosaic: Mosaic) -> "Painter":
        """A painter for one head; small structures get their own fine irregularity, in mm."""
        ruffle = torch.stack([smooth_noise(LATTICE, seeded(params.seed, 60 + i), 4.0) for i in range(3)])
        return Painter(params, frame, grid, mosaic, ruffle)

    def within(self, box: Box) -> "Painter":
        """A painter for a box of the grid, writing through to the same mosaic."""
        return replace(self, grid=self._axes(box), mosaic=self.mosaic.within(box), _inner=[])

    def _axes(self, box: Box) -> Axes:
        return inner_axes(self.grid, box)

    def positions(self, box: Box, ruffle_mm: float) -> Tensor:
        """Template coordinates [3, ...] of a box of voxels, irregular by ruffle_mm rms."""
        if not self._inner:
            # The deep structures overlap: their surroundings are evaluated once.
            whole = around(self.grid, self.frame, list(product(*_INNER_BRAIN_MM)), 8.0)
            axes = self._axes(whole)
            self._inner.append((whole, self.frame.template(axes), LATTICE.read(self.ruffle, axes)))
        whole, positions, ruffle = self._inner[0]
        if all(w.start <= b.start and b.stop <= w.stop for w, b in zip(whole, box, strict=True)):
            inside = (slice(None), *(slice(b.start - w.start, b.stop - w.start) for w, b in zip(whole, box, strict=True)))
            return torch.add(positions[inside], ruffle[inside], alpha=ruffle_mm)
        axes = self._axes(box)
        return self.frame.template(axes).add_(LATTICE.read(self.ruffle, axes), alpha=ruffle_mm)

    def write(self, box: Box, depth_mm: Tensor, label: str) -> None:
        """Fill the voxels of a box where the depth is positive."""
        self.mosaic.within(box).write(depth_mm, LABELS[label])

    def tube(
        self, points: Sequence[Triple], radii: Radii, label: str, *, side: int, scale: float = 1.0, shift: Triple = (0, 0, 0), gap: bool = False
    ) -> None:
        """A tube on one side (+1 right, -1 left); gap keeps it off the midline (septum)."""
        moved = [(side * (x + shift[0]), y + shift[1], z + shift[2]) for x, y, z in points]
        widths = [scale * r for r in radii]
        box = around(self.grid, self.frame, moved, max(widths) + 4)
        positions = self.positions(box, 0.35)
        depth = tube_depth(positions, moved, widths)
        if gap:
            depth = torch.minimum(depth, side * positions[0] - 0.8)
        self.write(box, depth, label)

    def ellipsoid(
        self,
        centre: Triple,
        radii: Triple,
        label: str,
        *,
        side: int,
        rotation: Triple = (0, 0, 0),
        scale: float = 1.0,
        shift: Triple = (0, 0, 0),
        rim: str | None = None,
        exponent: float = 2.0,
        ruffle_mm: float = 0.4,
    ) -> None:
        """An ellipsoid on one side, mirrored with its rotation; rim: label of a 1 mm coat around it (a medullary lamina)."""
        moved = (side * (centre[0] + shift[0]), centre[1] + shift[1], centre[2] + shift[2])
        wide = (radii[0] * scale, radii[1] * scale, radii[2] * scale)
        box = around(self.grid, self.frame, [moved], max(wide) + 5)
        turn = (rotation[0], side * rotation[1], side * rotation[2])
        depth = ellipsoid_depth(self.positions(box, ruffle_mm), moved, wide, rotation_deg=turn, exponent=exponent)
        if rim is not None:
            self.write(box, depth + 0.9, rim)
        self.write(box, depth, label)

    def dentate(self, *, side: int, scale: float, shift: Triple) -> None:
        """A crumpled sheet, open towards the fourth ventricle."""
        centre = (side * (15.0 + shift[0]), -57.0 + shift[1], -36.0 + shift[2])
        box = around(self.grid, self.frame, [centre], 9.5 * scale + 5)
        positions = self.positions(box, 0.7)
        turn = (25.0, side * -20.0, side * 30.0)
        depth = ellipsoid_depth(positions, centre, (8.5 * scale, 9.0 * scale, 5.5 * scale), rotation_deg=turn)
        local = torch.tensordot(rotation_matrix(turn).T, positions - torch.tensor(centre).reshape(3, 1, 1, 1), dims=1)
        crumple = 0.9 * torch.sin(local[0] * 1.7) * torch.cos(local[1] * 1.5)
        sheet = 1.1 - (depth - 1.3 + crumple).abs()
        open_side = side * local[0] * 0.8 - local[1] * 0.6 + 4.5
        self.write(box, torch.minimum(sheet, open_side), "dentate_nucleus")


def paint_inner_brain(painter: Painter) -> None:
    """Ventricles first, then the nuclei that bulge into them."""
    params = painter.params
    wide = params.ventricle_scale
    for side in (-1, 1):
        painter.tube(_HIPPOCAMPUS, _HIPPOCAMPUS_RADII, "grey_matter", side=side)
        painter.tube(_VENTRICLE, _VENTRICLE_RADII, "csf", side=side, scale=wide * (1.04 if side > 0 else 0.97), gap=True)
        painter.tube(_HORN, _HORN_RADII, "csf", side=side, scale=wide)
    painter.ellipsoid((0, -44, -34), (7, 5.5, 11), "csf", side=1, rotation=(-15, 0, 0), scale=0.5 + 0.4 * wide)
    painter.tube(((0, -29, -3), (0, -32, -12), (0, -40, -26)), (1.0, 0.9, 1.5), "csf", side=1)
    for index, side in enumerate((-1, 1)):
        scales = params.nucleus_scale[7 * index : 7 * index + 7]
        shifts = params.nucleus_shift_mm[7 * index : 7 * index + 7]
        _paint_side(painter, side, scales, shifts)
    painter.ellipsoid((0, -12, 0), (1.3 + 0.9 * wide, 15, 10), "csf", side=1, rotation=(-12, 0, 0), ruffle_mm=0.3)


def _paint_side(painter: Painter, side: int, scales: Sequence[float], shifts: Sequence[Triple]) -> None:
    caudate, pallidum, putamen, red, dentate, nigra, thalamus = zip(scales, shifts, strict=True)
    # The thalamus must keep off the third ventricle: half of its scatter is enough.
    painter.ellipsoid((10.5, -18, 6), (8.2, 14.5, 8.5), "thalamus", side=side, rotation=(0, 10, 28), scale=thalamus[0], shift=thalamus[1])
    painter.tube(_CAUDATE, _CAUDATE_RADII, "caudate", side=side, scale=caudate[0], shift=caudate[1])
    painter.ellipsoid((25.5, 3, 0), (5.8, 16.5, 10), "putamen", side=side, rotation=(0, 8, 17), scale=putamen[0], shift=putamen[1], exponent=2.3)
    painter.ellipsoid(
        (20, -3, -1), (5, 9.5, 6.2), "globus_pallidus", side=side, rotation=(0, 15, 24), scale=pallidum[0], shift=pallidum[1], rim="white_matter"
    )
    painter.ellipsoid((10, -17, -11), (7, 2.6, 5.5), "substantia_nigra", side=side, rotation=(30, 25, -38), scale=nigra[0], shift=nigra[1])
    painter.ellipsoid((5, -20.5, -8), (3, 3.2, 4), "red_nucleus", side=side, scale=red[0], shift=_half(red[1]), ruffle_mm=0.4)
    painter.dentate(side=side, scale=dentate[0], shift=dentate[1])


def _half(shift: Triple) -> Triple:
    return shift[0] / 2, shift[1] / 2, shift[2] / 2
