"""Blind rating: maps without names, in an order of the rater's own, the truth among them; the key that resolves the codes is a file of its own.

Source of the procedure: QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021;86:1241-1255. A page of its own (`write_rating_page`) holds no
name of a method, no metric and no hint at which submission is the truth: difference maps, of which the truth has none, go by codes of their own.
`make_rating` is what a report holds beside its results to be rated in too.
"""

import base64
import io
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import Colormap, Normalize
from matplotlib.image import imsave
from numpy.typing import NDArray

from qsmdl import __version__
from qsmdl.challenge.metrics import DEEP_GREY_MATTER
from qsmdl.challenge.ratings import BLIND_PREFIX, DISCREPANCIES, KEY_SUFFIX, SCALES, TRUTH_NAME
from qsmdl.errors import InputError
from qsmdl.io.files import atomic_path
from qsmdl.report.embedding import as_json, check_target, render_page
from qsmdl.report.figures import ERROR_COLOURS, ERROR_WINDOW_PPM, PLANES, Shape, View, default_slices, make_colormap
from qsmdl.report.run_folder import Array, Run, ScanMaps, open_scan, read_run
from qsmdl.scan import LABELS, Truth

Slices = list[str]
"""Three pictures as data URIs: axial, coronal, sagittal."""

TITLE = "Visual rating of susceptibility maps"
QUESTIONS = {
    "streaking": "How strong are streaking artefacts?",
    "unnaturalness": "How unnatural does the map look?",
    "noise": "How noisy is the map?",
}
ANSWERS, YES_NO = ("none", "slight", "moderate", "severe"), ("no", "yes")
_CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # none that look alike
_GREY = make_colormap((0.0, "black"), (1.0, "white"))
_ERROR = make_colormap(*ERROR_COLOURS)


@dataclass(frozen=True, slots=True)
class RatingMode:
    """content: what the script of a page needs; codes: blind code -> name, of maps and of differences, for the key."""

    content: dict[str, Any]
    codes: dict[str, str]

    @property
    def page(self) -> str:
        """Which page ratings and progress belong to."""
        return str(self.content["page"])


@dataclass(frozen=True, slots=True)
class WrittenRating:
    """What was written: the page, the key to its codes, and the page's size."""

    path: Path
    key_path: Path
    n_bytes: int


@dataclass(frozen=True, eq=False, slots=True)
class _Scan:
    """A scan with its truth, and for each category where to cut."""

    maps: ScanMaps
    truth: Truth
    views: Mapping[str, View]

    @property
    def name(self) -> str:
        return self.maps.name


def _centre_of(labels: NDArray[Any], wanted: Sequence[int]) -> Shape | None:
    """The voxel of a region next to its centre of mass, or None where there is no such region."""
    where = np.argwhere(np.isin(labels, wanted))
    if not len(where):
        return None
    i, j, k = where[np.abs(where - where.mean(axis=0)).sum(axis=1).argmin()]
    return int(i), int(j), int(k)


def _views(scan: ScanMaps, truth: Truth) -> dict[str, View]:
    """One view per category: the fixed slices of the montage, and for two regions slices through them. A region that is absent has none."""
    labels = np.where(scan.mask, truth.labels.numpy(), 0)
    regions = {"discrepancy_deep_grey_matter": DEEP_GREY_MATTER, "discrepancy_calcification": (LABELS["calcification"],)}
    views = {}
    for category in (*SCALES, *DISCREPANCIES):
        slices = _centre_of(labels, regions[category]) if category in regions else default_slices(scan.mask)
        if slices is not None:
            views[category] = View(scan.mask, scan.geometry.voxel_size_mm, scan.geometry.affine, slices)
    return views


def _picture(image: NDArray[Any], colours: Colormap) -> str:
    rgb = colours(Normalize(-ERROR_WINDOW_PPM, ERROR_WINDOW_PPM)(np.ma.masked_invalid(image)), bytes=True)[..., :3]
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(rgb), format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _slices(view: View, volume: Array, colours: Colormap) -> Slices:
    return [_picture(view.cut(volume, plane), colours) for _, plane, _ in PLANES]


