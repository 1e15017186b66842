"""Figures of pairs of scores: scatter and Bland-Altman plots, and the change from stage 1 to stage 2.

Source of the second kind: Bland JM, Altman DG, Lancet 1986;327:307-310 (limits of agreement: mean difference +- 1.96 standard deviations).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from qsmdl.challenge.protocol import MethodKind
from qsmdl.challenge.published import Published
from qsmdl.errors import InputError
from qsmdl.report.labels import label_points
from qsmdl.report.style import LOOKS, REFERENCE_COLOUR, kind_handles, legend_below, new_figure, plain_text, scatter_by_kind, tidy

N_LABELLED = 5
_ALL_LABELLED_UP_TO = 12
_AGREEMENT_SDS = 1.96
_N_LINE_POINTS = 120


@dataclass(frozen=True, slots=True)
class Pairs:
    """Two scores of each algorithm: x and y of one unit, names and kinds in the same order."""

    x: Sequence[float]
    y: Sequence[float]
    names: Sequence[str]
    kinds: Sequence[MethodKind | None]

    def __post_init__(self) -> None:
        lengths = {len(self.x), len(self.y), len(self.names), len(self.kinds)}
        if len(lengths) != 1 or 0 in lengths:
            raise InputError(f"Pairs of scores need equally many x, y, names and kinds, at least one; got {sorted(lengths)}.")

    def labelled(self) -> list[int]:
        """Whose names are written: all where they are few, or else those of the lowest sums."""
        order = sorted(range(len(self.x)), key=lambda i: self.x[i] + self.y[i])
        return order if len(order) <= _ALL_LABELLED_UP_TO else order[:N_LABELLED]

    def explained(self, note: str) -> str:
        """A note, with a word on whose names are written where it is not everybody's."""
        return note if len(self.x) <= _ALL_LABELLED_UP_TO else f"{note}{'; ' if note else ''}named: the {N_LABELLED} of lowest sum of both"


def _label(
    axes: Axes,
    pairs: Pairs,
    x: Sequence[float],
    y: Sequence[float],
    *,
    further: Sequence[tuple[float, float]] = (),
    levels: Sequence[float] | None = None,
) -> None:
    """further: more points to keep clear of; levels: where horizontal lines are drawn, None for the identity."""
    chosen = pairs.labelled()
    rest = [(x[i], y[i]) for i in range(len(x)) if i not in chosen]
    along = [float(v) for v in np.linspace(*axes.get_xlim(), _N_LINE_POINTS)]
    lines = [(v, v) for v in along] if levels is None else [(v, level) for level in levels for v in along]
    names = [plain_text(pairs.names[i]) for i in chosen]
    label_points(axes, [(x[i], y[i]) for i in chosen], names, others=[*rest, *further], lines=lines)


