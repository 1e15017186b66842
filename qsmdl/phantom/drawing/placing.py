"""Places inside a mask, drawn as three numbers and turned into millimetres only when the mask is known.

The numbers start a quasi-random sequence (Roberts 2018, https://extremelearning.com.au/unreasonable-effectiveness-of-quasirandom-sequences) over a
box around the mask; its first member inside the mask is the place. The box follows from the mask's centre and spread in mm, which hardly depend on
the voxel size, so one draw is one place on every grid.
"""

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.phantom.drawing.sampling import Axes
from qsmdl.phantom.drawing.shapes import Point

_STEPS = (0.8191725133961645, 0.6710436067037893, 0.5497004779019703)
_N_TRIES = 4096
_HALF_WIDTH = 3.0
"""Standard deviations from the mask's centre to the sides of the box: an ellipsoid ends at 2.24, a cuboid at 1.73."""


@dataclass(frozen=True, eq=False, slots=True)
class Region:
    """A non-empty mask [x, y, z] (boolean) on the grid of three axes in mm, with its centre and the standard deviation of its voxels along each."""

    mask: Tensor
    axes: Axes
    centre_mm: Point
    spread_mm: Point

    @staticmethod
    def of(mask: Tensor, axes: Axes) -> "Region":
        """A region. Raises InputError for an empty mask."""
        # Sums as products with ones: twice as fast as sums of booleans, and as exact (counts stay far below 2^24).
        ones = mask.float()
        plane = (ones @ ones.new_ones(mask.shape[2])).double()
        along_z = (ones.new_ones(mask.shape[0]) @ ones.flatten(1)).reshape(mask.shape[1:]).double().sum(0)
        if not bool(along_z.any()):
            raise InputError("mask is empty; vessels and lesions need voxels to lie in. Give a mask with at least one voxel.")
        centre, spread = [], []
        for counts, axis in zip((plane.sum(1), plane.sum(0), along_z), axes, strict=True):
            share, position = counts / counts.sum(), axis.double()
            mean = (share * position).sum()
            voxel = float(axis[1] - axis[0])
            # The voxels themselves are as wide as a grid allows: their own spread belongs to the mask.
            variance = (share * (position - mean).square()).sum() + voxel * voxel / 12
            centre.append(float(mean))
            spread.append(float(variance.sqrt()))
        return Region(mask, axes, (centre[0], centre[1], centre[2]), (spread[0], spread[1], spread[2]))

    def locate(self, place: Point) -> Point:
        """The position in mm of a place given as three numbers 0 ... 1, inside the mask."""
        points = self._candidates(place)
        hits = (self._share(points) >= 0.5).nonzero()
        point = points[hits[0, 0]] if len(hits) else self._nearest(points[0])
        x, y, z = point.tolist()
        return x, y, z

    def _candidates(self, place: Point) -> Tensor:
        """Members of the sequence [n, 3], in mm."""
        count = torch.arange(_N_TRIES, dtype=torch.float64, device=self.axes[0].device)
        columns = [
            centre + (2 * torch.frac(start + count * step) - 1) * _HALF_WIDTH * spread
            for start, step, centre, spread in zip(place, _STEPS, self.centre_mm, self.spread_mm, strict=True)
        ]
        return torch.stack(columns, 1).to(self.axes[0].dtype)

    def _share(self, points: Tensor) -> Tensor:
        """The mask at points [n, 3], interpolated linearly: its border then hardly depends on the voxel size."""
        corners: list[list[tuple[Tensor, Tensor]]] = []
        for i, axis in enumerate(self.axes):
            exact = (points[:, i] - axis[0]) / (axis[1] - axis[0])
            below, n = exact.floor(), len(axis)
            weights = (1 - (exact - below), exact - below)
            sides = [(below + k, w) for k, w in enumerate(weights)]
            corners.append([(at.long().clamp(0, n - 1), torch.where((at >= 0) & (at < n), w, 0.0)) for at, w in sides])
        share = torch.zeros_like(points[:, 0])
        for (x, wx), (y, wy), (z, wz) in product(*corners):
            share += self.mask[x, y, z] * (wx * wy * wz)
        return share

    def _nearest(self, point: Tensor) -> Tensor:
        """The voxel of the mask next to a point: for masks too thin for any of the candidates to hit."""
        voxels = self.mask.nonzero()
        positions = torch.stack([axis[voxels[:, i]] for i, axis in enumerate(self.axes)], 1)
        return positions[(positions - point).square().sum(1).argmin()]
