"""Convergence curves of iterative methods."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from qsmdl.errors import InputError
from qsmdl.io.files import atomic_path


def plot_curves(path: Path | str, curves: Mapping[str, Sequence[float]], *, overwrite: bool = False) -> None:
    """Writes a picture with one panel per method: its own measure (relative change of a solver, objective of FINE) against the step, logarithmic.

    Raises InputError: no curves, or an existing target.
    """
    if not curves:
        raise InputError("There are no curves to plot. Pass the curve of at least one iterative method.")
    figure = Figure(figsize=(4.2 * len(curves), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for i, (name, values) in enumerate(curves.items()):
        axes = figure.add_subplot(1, len(curves), i + 1)
        axes.plot(range(len(values)), values, marker="." if len(values) < 60 else None, linewidth=1)
        axes.set_yscale("log")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("step (number)")
        axes.set_ylabel("relative change of chi (no unit)" if name not in ("fine", "flagship_fine") else "objective (rad²)")
        axes.grid(visible=True, alpha=0.3)
    with atomic_path(path, overwrite) as hidden:
        figure.savefig(hidden, dpi=120)