def _square_limits(axes: Axes, values: Sequence[float]) -> None:
    """Both axes alike, so that the identity is the diagonal."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(low - margin, high + margin)
    axes.set_aspect("equal")


def _identity(axes: Axes) -> None:
    axes.axline((0, 0), slope=1, color=REFERENCE_COLOUR, linewidth=1, linestyle="--", zorder=1)


def draw_scatter(axes: Axes, pairs: Pairs, x_label: str, y_label: str, further: Sequence[tuple[float, float]] = ()) -> None:
    """The two scores against each other, with the identity line. further: points drawn by the caller that must fit in."""
    tidy(axes)
    _square_limits(axes, [*pairs.x, *pairs.y, *(value for point in further for value in point)])
    _identity(axes)
    scatter_by_kind(axes, pairs.x, pairs.y, pairs.kinds)
    axes.set_xlabel(x_label, fontsize=9)
    axes.set_ylabel(y_label, fontsize=9)


def _bland_altman_lines(axes: Axes, difference: NDArray[np.float64]) -> list[float]:
    """Draws the mean and, for three or more, the limits; returns where."""
    mean = float(difference.mean())
    lines = [(mean, "-", f"mean {mean:+.1f}")]
    if difference.size > 2:
        spread = _AGREEMENT_SDS * float(difference.std(ddof=1))
        lines += [(mean + spread, ":", f"+1.96 SD {mean + spread:+.1f}"), (mean - spread, ":", f"-1.96 SD {mean - spread:+.1f}")]
    handles = [axes.axhline(value, color=REFERENCE_COLOUR, linestyle=style, linewidth=1, zorder=1, label=text) for value, style, text in lines]
    axes.axhline(0, color="#BBBBBB", linewidth=0.8, zorder=0)
    axes.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=7, frameon=False, handlelength=1.6, columnspacing=1.0
    )
    return [value for value, _, _ in lines]


def draw_bland_altman(axes: Axes, pairs: Pairs, x_label: str, y_label: str) -> tuple[list[float], list[float], list[float]]:
    """Difference y - x against the mean of both, with the mean difference and the limits of agreement.

    Returns what was plotted: means, differences, and where the horizontal lines are.
    """
    tidy(axes)
    x, y = np.asarray(pairs.x), np.asarray(pairs.y)
    mean, difference = (x + y) / 2, y - x
    scatter_by_kind(axes, mean.tolist(), difference.tolist(), pairs.kinds)
    levels = _bland_altman_lines(axes, difference)
    axes.margins(x=0.08, y=0.18)
    axes.set_xlabel(x_label, fontsize=9)
    axes.set_ylabel(y_label, fontsize=9)
    return mean.tolist(), difference.tolist(), [0.0, *levels]


def agreement_figure(pairs: Pairs, *, metric: str, unit: str, x_name: str, y_name: str, title: str, note: str = "") -> Figure:
    """Scatter plot (left) and Bland-Altman plot (right) of one metric on two scans or noise levels, coloured by kind of algorithm.

    metric, unit: as "NRMSE", "%"; x_name, y_name: what is compared, as "Sim1", "Sim2".
    """
    figure = new_figure(10.0, 5.2, title, pairs.explained(note))
    left, right = figure.subplots(1, 2)
    draw_scatter(left, pairs, f"{metric} of {x_name} ({unit})", f"{metric} of {y_name} ({unit})")
    difference_unit = "percentage points" if unit == "%" else unit
    labels = f"mean {metric} of {x_name} and {y_name} ({unit})", f"difference {y_name} - {x_name} ({difference_unit})"
    mean, difference, levels = draw_bland_altman(right, pairs, *labels)
    identity = Line2D([], [], color=REFERENCE_COLOUR, linewidth=1, linestyle="--", label="identity")
    legend_below(figure, [*kind_handles(pairs.kinds), identity], 5)
    _label(left, pairs, pairs.x, pairs.y)
    _label(right, pairs, mean, difference, levels=levels)
    return figure


def stage_change_figure(pairs: Pairs, published: Sequence[tuple[Published, Published]] = (), *, title: str, note: str = "") -> Figure:
    """NRMSE (%) of stage 2 against stage 1 of each algorithm, with the identity line; below it an algorithm gained.

    published: the same pairs as the challenge published them, hollow, for reference only: they were obtained on the challenge's own data.
    """
    figure = new_figure(6.4, 6.6, title, pairs.explained(note))
    axes = figure.subplots()
    reference = [(a.metrics["rmse"] or 0.0, b.metrics["rmse"] or 0.0) for a, b in published]
    draw_scatter(axes, pairs, "NRMSE in stage 1 (%)", "NRMSE in stage 2 (%)", reference)
    handles = kind_handles(pairs.kinds)
    handles.append(Line2D([], [], color=REFERENCE_COLOUR, linewidth=1, linestyle="--", label="identity: no change"))
    for (first, _), point in zip(published, reference, strict=True):
        axes.scatter(*point, s=60, marker=LOOKS[first.kind].marker, facecolors="none", edgecolors="black", linewidths=1.1, zorder=4)
    if published:
        text = "published (challenge's own data)"
        handles.append(Line2D([], [], linestyle="", marker="o", markerfacecolor="none", markeredgecolor="black", label=text))
    legend_below(figure, handles, 3)
    n_better = sum(y < x for x, y in zip(pairs.x, pairs.y, strict=True))
    axes.set_title(f"{n_better} of {len(pairs.x)} improved (below the line)", fontsize=9)
    _label(axes, pairs, pairs.x, pairs.y, further=reference)
    return figure
