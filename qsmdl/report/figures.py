"""Figures of susceptibility maps."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from nibabel import orientations
from numpy.typing import NDArray

from qsmdl.challenge.metrics import nrmse
from qsmdl.errors import InputError
from qsmdl.io.files import atomic_path

_ORIENTATION: Any = orientations.io_orientation  # nibabel gives these no types
_REORIENT: Any = orientations.apply_orientation
Image = NDArray[np.float64]
Shape = tuple[int, int, int]

ERROR_WINDOW_PPM = 0.1
_INCHES_PER_MM = 0.0115
_MARGIN_VOXELS = 3
_INVALID_COLOUR = "magenta"
# black at 0, so that errors glow on the same background as the maps
ERROR_COLOURS = ((0.0, "#b8eaff"), (0.35, "#2f86c9"), (0.5, "#000000"), (0.65, "#d8402f"), (1.0, "#ffdc9c"))
PLANES = (("axial", 2, ("R", "L")), ("coronal", 1, ("R", "L")), ("sagittal", 0, ("A", "P")))


@dataclass(frozen=True, slots=True)
class _Block:
    """Three rows of slices: (title, volume) of each column from `first_column` on, within +-window_ppm, and what the colour bar says."""

    panels: list[tuple[str, Image]]
    first_column: int
    label: str
    window_ppm: float
    colours: Colormap


def make_colormap(*stops: tuple[float, str]) -> Colormap:
    """A colour map through (position from 0 to 1, colour) stops; invalid voxels stand out."""
    return LinearSegmentedColormap.from_list("qsmdl", list(stops)).with_extremes(bad=_INVALID_COLOUR)


def _array(name: str, volume: Any, shape: tuple[int, ...]) -> Image:
    array = np.asarray(volume, dtype=np.float64)
    if array.shape != shape:
        raise InputError(f"The map {name!r} has the shape {array.shape}, but the mask has {shape}. A montage shows maps on one grid.")
    return array


def _box(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    x, y, z = (slice(max(i.min() - _MARGIN_VOXELS, 0), i.max() + _MARGIN_VOXELS + 1) for i in np.nonzero(mask))
    return x, y, z


class View:
    """Brings volumes to right, anterior, superior axes, cropped to the mask, and cuts three slices in radiological orientation."""

    def __init__(self, mask: NDArray[np.bool_], voxel_size_mm: tuple[float, float, float], affine: Any, slices: Shape | None) -> None:
        self.orientation = _ORIENTATION(np.eye(4) if affine is None else np.asarray(affine, dtype=float))
        position = np.zeros(mask.shape, dtype=bool)
        position[default_slices(mask) if slices is None else slices] = True
        turned = self._turn(mask)
        self.box = _box(turned)
        self.mask = turned[self.box]
        x, y, z = (int(i[0]) - box.start for i, box in zip(np.nonzero(self._turn(position)), self.box, strict=True))
        self.index = (x, y, z)
        sizes = [0.0, 0.0, 0.0]
        for source, (target, _) in enumerate(self.orientation):
            sizes[int(target)] = float(voxel_size_mm[source])
        self.extent_mm = tuple(n * s for n, s in zip(self.mask.shape, sizes, strict=True))

    def _turn(self, volume: NDArray[Any]) -> NDArray[Any]:
        turned: NDArray[Any] = _REORIENT(volume, self.orientation)
        return turned

    def cut(self, volume: Image, plane: int) -> Image:
        """The slice as rows from top to bottom: right (axial, coronal) or anterior (sagittal) on the left. NaN and Inf in the mask stay invalid."""
        volume = self._turn(volume)[self.box]
        volume = np.where(self.mask, np.where(np.isfinite(volume), volume, np.nan), 0.0)
        image: Image = volume.take(self.index[plane], axis=plane).T[::-1, ::-1]
        return image

    def size_mm(self, plane: int) -> tuple[float, float]:
        """Width and height of a plane."""
        width, height = (self.extent_mm[axis] for axis in range(3) if axis != plane)
        return width, height


def default_slices(mask: NDArray[np.bool_]) -> Shape:
    """The middle of the mask's box, a little off the midplane in x, where the deep grey matter lies instead of the falx."""
    i, j, k = (np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    middle = [int(v[0] + fraction * (v[-1] - v[0])) for v, fraction in ((i, 0.4), (j, 0.5), (k, 0.5))]
    return middle[0], middle[1], middle[2]


def _show(axes: Axes, view: View, volume: Image, plane: int, block: _Block) -> Any:
    values = np.ma.masked_invalid(view.cut(volume, plane))
    width, height = view.size_mm(plane)
    extent = (0, width, 0, height)  # in mm: this makes anisotropic voxels appear in their true proportions
    image = axes.imshow(values, cmap=block.colours, vmin=-block.window_ppm, vmax=block.window_ppm, extent=extent, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


def _mark_sides(axes: Axes, sides: tuple[str, str]) -> None:
    for x, side, where in ((0.03, sides[0], "left"), (0.97, sides[1], "right")):
        axes.text(x, 0.97, side, transform=axes.transAxes, ha=where, va="top", color="white", fontsize=8)


def _draw_block(figure: Figure, grid: Any, view: View, block: _Block) -> None:
    image: Any = None
    for row, (plane_name, plane, sides) in enumerate(PLANES):
        for column, (title, volume) in enumerate(block.panels):
            axes = figure.add_subplot(grid[row, block.first_column + column])
            image = _show(axes, view, volume, plane, block)
            if row == 0:
                axes.set_title(title, fontsize=9)
            if column == 0:
                axes.set_ylabel(plane_name, fontsize=9)
                _mark_sides(axes, sides)
    bar = figure.colorbar(image, cax=figure.add_subplot(grid[:, -1]), extend="both")
    bar.set_label(block.label, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _title(name: str) -> str:
    """Wrapped to the width of a column; a dollar sign would start a formula."""
    return "\n".join(textwrap.wrap(name.replace("$", r"\$"), 20)) or " "


def _error_panel(name: str, chi: Image, truth: Image, mask: NDArray[np.bool_]) -> tuple[str, Image]:
    """Map minus truth, both demeaned in the mask as the NRMSE demands; the title gives it. NaN counts as 0 there, but is shown as what it is."""
    filled = np.nan_to_num(chi, nan=0.0, posinf=0.0, neginf=0.0)
    value = nrmse(filled, truth, mask)
    title = _title(name) + ("" if value is None else f"\nNRMSE {value:.1f} %")
    return title, (chi - filled[mask].mean()) - (truth - truth[mask].mean())


def _draw(view: View, blocks: list[_Block]) -> Figure:
    n_columns = max(block.first_column + len(block.panels) for block in blocks)
    width_mm = max(view.size_mm(plane)[0] for _, plane, _ in PLANES)
    heights_mm = [view.size_mm(plane)[1] for _, plane, _ in PLANES]
    scale = _INCHES_PER_MM * max(1.0, 150 / max(width_mm, *heights_mm))  # small volumes are enlarged, or titles would not fit
    # inches: 0.3 for the row names, 0.9 for the colour bar, 0.2 for each line of titles
    width, slices_height = n_columns * width_mm * scale, sum(heights_mm) * scale
    title_heights = [0.2 + 0.15 * max(title.count("\n") + 1 for title, _ in block.panels) for block in blocks]
    total_width, total_height = width + 1.3, sum(title_heights) + len(blocks) * slices_height + 0.25
    figure = Figure(figsize=(total_width, total_height), facecolor="white")
    FigureCanvasAgg(figure)
    top = total_height
    for block, title_height in zip(blocks, title_heights, strict=True):
        top -= title_height
        grid = figure.add_gridspec(
            3, n_columns + 1, width_ratios=[*[1.0] * n_columns, 0.12 / (width_mm * scale)], height_ratios=heights_mm,
            left=0.3 / total_width, right=1 - 0.8 / total_width, top=top / total_height, bottom=(top - slices_height) / total_height,
            wspace=0.03, hspace=0.03,
        )  # fmt: skip
        _draw_block(figure, grid, view, block)
        top -= slices_height
    figure.text(0.3 / total_width, 0.08 / total_height, "Radiological orientation: the patient's right is on the left.", fontsize=7, va="bottom")
    return figure


def montage(
    path: Path | str,
    maps: Mapping[str, Any],
    *,
    mask: Any,
    voxel_size_mm: tuple[float, float, float],
    truth: Any | None = None,
    affine: Any | None = None,
    slices: Shape | None = None,
    window_ppm: float = 0.1,
    overwrite: bool = False,
) -> None:
    """Writes a picture (.png, .pdf or .svg) of susceptibility maps: three orthogonal slices, one column per map, each within +-window_ppm.

    maps: name -> [x, y, z] in ppm; truth: shown as the first column, and a second block of rows then shows each map's error within +-0.1 ppm, both
    demeaned in the mask; None for a blind scan. affine: 4 x 4, tells which axis is left-right; None takes x, y, z as right, anterior, superior.
    slices: voxel indices (x, y, z) of the three slices; None takes the middle of the mask. NaN and Inf inside the mask are magenta.
    Raises InputError: no maps, shapes that differ, empty mask, window not positive, slices outside, an unknown suffix, an existing target.
    """
    path, inside = Path(path), np.asarray(mask) != 0
    _check(path, maps, inside, window_ppm, slices)
    arrays = {name: _array(name, volume, inside.shape) for name, volume in maps.items()}
    view = View(inside, voxel_size_mm, affine, slices)
    panels = [(_title(name), chi) for name, chi in arrays.items()]
    blocks = [_Block(panels, 0, f"susceptibility in ppm, window ±{window_ppm:g}", window_ppm, make_colormap((0.0, "black"), (1.0, "white")))]
    if truth is not None:
        reference = _array("truth", truth, inside.shape)
        panels.insert(0, ("truth", reference))
        errors = [_error_panel(name, chi, reference, inside) for name, chi in arrays.items()]
        label = f"error (demeaned) in ppm, window ±{ERROR_WINDOW_PPM:g}"
        blocks.append(_Block(errors, 1, label, ERROR_WINDOW_PPM, make_colormap(*ERROR_COLOURS)))
    figure = _draw(view, blocks)
    with atomic_path(path, overwrite) as hidden:
        figure.savefig(hidden, dpi=150)


def _check(path: Path, maps: Mapping[str, Any], mask: NDArray[np.bool_], window_ppm: float, slices: Shape | None) -> None:
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise InputError(f"{path} does not end in .png, .pdf or .svg. Change the name.")
    if not maps:
        raise InputError("There are no maps to show. Pass at least one.")
    if mask.ndim != 3 or not mask.any():
        raise InputError(f"The mask has the shape {mask.shape} and {int(mask.sum())} voxels inside; it must be 3-D and hold at least one.")
    if not 0 < window_ppm < np.inf:
        raise InputError(f"window_ppm is {window_ppm}, but must be positive, in ppm. The challenge shows +-0.1.")
    if slices is not None and not all(0 <= i < n for i, n in zip(slices, mask.shape, strict=True)):
        raise InputError(f"slices is {slices}, but must lie inside the volume of shape {mask.shape}, counted from 0.")
