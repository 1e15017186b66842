"""Names beside points, placed where they cover neither points nor lines nor each other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from qsmdl.report.style import calm

_FONT_SIZE = 7
_POINT_RADIUS_PX = 5.0
_LINE_RADIUS_PX = 1.5
_N_DIRECTIONS = 24
_DISTANCES_PX = (7, 14, 24, 36, 50, 70, 95, 125, 160)
_LEADER_FROM_PX = 14
"""From this distance on a thin line leads from the name to its point."""
_LEADER_STEP_PX = 6.0
# costs, in square pixels of covered area
_OUTSIDE_COST, _DISTANCE_COST, _CROSSING_COST = 10.0, 0.6, 40.0

Boxes = NDArray[np.float64]
"""[box, (x0, y0, x1, y1)] in pixels."""


def _squares(points: Sequence[tuple[float, float]], radius: float) -> Boxes:
    centres = np.asarray(points, dtype=float).reshape(-1, 2)
    return np.concatenate([centres - radius, centres + radius], axis=1)


def _covered(box: Boxes, others: Boxes) -> float:
    """The area that a box shares with others, each counted."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(np.prod(np.clip(sides, 0, None), axis=1).sum())


def _hits(points: Boxes, boxes: Boxes) -> int:
    """How many of the points [point, (x, y)] lie inside a box."""
    x, y = points[:, 0, None], points[:, 1, None]
    inside = (x > boxes[:, 0]) & (y > boxes[:, 1]) & (x < boxes[:, 2]) & (y < boxes[:, 3])
    return int(np.count_nonzero(np.any(inside, axis=1)))


@dataclass(frozen=True, slots=True)
class _Place:
    """A name at an offset from its point, both in pixels."""

    offset: tuple[float, float]
    box: Boxes
    leader: Boxes
    distance: float


def _place(point: tuple[float, float], size: tuple[float, float], angle: float, distance: float) -> _Place:
    """The name's centre is moved until its box is `distance` away from the point in the given direction."""
    direction = np.array([math.cos(angle), math.sin(angle)])
    half = np.array(size) / 2
    reach = min(h / abs(d) if abs(d) > 1e-9 else math.inf for h, d in zip(half, direction, strict=True))
    centre = np.array(point) + direction * (distance + reach)
    start, end = 1.2 * _POINT_RADIUS_PX, max(distance - 2, 1.2 * _POINT_RADIUS_PX)
    steps = np.arange(start, end, _LEADER_STEP_PX) if distance >= _LEADER_FROM_PX else np.empty(0)
    leader = np.array(point) + steps[:, None] * direction
    return _Place((float(centre[0] - point[0]), float(centre[1] - point[1])), np.concatenate([centre - half, centre + half]), leader, distance)


def _best_place(point: tuple[float, float], size: tuple[float, float], taken: Boxes, frame: Boxes) -> _Place:
    def cost(place: _Place) -> float:
        outside = size[0] * size[1] - _covered(place.box, frame[None])
        crossings = _hits(place.leader, taken) if place.leader.size else 0
        return _covered(place.box, taken) + _OUTSIDE_COST * outside + _DISTANCE_COST * place.distance + _CROSSING_COST * crossings

    angles = [2 * math.pi * i / _N_DIRECTIONS for i in range(_N_DIRECTIONS)]
    return min((_place(point, size, angle, distance) for distance in _DISTANCES_PX for angle in angles), key=cost)


def _to_px(axes: Axes, positions: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (axes.transData.transform(position) for position in positions)]


def _write(axes: Axes, point: tuple[float, float], name: str, place: _Place) -> None:
    points_per_px = 72 / float(axes.figure.dpi)
    line = None
    if place.leader.size:
        line = {"arrowstyle": "-", "color": "#777777", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2}
    axes.annotate(
        name, point, xytext=(place.offset[0] * points_per_px, place.offset[1] * points_per_px), textcoords="offset points", ha="center",
        va="center", fontsize=_FONT_SIZE, arrowprops=line, zorder=6, path_effects=[withStroke(linewidth=2, foreground="white")],
    )  # fmt: skip


@calm()
def label_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    *,
    others: Sequence[tuple[float, float]] = (),
    lines: Sequence[tuple[float, float]] = (),
) -> None:
    """Writes a name beside each point, with a thin line where it had to move away.

    others: further points, lines: positions along lines (all in data units), which names should not cover. Greedy: each name takes the place that
    covers least, near ones first. The limits of the axes must be final, as places are found in pixels.
    """
    figure: Any = axes.figure
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    frame = np.asarray(axes.get_window_extent(renderer).extents, dtype=float)
    own, other, line = (_to_px(axes, positions) for positions in (points, others, lines))
    taken = np.concatenate([_squares([*own, *other], _POINT_RADIUS_PX), _squares(line, _LINE_RADIUS_PX)])
    for point, centre, name in zip(points, own, names, strict=True):
        note = axes.annotate(name, point, xytext=(0, 0), textcoords="offset points", fontsize=_FONT_SIZE)
        extent = note.get_window_extent(renderer)
        note.remove()
        place = _best_place(centre, (extent.width + 4, extent.height + 2), taken, frame)
        _write(axes, point, name, place)
        taken = np.concatenate([taken, place.box[None], _squares([(x, y) for x, y in place.leader], _LINE_RADIUS_PX)])
