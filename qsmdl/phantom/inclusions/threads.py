"""Tubes as exact fractions of voxels.

A tube up to about a voxel thick is a bundle of threads, each without width and each standing for its share of the cross-section: how much of a
thread lies in which voxel is known in closed form, so the volume is right at any radius, direction and place between the voxels. A thicker tube is
drawn from the distance to its centreline, with an edge as wide as the voxel is across it.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from qsmdl.phantom.drawing.sampling import Axes
from qsmdl.phantom.drawing.shapes import edge_share
from qsmdl.phantom.inclusions.tubes import Tubes
from qsmdl.physics.box import slabs

_THICK = 1.4
"""Radius in voxels (of their mean edge) above which a tube is drawn from the distance to its centreline."""
_THREAD_CLASSES = ((0.1, 1), (0.3, 7), (0.6, 24), (0.9, 80), (1.4, 200), (2.2, 500), (math.inf, 1200))
"""Radius over a voxel's shortest edge up to which a bundle has so many threads; the last two are for long voxels."""
_BALL_CLASSES = (_THICK, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0, math.inf)
_UNIT = 1 << 20
"""Threads are counted in millionths of a voxel: sums of whole numbers do not depend on their order, so parallel hardware gives the same bits."""
_CHUNK = 1 << 19


def exact_fraction(tubes: Sequence[Tubes], axes: Axes) -> Tensor:
    """Share [x, y, z] of each voxel that lies in tubes, on the grid of three axes in the millimetres of the tubes.

    Thin tubes end flat, thick ones round. Tubes that meet in a voxel fill what the other leaves.
    """
    shape = (len(axes[0]), len(axes[1]), len(axes[2]))
    voxel, origin = torch.stack([a[1] - a[0] for a in axes]), torch.stack([a[0] for a in axes])
    counts = torch.zeros(shape[0] * shape[1] * shape[2], dtype=torch.int32, device=voxel.device)
    thick = torch.zeros(counts.shape, device=voxel.device)
    if not tubes:
        return thick.reshape(shape)
    start, end, first, last = (torch.cat(part) for part in zip(*(_pieces(t, origin, voxel) for t in tubes), strict=True))
    width = torch.maximum(first, last)
    reach = width[:, None] / voxel + 1
    near = ((torch.minimum(start, end) < torch.tensor(shape, device=voxel.device) + reach) & (torch.maximum(start, end) > -reach)).all(-1)
    start, end, first, last, width = (values[near] for values in (start, end, first, last, width))
    mean, shortest = float(voxel.prod()) ** (1 / 3), float(voxel.min())
    for low, (high, n) in zip((0.0, *(limit for limit, _ in _THREAD_CLASSES)), _THREAD_CLASSES, strict=False):
        if bool((chosen := (width > low * shortest) & (width <= high * shortest) & (width <= _THICK * mean)).any()):
            _spin(counts, start[chosen], end[chosen], first[chosen], last[chosen], voxel, shape, n)
    for low, high in pairwise(_BALL_CLASSES):
        if bool((chosen := (width > low * mean) & (width <= high * mean)).any()):
            _thicken(thick, start[chosen], end[chosen], first[chosen], last[chosen], voxel, shape)
    for slab in slabs(counts.shape, counts.device):
        thin = counts[slab].float().div_(_UNIT).clamp_(max=1)
        # Thick tubes fill what the thin ones leave.
        thick[slab] = thin.add_((1 - thin).mul_(thick[slab]))
    return thick.reshape(shape)


