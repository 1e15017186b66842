"""Draw tubes into a volume of fractions, touching only the voxels near each centreline."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from qsmdl.phantom.drawing.sampling import Axes
from qsmdl.phantom.drawing.shapes import edge_share
from qsmdl.phantom.inclusions.threads import exact_fraction
from qsmdl.phantom.inclusions.tubes import Tubes

_CHUNK = 1 << 21
_CLASSES_MM = (0.0, 0.6, 1.2, 2.0, 3.2, 100.0)


def _dense(tubes: Tubes, spacing_mm: float) -> tuple[Tensor, Tensor]:
    """Centreline points no further apart than about spacing_mm, with radii: [n, 3], [n]."""
    points, radii = tubes.points_mm, tubes.radii_mm
    longest = float((points[:, 1:] - points[:, :-1]).norm(dim=-1).max())
    n = max(1, int(longest / spacing_mm) + 1)
    t = torch.arange(n, dtype=torch.float32) / n
    between = torch.lerp(points[:, :-1, None], points[:, 1:, None], t[:, None])
    widths = torch.lerp(radii[:, :-1, None], radii[:, 1:, None], t)
    return between.reshape(-1, 3), widths.reshape(-1)


def _offsets(reach_mm: float, voxel_mm: Tensor) -> Tensor:
    spans = [torch.arange(-k, k + 1) for k in ((reach_mm / voxel_mm).floor() + 1).int().tolist()]
    return torch.cartesian_prod(*spans)


def tube_fraction(tubes: Sequence[Tubes], axes: Axes, *, exact: bool = False) -> Tensor:
    """Fraction [x, y, z] of each voxel filled by tubes, on the grid of three axes in head millimetres.

    exact: the share of the voxel's box that lies in the tubes, so that fractions add up to the tubes' volume at any radius (`threads`). Otherwise, as
    the first generator did: the edge is a ramp one voxel wide; tubes thinner than a voxel keep their radius' share of it.
    """
    if exact:
        return exact_fraction(tubes, axes)
    shape = tuple(len(a) for a in axes)
    voxel = torch.stack([a[1] - a[0] for a in axes])
    origin = torch.stack([a[0] for a in axes])
    size = float(voxel.prod() ** (1 / 3))
    filled = torch.zeros(shape[0] * shape[1] * shape[2])
    dense = [_dense(t, 0.5 * size) for t in tubes]
    points, radii = (torch.cat(parts) for parts in zip(*dense, strict=True))
    for low, high in pairwise(_CLASSES_MM):
        chosen = (radii > low) & (radii <= high)
        if bool(chosen.any()):
            _stamp(filled, points[chosen], radii[chosen], origin, voxel, size, shape)
    return filled.reshape(shape)


def _stamp(filled: Tensor, points: Tensor, radii: Tensor, origin: Tensor, voxel: Tensor, size: float, shape: tuple[int, ...]) -> None:
    offsets = _offsets(float(radii.max()) + 0.5 * size, voxel)
    limits, strides = torch.tensor(shape), torch.tensor([shape[1] * shape[2], shape[2], 1])
    n = max(1, _CHUNK // len(offsets))
    for part, radius in zip(torch.split(points, n), torch.split(radii, n), strict=True):
        exact = (part - origin) / voxel
        nearest = exact.round().long()
        index = nearest[:, None] + offsets
        distance = ((index - exact[:, None]) * voxel).norm(dim=-1)
        fraction = edge_share(radius[:, None] - distance, size) * (2 * radius[:, None] / size).clamp(max=1)
        inside = ((index >= 0) & (index < limits)).all(-1) & (fraction > 0)
        # A maximum does not depend on the order of the points: same seed, same bits.
        filled.scatter_reduce_(0, (index[inside] * strides).sum(-1), fraction[inside], "amax")
