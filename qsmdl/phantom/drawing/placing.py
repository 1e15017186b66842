"""Places inside a mask, drawn as three numbers 0 ... 1 and turned into millimetres only when the mask is known.

`Region.locate`: the numbers start a quasi-random sequence (Roberts 2018, https://extremelearning.com.au/unreasonable-effectiveness-of-quasirandom-sequences)
over a box around the mask; its first member inside the mask is the place. The box follows from the mask's centre and spread in mm, which hardly
depend on the voxel size, so one draw is one place on every grid, in thin and torn masks (cortex, nuclei) too: for lesions and vessels.
`Region.at_ranks`: the numbers are shares of the mask's volume. Uniform by construction, without trying, but a thin mask that changes by a voxel moves
the place far: for what a scan loses inside a whole brain. `Region.on_surface`: the same on the surface.
"""

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.phantom.drawing.ranges import Triple, as_triple, unit_vector
from qsmdl.phantom.drawing.sampling import Axes

_STEPS = (0.8191725133961645, 0.6710436067037893, 0.5497004779019703)
_N_TRIES = 4096
_HALF_WIDTH = 3.0
"""Standard deviations from the mask's centre to the sides of the box: an ellipsoid ends at 2.24, a cuboid at 1.73."""


@dataclass(frozen=True, eq=False, slots=True)
class Region:
    """A non-empty mask [x, y, z] (boolean) on the grid of three axes in mm, with its centre and the standard deviation of its voxels along each."""

    mask: Tensor
    axes: Axes
    centre_mm: Triple
    spread_mm: Triple

    @staticmethod
    def of(mask: Tensor, axes: Axes) -> "Region":
        """A region. Raises InputError for an empty mask."""
        # Sums as products with ones: twice as fast as sums of booleans, and as exact (counts stay far below 2^24).
        ones = mask.float()
        plane = (ones @ ones.new_ones(mask.shape[2])).double()
        along_z = (ones.new_ones(mask.shape[0]) @ ones.flatten(1)).reshape(mask.shape[1:]).double().sum(0)
        if not bool(along_z.any()):
            raise InputError("mask is empty; there is no place in it. Give a mask with at least one voxel.")
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

    @property
    def voxel_size_mm(self) -> Triple:
        """The edges of a voxel."""
        return as_triple(float(axis[1] - axis[0]) for axis in self.axes)

    def locate(self, place: Triple) -> Triple:
        """The position in mm of a place given as three numbers 0 ... 1, inside the mask."""
        points = self._candidates(place)
        hits = (self._share(points) >= 0.5).nonzero()
        point = points[hits[0, 0]] if len(hits) else self._nearest(points[0])
        x, y, z = point.tolist()
        return x, y, z

    def at_ranks(self, ranks: Triple) -> Triple:
        """The position in mm that three ranks 0 ... 1 name: uniform in the mask's volume for uniform ranks.

        The first rank is the share of the mask's volume at smaller x, the second that of the slice at smaller y, the third that of the line.
        """
        rest, point = self.mask, []
        for share, axis, size in zip(ranks, self.axes, self.voxel_size_mm, strict=True):
            profile = rest.reshape(len(axis), -1).sum(1, dtype=torch.float64)
            total = profile.cumsum(0)
            aim = share * float(total[-1])
            index = min(int(torch.searchsorted(total, aim, right=True)), int(profile.nonzero()[-1]))
            within = (aim - float(total[index])) / float(profile[index]) + 1
            point.append(float(axis[0]) + (index - 0.5 + within) * size)
            rest = rest[index]
        return as_triple(point)

    def on_surface(self, ranks: Triple) -> Triple:
        """The last position in mm inside the mask on the ray from its centre in the direction of the first two ranks (uniform on the sphere)."""
        direction = unit_vector(2 * ranks[0] - 1, 2 * math.pi * ranks[1])
        reach = math.hypot(*(len(axis) * size for axis, size in zip(self.axes, self.voxel_size_mm, strict=True)))
        distance = torch.arange(0.0, reach, 0.5 * min(self.voxel_size_mm), device=self.mask.device)
        inside = torch.ones(len(distance), dtype=torch.bool, device=self.mask.device)
        index = []
        for c, d, axis, size in zip(self.centre_mm, direction, self.axes, self.voxel_size_mm, strict=True):
            at = ((c + d * distance - axis[0]) / size).round().long()
            inside &= (at >= 0) & (at < len(axis))
            index.append(at.clamp(0, len(axis) - 1))
        inside &= self.mask[index[0], index[1], index[2]]
        last = float(distance[inside].max()) if bool(inside.any()) else 0.0
        return as_triple(c + d * last for c, d in zip(self.centre_mm, direction, strict=True))

    def _candidates(self, place: Triple) -> Tensor:
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
