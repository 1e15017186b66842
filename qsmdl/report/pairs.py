"""The pair plot of selected metrics."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qsmdl.challenge.protocol import MethodKind
from qsmdl.challenge.ranking import Entry
from qsmdl.errors import InputError
from qsmdl.report.style import LOOKS, kind_handles, metric_label, new_figure, scatter_by_kind, tidy

PAIRED_METRICS = ("rmse", "rmse_detrend_Tissue", "rmse_detrend_Blood", "rmse_detrend_DGM", "CalcStreak", "DeviationFromCalcMoment")
N_PER_KIND = 20
MIN_SUBMISSIONS = 3


def best_of_each_kind(entries: Sequence[Entry], n: int = N_PER_KIND) -> list[Entry]:
    """The n entries of lowest NRMSE of each kind (those of no stated kind count as one)."""
    ranked = sorted((entry for entry in entries if entry.nrmse is not None), key=lambda entry: entry.nrmse or 0.0)
    counts: dict[MethodKind | None, int] = {}
    chosen = []
    for entry in ranked:
        counts[entry.kind] = counts.get(entry.kind, 0) + 1
        if counts[entry.kind] <= n:
            chosen.append(entry)
    return chosen


def paired_metrics(entries: Sequence[Entry]) -> list[str]:
    """The selected metrics that at least three entries have."""
    return [key for key in PAIRED_METRICS if sum(entry.metrics.get(key) is not None for entry in entries) >= MIN_SUBMISSIONS]


def _draw_pair(axes: Axes, entries: Sequence[Entry], x_key: str, y_key: str) -> None:
    found = [(entry.metrics.get(x_key), entry.metrics.get(y_key), entry.kind) for entry in entries]
    points = [(x, y, kind) for x, y, kind in found if x is not None and y is not None]
    scatter_by_kind(axes, [p[0] for p in points], [p[1] for p in points], [p[2] for p in points], size=20)


def _draw_distribution(axes: Axes, entries: Sequence[Entry], key: str) -> None:
    """A box for each kind: histograms of twenty values show bins rather than algorithms."""
    kinds = [kind for kind in LOOKS if any(entry.kind == kind and entry.metrics.get(key) is not None for entry in entries)]
    for position, kind in enumerate(reversed(kinds)):
        values = [value for entry in entries if entry.kind == kind and (value := entry.metrics.get(key)) is not None]
        look = LOOKS[kind]
        parts = axes.boxplot([values], positions=[position], orientation="horizontal", widths=0.6, patch_artist=True, flierprops={"markersize": 2})
        for box in parts["boxes"]:
            box.set(facecolor=look.colour, alpha=0.75)
        for median in parts["medians"]:
            median.set(color="black")
    axes.set_yticks([])
    axes.set_ylim(-0.6, len(kinds) - 0.4)


def pair_figure(entries: Sequence[Entry], *, title: str, note: str = "") -> Figure:
    """Each selected metric against each other, for the best 20 of each kind; on the diagonal a box plot per kind.

    Raises InputError: fewer than three entries with scores, or fewer than two metrics.
    """
    chosen = best_of_each_kind(entries)
    keys = paired_metrics(chosen)
    if len(chosen) < MIN_SUBMISSIONS or len(keys) < 2:
        raise InputError(f"A pair plot needs {MIN_SUBMISSIONS} algorithms and 2 metrics; there are {len(chosen)} and {len(keys)}.")
    n = len(keys)
    width, height = 0.9 + 1.8 * n, 1.7 + 1.65 * n
    # fixed margins in inches: finding them for every panel takes ten times as long as drawing
    figure = new_figure(width, height, title, note, layout=None)
    margins = {"left": 0.7 / width, "right": 1 - 0.2 / width, "bottom": 0.85 / height, "top": 1 - 0.85 / height}
    grid = figure.subplots(n, n, squeeze=False, gridspec_kw=margins | {"wspace": 0.32, "hspace": 0.42})
    for row, y_key in enumerate(keys):
        for column, x_key in enumerate(keys):
            axes = grid[row][column]
            if column > row:
                axes.set_visible(False)
                continue
            tidy(axes)
            axes.tick_params(labelsize=7)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            if row == column:
                _draw_distribution(axes, chosen, x_key)
            else:
                axes.yaxis.set_major_locator(MaxNLocator(4))
                _draw_pair(axes, chosen, x_key, y_key)
            _label_outer(axes, x_key, y_key, is_bottom=row == n - 1, is_left=column == 0, is_diagonal=row == column)
    handles = kind_handles([entry.kind for entry in chosen])
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), fontsize=8, frameon=False)
    return figure


def _label_outer(axes: Axes, x_key: str, y_key: str, *, is_bottom: bool, is_left: bool, is_diagonal: bool) -> None:
    """Names and units at the left and the bottom of the grid, and above each box plot."""
    if is_bottom:
        axes.set_xlabel(metric_label(x_key, short=True), fontsize=8)
    if is_left and not is_diagonal:
        axes.set_ylabel(metric_label(y_key, short=True), fontsize=8)
    if is_diagonal:
        axes.set_title(metric_label(x_key, short=True), fontsize=8)
