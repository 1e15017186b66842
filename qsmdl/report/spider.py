"""The spider plot of the best five."""

import math
from collections.abc import Sequence
from typing import Any, cast

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator

from qsmdl.challenge.metrics import METRICS
from qsmdl.challenge.ranking import Entry
from qsmdl.errors import InputError
from qsmdl.report.style import FIVE_COLOURS, FIVE_LINES, FIVE_MARKERS, REFERENCE_COLOUR, new_figure, plain_text

N_SHOWN = 5
MIN_AXES = 3
_RING = 0.2
_SIDEWAYS = 0.3
_DIVISORS = {"%": 100.0, "1": 1.0}
_OWN_DIVISORS = {"CalcStreak": 0.1, "DeviationFromCalcMoment": 30.0}
_VISUAL = "visual"
_VISUAL_DIVISOR = 3.0
"""Each axis is divided so that 1 is bad (rc2: NRMSE-like 100 %, visual score 3, streaking 0.1, moment 30 ppm voxel)."""


def divisor(key: str) -> float:
    """What an axis is divided by, in the metric's unit."""
    return _VISUAL_DIVISOR if key == _VISUAL else _OWN_DIVISORS.get(key, _DIVISORS.get(METRICS[key].unit, 1.0) if key in METRICS else 1.0)


def _value(entry: Entry, key: str) -> float | None:
    return entry.visual if key == _VISUAL else entry.metrics.get(key)


def shown_axes(entries: Sequence[Entry]) -> list[str]:
    """The official metrics that all entries have, and the visual score if all were rated: a polygon with gaps misleads."""
    return [key for key in (*METRICS, _VISUAL) if all(_value(entry, key) is not None for entry in entries)]


def _axis_name(key: str) -> str:
    if key == _VISUAL:
        return "Visual score\n÷ 3"
    unit = "" if METRICS[key].unit == "1" else f" {METRICS[key].unit}"
    return f"{METRICS[key].short}\n÷ {divisor(key):g}{unit}"


def spider_figure(entries: Sequence[Entry], *, title: str, note: str = "") -> Figure:
    """The five entries of lowest NRMSE on one axis per metric, each divided by a fixed value; smaller polygons are better.

    Raises InputError: no entry with an NRMSE, or fewer than three metrics that all of them have.
    """
    best = sorted((entry for entry in entries if entry.nrmse is not None), key=lambda entry: entry.nrmse or 0.0)[:N_SHOWN]
    keys = shown_axes(best) if best else []
    if len(keys) < MIN_AXES:
        raise InputError(f"A spider plot needs {MIN_AXES} metrics that all of the best {N_SHOWN} have; there are {len(keys)}.")
    line = "each axis divided as written (no unit); smaller is better"
    figure = new_figure(6.6, 6.9, title, f"{line}\n{note}" if note else line, layout=None)
    axes = cast(PolarAxes, figure.add_axes((0.18, 0.165, 0.64, 0.64 * 6.6 / 6.9), projection="polar"))
    angles = [2 * math.pi * i / len(keys) for i in range(len(keys))]
    handles = []
    for entry, colour, line, marker in zip(best, FIVE_COLOURS, FIVE_LINES, FIVE_MARKERS, strict=False):
        radii = [(_value(entry, key) or 0.0) / divisor(key) for key in keys]
        style: dict[str, Any] = {"color": colour, "linestyle": line, "marker": marker, "markersize": 4.5, "linewidth": 1.5}
        axes.plot([*angles, angles[0]], [*radii, radii[0]], **style)
        handles.append(Line2D([], [], **style, label=f"{plain_text(entry.name)} (NRMSE {entry.nrmse:.1f} %)"))
    _dress(axes, angles, [_axis_name(key) for key in keys])
    figure.legend(handles=handles, loc="lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _dress(axes: PolarAxes, angles: Sequence[float], names: Sequence[str]) -> None:
    """Axes clockwise from the top, with room for two-line names, and what a radius means."""
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    axes.set_thetagrids([math.degrees(angle) for angle in angles], list(names), fontsize=8)
    for label, angle in zip(axes.get_xticklabels(), angles, strict=True):
        side = math.sin(angle)
        label.set_horizontalalignment("left" if side > _SIDEWAYS else "right" if side < -_SIDEWAYS else "center")  # clear of the rim
    axes.tick_params(axis="x", pad=8)
    axes.tick_params(axis="y", labelsize=7, labelcolor=REFERENCE_COLOUR)
    axes.set_ylim(0, _RING * math.ceil(axes.get_ylim()[1] / _RING))
    axes.yaxis.set_major_locator(MaxNLocator(5, prune="lower"))
    axes.set_rlabel_position(180 / len(angles))
    axes.grid(color="#DDDDDD", linewidth=0.6)
