"""How figures of results look: colours that colour-blind readers tell apart, with a marker of its own for each kind of algorithm.

Source of the colours: Okabe M, Ito K. Color Universal Design (2008).
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qsmdl.challenge.protocol import MethodKind
from qsmdl.challenge.ranking import KNOWN_METRICS
from qsmdl.io.files import atomic_path

PNG_DPI = 130
_MAX_NAME = 20


class Look(NamedTuple):
    """Colour, marker and name in the legend of one kind of algorithm."""

    colour: str
    marker: str
    name: str


LOOKS: dict[MethodKind | None, Look] = {
    "direct": Look("#E69F00", "s", "direct"),
    "iterative": Look("#0072B2", "o", "iterative"),
    "deep learning": Look("#009E73", "^", "deep learning"),
    None: Look("#7F7F7F", "D", "kind not stated"),
}
# the best five are told apart by colour, line and marker together
FIVE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
FIVE_LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
FIVE_MARKERS = ("o", "s", "^", "D", "v")
REFERENCE_COLOUR = "#555555"


def plain_text(name: str, longest: int = _MAX_NAME) -> str:
    """A name for a figure: dollar signs start no formula, and what is too long is cut with an ellipsis."""
    short = name if len(name) <= longest else name[: longest - 1] + "…"
    return short.replace("$", r"\$")


def metric_label(key: str, *, short: bool = False) -> str:
    """The name of a metric with its unit in brackets."""
    metric = KNOWN_METRICS[key]
    return f"{metric.short if short else metric.paper} ({'no unit' if metric.unit == '1' else metric.unit})"


def new_figure(width: float, height: float, title: str, note: str = "", *, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """A figure in inches without pyplot's global state; the note (such as the dialect) stands below the title."""
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white", dpi=PNG_DPI)
    FigureCanvasAgg(figure)
    figure.suptitle(title + (f"\n{note}" if note else ""), fontsize=10)
    return figure


def tidy(axes: Axes) -> None:
    """Thin grid behind the data, no box around it."""
    axes.set_axisbelow(True)
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def scatter_by_kind(axes: Axes, x: Sequence[float], y: Sequence[float], kinds: Sequence[MethodKind | None], *, size: float = 28.0) -> None:
    """Points with the colour and the marker of their kind."""
    for kind, look in LOOKS.items():
        chosen = [i for i, own in enumerate(kinds) if own == kind]
        if chosen:
            points = [x[i] for i in chosen], [y[i] for i in chosen]
            axes.scatter(*points, s=size, c=look.colour, marker=look.marker, edgecolors="white", linewidths=0.5, alpha=0.9, zorder=3)


def kind_handles(kinds: Iterable[MethodKind | None]) -> list[Line2D]:
    """Legend entries of the kinds that occur, with their number."""
    kinds = list(kinds)
    return [
        Line2D([], [], linestyle="", marker=look.marker, color=look.colour, label=f"{look.name} (n = {kinds.count(kind)})", markersize=6)
        for kind, look in LOOKS.items()
        if kind in kinds
    ]


def legend_below(figure: Figure, handles: Sequence[Any], n_columns: int = 4) -> None:
    """A legend outside the axes, where it covers nothing."""
    figure.legend(handles=list(handles), loc="outside lower center", ncols=min(len(handles), n_columns), fontsize=8, frameon=False)


@contextmanager
def calm() -> Iterator[None]:
    """Around everything that draws, for the same bytes each time.

    Names may hold characters that the font lacks: an empty box in the figure is enough, a warning for each is not.
    """
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": "qsmdl", "svg.fonttype": "path"}):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def save_figure(figure: Figure, folder: Path, name: str, *, overwrite: bool = False) -> list[Path]:
    """Writes NAME.png and NAME.svg, the same bytes for the same content. Raises InputError as `io.files.atomic_path`."""
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with calm():
        for path in paths:
            with atomic_path(path, overwrite) as hidden:
                figure.savefig(hidden, dpi=PNG_DPI, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
            figure.set_layout_engine("none")  # the second file has the layout of the first
    return paths
