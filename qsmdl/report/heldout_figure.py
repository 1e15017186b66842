"""The figure of a held-out study: the candidate against the best classical method, scan by scan and region by region."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qsmdl.challenge.heldout import ANISOTROPIC, OBLIQUE
from qsmdl.challenge.heldout_results import CRITERION_METRICS, Results
from qsmdl.challenge.metrics import METRICS
from qsmdl.errors import InputError
from qsmdl.report.style import REFERENCE_COLOUR, legend_below, new_figure, plain_text, tidy

_MARKERS: dict[tuple[str, ...], tuple[str, str]] = {
    (): ("o", "isotropic, B0 along z"),
    (ANISOTROPIC,): ("s", "anisotropic"),
    (OBLIQUE,): ("^", "oblique B0"),
    (ANISOTROPIC, OBLIQUE): ("D", "anisotropic and oblique"),
}
_WIDTH = 0.8


def _colours(peak_snrs: Sequence[float]) -> dict[float, str]:
    """From dark to light with the SNR: an ordered scale for ordered values."""
    shades = mpl.colormaps["viridis"](np.linspace(0.0, 0.85, len(peak_snrs)))
    return {snr: mpl.colors.to_hex(shade) for snr, shade in zip(peak_snrs, shades, strict=True)}


def _draw_scatter(axes: Axes, results: Results, best: str, colours: dict[float, str]) -> None:
    tidy(axes)
    seen = []
    for number in results.phantoms:
        marker = _MARKERS[results.traits(number)][0]
        for snr, colour in colours.items():
            x, y = (results.value(name, "rmse", number, snr) for name in (best, results.candidate))
            if x is not None and y is not None:
                axes.scatter(x, y, s=30, c=colour, marker=marker, edgecolors="white", linewidths=0.5, zorder=3)
                seen += [x, y]
    margin = 0.06 * (max(seen) - min(seen)) or 1.0
    axes.set_xlim(min(seen) - margin, max(seen) + margin)
    axes.set_ylim(min(seen) - margin, max(seen) + margin)
    axes.set_aspect("equal")
    axes.axline((0, 0), slope=1, color=REFERENCE_COLOUR, linewidth=1, linestyle="--", zorder=1)
    axes.set_xlabel(f"NRMSE of {plain_text(best)}, best classical (%)", fontsize=9)
    axes.set_ylabel(f"NRMSE of {plain_text(results.candidate)} (%)", fontsize=9)
    axes.set_title("each phantom and SNR; below the line the candidate is better", fontsize=9)


def _draw_differences(axes: Axes, results: Results, colours: dict[float, str]) -> None:
    """A column for each SNR within each metric: points of the phantoms, a bar at their mean."""
    tidy(axes)
    axes.axhline(0, color=REFERENCE_COLOUR, linewidth=1, linestyle="--", zorder=1)
    labels = []
    for place, key in enumerate(CRITERION_METRICS):
        best = results.best_classical(key)
        labels.append(f"{METRICS[key].short}\nagainst\n{'–' if best is None else plain_text(best)}")  # noqa: RUF001 - a dash, as in tables
        if best is None:
            continue
        for column, (snr, colour) in enumerate(colours.items()):
            mine, theirs = (results.by_phantom(name, key, peak_snrs=(snr,)) for name in (results.candidate, best))
            shared = [number for number in mine if number in theirs]
            differences = [mine[number] - theirs[number] for number in shared]
            if not differences:
                continue
            width = _WIDTH / len(colours)
            x = place - _WIDTH / 2 + (column + 0.5) * width
            # side by side in the order of their numbers: twenty points on one line would hide each other
            places = x + 0.7 * width * (np.arange(len(shared)) + 0.5 - len(shared) / 2) / len(shared)
            for number, at, difference in zip(shared, places, differences, strict=True):
                axes.scatter(at, difference, s=18, c=colour, marker=_MARKERS[results.traits(number)][0], edgecolors="none", alpha=0.6, zorder=3)
            mean = sum(differences) / len(differences)
            axes.hlines(mean, x - 0.45 * width, x + 0.45 * width, color="black", linewidth=1.6, zorder=4)
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylabel("candidate - best classical (percentage points)", fontsize=9)
    axes.set_title("difference of each phantom (points) and mean (bar); below 0 the candidate is better", fontsize=9)


def _handles(results: Results, colours: dict[float, str]) -> list[Line2D]:
    seen = {results.traits(number) for number in results.phantoms}
    shades = [Line2D([], [], linestyle="", marker="o", color=colour, label=f"SNR {snr:g}", markersize=6) for snr, colour in colours.items()]
    shapes = [
        Line2D([], [], linestyle="", marker=marker, markerfacecolor="none", markeredgecolor="black", label=name, markersize=6)
        for traits, (marker, name) in _MARKERS.items()
        if traits in seen
    ]
    return [*shades, *shapes]


def heldout_figure(results: Results) -> Figure:
    """Left NRMSE (%) of the candidate against the best classical method, a point for each phantom and SNR, with the identity line; right the
    difference to the best classical method of each of the criterion's metrics. Colours are SNRs, markers geometries.

    Raises InputError where the candidate or a classical method lacks rows.
    """
    best = results.best_classical("rmse")
    if best is None or not results.has_candidate:
        raise InputError(f"There is nothing to compare {results.candidate} with. Run it and a classical method on every scan.")
    colours = _colours(results.peak_snrs)
    figure = new_figure(12.0, 5.6, f"{plain_text(results.candidate)} on {len(results.phantoms)} held-out phantoms")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.35))
    _draw_scatter(left, results, best, colours)
    _draw_differences(right, results, colours)
    legend_below(figure, _handles(results, colours), 8)
    return figure
