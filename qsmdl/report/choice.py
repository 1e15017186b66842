"""How a setting was chosen without truth: the L-curve, and what the rule looked at."""

from pathlib import Path

from matplotlib.axes import Axes

from qsmdl.io.files import atomic_path
from qsmdl.report.style import FIVE_COLOURS, PNG_DPI, calm, new_figure, plain_text, tidy
from qsmdl.scan import Choice
from qsmdl.selecting.rules import CRITERIA

_TARGETS = {"zero": 0.0, "discrepancy": 1.0}
"""The value that a rule's criterion is to reach."""


def _draw_curve(axes: Axes, choice: Choice, chosen: int) -> None:
    x, y = choice.misfit_ppm, choice.roughness_ppm_per_mm
    axes.plot(x, y, marker="o", markersize=4, linewidth=1, color=FIVE_COLOURS[0])
    axes.plot(x[chosen], y[chosen], marker="*", markersize=14, color=FIVE_COLOURS[1])
    for i in sorted({0, chosen, len(x) - 1}):
        axes.annotate(f"{choice.candidates[i]:.3g}", (x[i], y[i]), textcoords="offset points", xytext=(7, 5), fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("weighted misfit to the field, root mean square (ppm)")
    axes.set_ylabel("mean gradient of the map, sum of components (ppm/mm)")
    axes.margins(0.12)


def _draw_criterion(axes: Axes, choice: Choice, chosen: int) -> None:
    axes.plot(choice.candidates, choice.criterion, marker="o", markersize=4, linewidth=1, color=FIVE_COLOURS[0])
    axes.plot(choice.value, choice.criterion[chosen], marker="*", markersize=14, color=FIVE_COLOURS[1])
    if choice.rule in _TARGETS:
        axes.axhline(_TARGETS[choice.rule], color="#555555", linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    if min(choice.criterion) > 0:
        axes.set_yscale("log")
    axes.set_xlabel(f"{plain_text(choice.parameter)} (unit of the setting)")
    axes.set_ylabel(f"{CRITERIA[choice.rule]} (no unit)")


def plot_choice(path: Path | str, choice: Choice, title: str, *, overwrite: bool = False) -> None:
    """Writes a picture of a choice: the curve of all candidates with the chosen one as a star, and the rule's criterion against the setting.

    Raises InputError as `io.files.atomic_path`.
    """
    chosen = choice.candidates.index(choice.value)
    with calm():
        figure = new_figure(9.0, 3.8, f"{plain_text(title, 60)}: {plain_text(str(choice), 60)}", choice.doubt)
        for i, draw in enumerate((_draw_curve, _draw_criterion)):
            axes = figure.add_subplot(1, 2, i + 1)
            draw(axes, choice, chosen)
            tidy(axes)
            axes.xaxis.label.set_fontsize(8)
            axes.yaxis.label.set_fontsize(8)
        with atomic_path(path, overwrite) as hidden:
            figure.savefig(hidden, dpi=PNG_DPI, metadata={"Software": None})