def _difference(chi: Array, scan: _Scan) -> Array:
    """Map minus truth, both demeaned in the mask, as the NRMSE compares them."""
    truth, filled = scan.truth.chi_ppm.numpy().astype(np.float64), np.nan_to_num(chi.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    difference: Array = (chi - filled[scan.maps.mask].mean()) - (truth - truth[scan.maps.mask].mean())
    return difference


def _codes(names: Sequence[str], taken: Sequence[str]) -> dict[str, str]:
    """Name -> a random code that no other name has."""
    used, codes = set(taken), {}
    for name in names:
        code = BLIND_PREFIX + "".join(secrets.choice(_CODE_LETTERS) for _ in range(6))
        while code in used:
            code = BLIND_PREFIX + "".join(secrets.choice(_CODE_LETTERS) for _ in range(6))
        used.add(code)
        codes[name] = code
    return codes


def _volume_of(scan: _Scan, name: str) -> Array:
    return scan.truth.chi_ppm.numpy() if name == TRUTH_NAME else scan.maps.read(name)


def _collect(scans: Sequence[_Scan], codes: Mapping[str, str], cut: Callable[[_Scan, str], Any]) -> dict[str, Any]:
    """Code -> scan -> pictures, ordered by code, so that the order of the file tells nothing."""
    items = {code: {scan.name: cut(scan, name) for scan in scans if name == TRUTH_NAME or name in scan.maps.paths} for name, code in codes.items()}
    return dict(sorted(items.items()))


def _map_slices(scan: _Scan, name: str) -> Slices:
    return _slices(scan.views[next(iter(SCALES))], _volume_of(scan, name), _GREY)


def _difference_slices(scan: _Scan, name: str) -> dict[str, Slices]:
    difference = _difference(scan.maps.read(name), scan)
    return {category: _slices(scan.views[category], difference, _ERROR) for category in DISCREPANCIES if category in scan.views}


def _ask(where: str) -> str:
    return f"Does the difference from the truth show a discrepancy in {where}? Blue is negative, red is positive."


def _content(scans: Sequence[_Scan], map_codes: Mapping[str, str], difference_codes: Mapping[str, str]) -> dict[str, Any]:
    sizes = {scan.name: [scan.views[next(iter(SCALES))].size_mm(plane) for _, plane, _ in PLANES] for scan in scans}
    return {
        "page": secrets.token_hex(8),
        "window_ppm": ERROR_WINDOW_PPM,
        "scans": [scan.name for scan in scans],
        "planes": [name for name, _, _ in PLANES],
        "sizes_mm": sizes,
        "scales": [{"key": key, "title": key.capitalize(), "question": QUESTIONS[key], "answers": ANSWERS} for key in SCALES],
        "regions": [{"key": k, "title": f"Discrepancy: {where}", "question": _ask(where), "answers": YES_NO} for k, where in DISCREPANCIES.items()],
        "maps": _collect(scans, map_codes, _map_slices),
        "differences": _collect(scans, difference_codes, _difference_slices),
    }


def _with_truths(run: Run, opened: Sequence[ScanMaps]) -> list[_Scan]:
    if any(TRUTH_NAME in maps for maps in run.maps.values()):
        raise InputError(f"{run.folder} has a method called {TRUTH_NAME!r}, which is how ratings call the truth. Rename the method.")
    scans = []
    for maps in opened:
        if maps.truth is None:
            raise InputError(
                f"{run.folder} holds no truth of {maps.name}, and rating hides the truth among the submissions. Name the release: --truth."
            )
        scans.append(_Scan(maps, maps.truth, _views(maps, maps.truth)))
    return scans


def make_rating(run: Run, opened: Sequence[ScanMaps]) -> RatingMode:
    """What raters see of the scans of a run, under codes that are drawn anew each time.

    opened: its scans, all with their truths. Raises InputError: a scan without truth, a method called "truth".
    """
    scans = _with_truths(run, opened)
    methods = list(dict.fromkeys(method for scan in scans for method in scan.maps.paths))
    map_codes = _codes([*methods, TRUTH_NAME], [])
    difference_codes = _codes(methods, list(map_codes.values()))
    codes = {code: name for own in (map_codes, difference_codes) for name, code in own.items()}
    return RatingMode(_content(scans, map_codes, difference_codes), codes)


def key_path_of(path: Path) -> Path:
    """Where the key to the codes of a page goes: page.html has page.key.json beside it."""
    return path.with_name(path.stem + KEY_SUFFIX)


def check_key_target(path: Path, overwrite: bool) -> None:
    """Raises InputError where the key of a page would replace another."""
    if key_path_of(path).exists() and not overwrite:
        raise InputError(f"{key_path_of(path)} exists already: replacing it would make the ratings of that page unreadable. Choose another name.")


def write_with_key(path: Path, html: str, rating: RatingMode, overwrite: bool = False) -> Path:
    """Writes a page and the key to its codes, and returns where the key is. The key is replaced last: should a disk fail, an older one stays.

    Raises InputError as `io.files.atomic_path`.
    """
    key_path = key_path_of(path)
    key = json.dumps({"qsmdl_version": __version__, "page": rating.page, "codes": rating.codes}, indent=2, ensure_ascii=False)
    with atomic_path(key_path, overwrite) as hidden_key, atomic_path(path, overwrite) as hidden:
        hidden_key.write_text(key + "\n", encoding="utf-8", newline="\n")
        hidden.write_text(html, encoding="utf-8", newline="\n")
    return key_path


def write_rating_page(
    path: Path | str,
    run_folder: Path | str,
    *,
    release: Path | str | None = None,
    scans: Sequence[str] = (),
    overwrite: bool = False,
) -> WrittenRating:
    """Writes a page on which maps are rated blind, and beside it `<name>.key.json`, which resolves the codes (keep it from the raters).

    release, scans: as for `page.write_report`; the truth of every scan is needed.
    Raises InputError before anything is written: as `page.write_report`, and as `make_rating`.
    """
    path = Path(path)
    check_target(path, overwrite)
    check_key_target(path, overwrite)
    run = read_run(run_folder, scans=scans)
    rating = make_rating(run, [open_scan(run, name, release=release) for name in run.maps])
    html = render_page("rating.html.j2", {"title": TITLE, "rating_title": TITLE, "rating": as_json(rating.content)}, scripts=("rating.js",))
    key_path = write_with_key(path, html, rating, overwrite)
    return WrittenRating(path, key_path, path.stat().st_size)
