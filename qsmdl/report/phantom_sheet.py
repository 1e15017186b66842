"""Pictures of what a recipe draws: a contact sheet of samples, and histograms of drawn values in their ranges."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from qsmdl.errors import InputError
from qsmdl.io.files import atomic_path
from qsmdl.phantom.drawing.ranges import Range
from qsmdl.scan import Scan, Truth

_COLUMNS = 5
_WINDOW_PPM = 0.2
_PERCENTILE = 99.5


@dataclass(frozen=True, eq=False, slots=True)
class Specimen:
    """One drawn sample: its scan, its truth, and what to write below."""

    scan: Scan
    truth: Truth
    caption: str


def _middle(mask: NDArray[np.bool_]) -> int:
    """The axial slice with the most mask."""
    return int(np.argmax(mask.sum((0, 1))))


def _cut(volume: NDArray[Any], index: int) -> NDArray[Any]:
    return np.flipud(volume[:, :, index].T)


def _show(axes: Axes, image: NDArray[Any], low: float, high: float, aspect: float) -> None:
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="nearest")
    axes.set_axis_off()


def contact_sheet(path: Path | str, specimens: Sequence[Specimen], *, overwrite: bool = False) -> None:
    """Axial slices of every sample, chi within +-0.2 ppm beside the first echo's magnitude and the last echo's phase, as PNG.

    The slice is that with the most mask. Raises InputError without samples.
    """
    if not specimens:
        raise InputError("There is no sample to show. Draw at least one.")
    rows = math.ceil(len(specimens) / _COLUMNS)
    figure = Figure(figsize=(4.1 * _COLUMNS, 1.85 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    cells = figure.subplots(rows, 3 * _COLUMNS, squeeze=False)
    for axes in cells.flat:
        axes.set_axis_off()
    for number, specimen in enumerate(specimens):
        row, first = number // _COLUMNS, 3 * (number % _COLUMNS)
        scan, index = specimen.scan, _middle(specimen.truth.mask.cpu().numpy())
        aspect = scan.geometry.voxel_size_mm[1] / scan.geometry.voxel_size_mm[0]
        magnitude = _cut(scan.magnitude[0].cpu().numpy(), index)
        _show(cells[row, first], _cut(specimen.truth.chi_ppm.cpu().numpy(), index), -_WINDOW_PPM, _WINDOW_PPM, aspect)
        _show(cells[row, first + 1], magnitude, 0.0, float(np.percentile(magnitude, _PERCENTILE)) or 1.0, aspect)
        _show(cells[row, first + 2], _cut(scan.phase_rad[-1].cpu().numpy(), index), -math.pi, math.pi, aspect)
        cells[row, first].set_title(specimen.caption, fontsize=6.5, loc="left", pad=2)
    with atomic_path(Path(path), overwrite=overwrite) as target:
        figure.savefig(target, format="png", dpi=110)


def range_histograms(path: Path | str, drawn: Mapping[str, tuple[Sequence[float], Range]], *, overwrite: bool = False) -> None:
    """A histogram of the drawn values of each quantity over its shaded range, as PNG; wide ranges of positive numbers have a logarithmic axis.

    drawn: name with unit -> values and range. Raises InputError where there is nothing to show.
    """
    shown = {name: (np.asarray(values, dtype=float), ends) for name, (values, ends) in drawn.items() if len(values)}
    if not shown:
        raise InputError("No value was drawn. Switch an effect on, or draw more samples.")
    rows = math.ceil(len(shown) / _COLUMNS)
    figure = Figure(figsize=(3.0 * _COLUMNS, 1.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    cells = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes in cells.flat[len(shown) :]:
        axes.set_axis_off()
    for axes, (name, (values, (low, high))) in zip(cells.flat, shown.items(), strict=False):
        logarithmic = low > 0 and high / low >= 10
        outside = int(((values < low - 1e-9) | (values > high + 1e-9)).sum())
        ends = (min(low, values.min()), max(high, values.max()))
        if ends[0] == ends[1]:
            ends = (ends[0] - 0.5, ends[1] + 0.5)
        bins = np.geomspace(*ends, 25) if logarithmic else np.linspace(*ends, 25)
        axes.axvspan(low, high, color="#e8e8e8")
        axes.hist(values, bins=bins, color="#2f86c9")
        axes.set_xscale("log" if logarithmic else "linear")
        axes.set_title(f"{name}: {len(values)} drawn" + (f", {outside} outside" if outside else ""), fontsize=7)
        axes.tick_params(labelsize=6, which="both")
        axes.set_yticks([])
    with atomic_path(Path(path), overwrite=overwrite) as target:
        figure.savefig(target, format="png", dpi=110)
