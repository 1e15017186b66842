"""The correlation matrix of all metrics."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from qsmdl.challenge.ranking import KNOWN_METRICS, Entry
from qsmdl.errors import InputError
from qsmdl.report.style import new_figure

MAX_NRMSE = 80.0
"""Submissions above say nothing about how metrics agree: they failed (rc2: NRMSE < 80 %)."""
MIN_SUBMISSIONS = 3
VISUAL = "visual"
Columns = dict[str, NDArray[np.float64]]


def included(entries: Sequence[Entry]) -> list[Entry]:
    """The entries that the matrix is made of."""
    return [entry for entry in entries if entry.nrmse is not None and entry.nrmse < MAX_NRMSE]


def metric_columns(entries: Sequence[Entry]) -> Columns:
    """Every metric that at least three entries have, [entry], NaN where undefined; the mean visual score last."""
    columns = {key: [entry.metrics.get(key) for entry in entries] for key in KNOWN_METRICS} | {VISUAL: [entry.visual for entry in entries]}
    arrays = {key: np.array([np.nan if value is None else value for value in column]) for key, column in columns.items()}
    return {key: array for key, array in arrays.items() if int(np.isfinite(array).sum()) >= MIN_SUBMISSIONS}


def _pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    both = np.isfinite(a) & np.isfinite(b)
    if int(both.sum()) < MIN_SUBMISSIONS:
        return float("nan")
    x, y = a[both] - a[both].mean(), b[both] - b[both].mean()
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norm if norm > 0 else float("nan")


def correlations(columns: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Pearson's correlation of each pair of columns over the entries that have both; NaN for fewer than three, or a column without variation."""
    values = list(columns.values())
    return np.array([[_pearson(a, b) for b in values] for a in values])


def _names(keys: Sequence[str]) -> list[str]:
    """Metrics where higher is better carry an arrow: their correlation with the others is negative when they agree."""
    names = []
    for key in keys:
        if key == VISUAL:
            names.append("Visual")
        else:
            names.append(KNOWN_METRICS[key].short + ("" if KNOWN_METRICS[key].lower_is_better else " ↑"))
    return names


def _write_values(axes: Axes, matrix: NDArray[np.float64]) -> None:
    for (row, column), value in np.ndenumerate(matrix):
        text, colour = ("–", "black") if np.isnan(value) else (f"{value:.2f}", "white" if abs(value) > 0.6 else "black")  # noqa: RUF001
        axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=colour)


def correlation_figure(entries: Sequence[Entry], *, title: str, note: str = "") -> Figure:
    """Pearson's correlation of all metrics (and the visual score) over the entries with an NRMSE below 80 %.

    Raises InputError: fewer than three such entries.
    """
    chosen = included(entries)
    if len(chosen) < MIN_SUBMISSIONS:
        raise InputError(f"A correlation needs at least {MIN_SUBMISSIONS} algorithms with an NRMSE below {MAX_NRMSE:g} %; there are {len(chosen)}.")
    columns = metric_columns(chosen)
    matrix, names = correlations(columns), _names(list(columns))
    size = 2.6 + 0.52 * len(names)
    line = f"Pearson's correlation over {len(chosen)} algorithms with NRMSE < {MAX_NRMSE:g} %"
    arrows = "; ↑ marks metrics where higher is better" if any("↑" in name for name in names) else ""
    figure = new_figure(max(size + 0.6, 6.4), size, title, f"{line}{arrows}" + (f"\n{note}" if note else ""))
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(matrix), cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_facecolor("#DDDDDD")
    _write_values(axes, matrix)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("correlation (no unit)", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return figure