def _pieces(tubes: Tubes, origin: Tensor, voxel: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Straight pieces at most a voxel long along every axis: both ends [n, 3] in voxel indices, both radii [n] in mm."""
    points, radii = (tubes.points_mm.to(origin) - origin) / voxel, tubes.radii_mm.to(origin)
    longest = (points[:, 1:] - points[:, :-1]).abs().amax()
    # A little shorter than a voxel, lest rounding makes one cross two borders.
    n = int(1.01 * float(longest)) + 1
    t = torch.arange(n + 1, dtype=torch.float32, device=origin.device) / n
    between = torch.lerp(points[:, :-1, None], points[:, 1:, None], t[:, None])
    widths = torch.lerp(radii[:, :-1, None], radii[:, 1:, None], t)
    ends = between[:, :, :-1].reshape(-1, 3), between[:, :, 1:].reshape(-1, 3)
    return *ends, widths[:, :, :-1].reshape(-1), widths[:, :, 1:].reshape(-1)


def _sunflower(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Points spread evenly over the unit disc (Vogel 1979): two coordinates [n]."""
    index = torch.arange(n, dtype=torch.float32, device=like.device) + 0.5
    radius, angle = (index / n).sqrt(), index * (math.pi * (3 - math.sqrt(5)))
    return radius * angle.cos(), radius * angle.sin()


def _across(direction: Tensor) -> tuple[Tensor, Tensor]:
    """Two unit vectors [n, 3] at right angles to directions [n, 3] and to each other."""
    aside = torch.nn.functional.one_hot(direction.abs().argmin(-1), 3).to(direction)
    one = torch.nn.functional.normalize(torch.linalg.cross(direction, aside), dim=-1)
    return one, torch.linalg.cross(torch.nn.functional.normalize(direction, dim=-1), one)


def _spin(
    counts: Tensor, start: Tensor, end: Tensor, first: Tensor, last: Tensor, voxel: Tensor, shape: tuple[int, int, int], n_threads: int
) -> None:
    """Add bundles of threads to counts (voxels, flat), in millionths of a voxel."""
    run_mm = (end - start) * voxel
    one, two = _across(run_mm)
    # The mean square radius of a cone with both radii.
    square = (first * first + first * last + last * last) / 3
    volume = math.pi * square * run_mm.norm(dim=-1) / voxel.prod()
    cosines, sines = _sunflower(n_threads, start)
    size = max(1, _CHUNK // (4 * n_threads))
    for part in torch.split(torch.arange(len(start), device=start.device), size):
        radius = square[part].sqrt()[:, None]
        crossings, cells = [], []
        for axis in range(3):
            shift = radius * (one[part, axis, None] * cosines + two[part, axis, None] * sines) / voxel[axis]
            # Voxel i reaches from i - 0.5 to i + 0.5.
            here, there = start[part, axis, None] + shift + 0.5, end[part, axis, None] + shift + 0.5
            cell, other = here.floor(), there.floor()
            # At most one border per axis lies between the ends of a piece, at this share of its length (beyond it: none).
            crossings.append(torch.where(cell == other, 2.0, (torch.maximum(cell, other) - here) / (there - here)))
            cells.append((cell.int(), other.int()))
        _deposit(counts, crossings, cells, volume[part, None] / n_threads, shape)


def _deposit(counts: Tensor, crossings: list[Tensor], cells: list[tuple[Tensor, Tensor]], volume: Tensor, shape: tuple[int, int, int]) -> None:
    """Split each thread at the borders it crosses and add the share of each part to the voxel it lies in."""
    a, b, c = (t.clamp(0, 1) for t in crossings)
    low, high = torch.minimum(torch.minimum(a, b), c), torch.maximum(torch.maximum(a, b), c)
    cuts = (torch.zeros_like(a), low, a + b + c - low - high, high, torch.ones_like(a))
    for before, after in pairwise(cuts):
        middle = (before + after) / 2
        flat = torch.zeros(a.shape, dtype=torch.int32, device=a.device)
        outside = torch.zeros(a.shape, dtype=torch.bool, device=a.device)
        for crossing, (cell, other), n in zip(crossings, cells, shape, strict=True):
            index = torch.where(middle > crossing, other, cell)
            outside.logical_or_(index < 0).logical_or_(index >= n)
            flat.mul_(n).add_(index)
        weight = (after - before).mul_(volume * _UNIT).round_().int().masked_fill_(outside, 0)
        # Nothing is added where a part is empty or off the grid: cheaper than choosing those that are not.
        counts.index_add_(0, flat.clamp_(0, len(counts) - 1).reshape(-1), weight.reshape(-1))


def _thicken(filled: Tensor, start: Tensor, end: Tensor, first: Tensor, last: Tensor, voxel: Tensor, shape: tuple[int, int, int]) -> None:
    """Raise filled (voxels, flat) to the fractions of rounded cones."""
    reach = (torch.maximum(first, last).max() / voxel + 1.5).ceil().int().tolist()
    offsets = torch.cartesian_prod(*(torch.arange(-k, k + 1, device=start.device) for k in reach))
    limits = torch.tensor(shape, device=start.device)
    strides = torch.tensor([shape[1] * shape[2], shape[2], 1], device=start.device)
    run_mm = (end - start) * voxel
    for part in torch.split(torch.arange(len(start), device=start.device), max(1, _CHUNK // len(offsets))):
        index = ((start[part] + end[part]) / 2).round().long()[:, None] + offsets
        away = (index - start[part, None]) * voxel
        run = run_mm[part, None]
        t = ((away * run).sum(-1) / run.square().sum(-1).clamp_min(1e-12)).clamp_(0, 1)
        away -= t[..., None] * run
        distance = away.norm(dim=-1)
        # The edge is as wide as a voxel is across it: its standard deviation along the normal is that of the box.
        edge = (away * voxel).norm(dim=-1) / distance.clamp_min(1e-6)
        radius = torch.lerp(first[part, None], last[part, None], t)
        # A linear edge around a circle holds more outside than it leaves out inside: pi (R^2 + edge^2 / 12) must be pi radius^2.
        fraction = edge_share((radius.square() - edge.square() / 12).sqrt() - distance, edge.clamp_min(1e-6))
        inside = ((index >= 0) & (index < limits)).all(-1) & (fraction > 0)
        # A maximum does not depend on the order of the pieces: same seed, same bits.
        filled.scatter_reduce_(0, (index[inside] * strides).sum(-1), fraction[inside], "amax")
