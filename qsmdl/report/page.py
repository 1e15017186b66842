"""The report of an evaluation: one HTML file with table, figures and linked volume panes that opens from disk, without server or network."""

import hashlib
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch

from qsmdl import __version__
from qsmdl.challenge.joining import JoinedRatings, join_ratings
from qsmdl.challenge.metrics import nrmse
from qsmdl.challenge.ratings import Rating
from qsmdl.errors import InputError
from qsmdl.io.files import write_text
from qsmdl.report.embedding import NIIVUE_VERSION, as_json, check_target, render_page
from qsmdl.report.figures import ERROR_COLOURS, ERROR_WINDOW_PPM, default_slices
from qsmdl.report.pictures import Picture, draw_own_figures, find_pictures, make_montage
from qsmdl.report.rating_page import TITLE, RatingMode, check_key_target, make_rating, write_with_key
from qsmdl.report.rating_table import make_rating_table
from qsmdl.report.result_table import make_result_table
from qsmdl.report.run_folder import Array, Run, ScanMaps, open_scan, read_run
from qsmdl.report.volumes import EmbeddedVolume, affine_of, crop_to, embed_labels, embed_map
from qsmdl.scan import LABELS

_TABLE_SCRIPTS, _PANE_SCRIPTS, _RATING_SCRIPTS = ("table.js",), ("volumes.js", "panes.js", "viewer.js"), ("rating.js", "doors.js")
LARGEST_BYTES = 60 * 10**6
"""What a report of six methods on two scans at full size stays below; beyond it browsers get slow."""
_MAX_NOTE_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: the file, its size, the largest quantisation step of its volumes in ppm (0 without volumes), and the key to the codes where
    the report can be rated in.
    """

    path: Path
    n_bytes: int
    step_ppm: float
    key_path: Path | None = None


@dataclass(frozen=True, slots=True)
class _Scan:
    """A scan as the page embeds it. content: for the script; volumes: (element id, base64); labels: those inside the mask."""

    content: dict[str, Any]
    volumes: list[tuple[str, str]]
    notes: list[str]
    step_ppm: float
    labels: frozenset[int]


def _error_of(chi: Array, scan: ScanMaps) -> float | None:
    if scan.truth is None:
        return None
    filled = np.nan_to_num(chi.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return nrmse(filled, scan.truth.chi_ppm.numpy().astype(np.float64), scan.mask)


def _placement(scan: ScanMaps) -> dict[str, Any]:
    """centre_mm: where the crosshair starts, which is where the montage cuts; mm_to_voxel: 3 x 4, from mm to voxels of the cropped volumes."""
    affine = affine_of(scan.geometry)
    cropped = affine_of(scan.geometry.cropped(crop_to(scan.mask)))
    centre = (affine @ [*default_slices(scan.mask), 1.0])[:3]
    return {"centre_mm": centre.tolist(), "mm_to_voxel": np.linalg.inv(cropped)[:3].tolist()}


def _embed_scan(scan: ScanMaps, index: int) -> _Scan:
    volumes: dict[str, EmbeddedVolume] = {f"volume-{index}-mask": embed_labels(scan.mask.astype(np.uint8), scan.mask, scan.geometry)}
    content: dict[str, Any] = {"name": scan.name, "mask": f"volume-{index}-mask", "truth": None, "labels": None} | _placement(scan)
    if scan.truth is not None:
        content["truth"], content["labels"] = f"volume-{index}-truth", f"volume-{index}-labels"
        volumes[content["truth"]] = embed_map(scan.truth.chi_ppm.numpy(), scan.mask, scan.geometry)
        volumes[content["labels"]] = embed_labels(scan.truth.labels.numpy(), scan.mask, scan.geometry)
    content["maps"] = []
    notes = []
    for number, method in enumerate(scan.paths):
        chi, element = scan.read(method), f"volume-{index}-{number}"
        volumes[element] = embed_map(chi, scan.mask, scan.geometry)
        content["maps"].append({"name": method, "volume": element, "nrmse": _error_of(chi, scan)})
        if volumes[element].n_invalid:
            notes.append(f"{method} on {scan.name}: {volumes[element].n_invalid} NaN or infinite voxels inside the mask are shown as 0.")
    labels = frozenset() if scan.truth is None else frozenset(np.unique(scan.truth.labels.numpy()[scan.mask]).tolist())
    texts = [(name, volume.text) for name, volume in volumes.items()]
    return _Scan(content, texts, notes, max(volume.step_ppm for volume in volumes.values()), labels)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _made_from(path: Path) -> str:
    """The settings that the evaluation noted beside a map, as text."""
    note = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    if not note.is_file() or note.stat().st_size > _MAX_NOTE_BYTES:
        return ""
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return ""
    made = content.get("made_from") if isinstance(content, dict) else None
    text = json.dumps(made, ensure_ascii=False, sort_keys=True) if made else ""
    return text.encode("utf-8", "replace").decode()  # JSON may hold halves of characters, which no page can


def _provenance(run: Run, truth: str, step_ppm: float) -> dict[str, Any]:
    versions = [("qsmdl", __version__), ("Python", platform.python_version()), ("PyTorch", torch.__version__), ("NumPy", np.__version__)]
    versions += [("Matplotlib", mpl.__version__), ("NiiVue", NIIVUE_VERSION)]
    seeds = sorted({str(row["seed"]) for row in run.rows if row["seed"] is not None})
    files = [(path.name, _digest(path), _made_from(path)) for paths in run.maps.values() for path in paths.values()]
    return {
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "folder": run.folder.resolve().name,
        "versions": versions,
        "seeds": ", ".join(seeds) or "none given",
        "truth": truth,
        "step": f"{step_ppm:.2g}",
        "files": files,
        "settings": run.settings,
    }


def _viewer_data(scans: Sequence[_Scan]) -> dict[str, Any]:
    return {
        "window_ppm": ERROR_WINDOW_PPM,
        "error_colours": [[position, *(int(colour[i : i + 2], 16) for i in (1, 3, 5))] for position, colour in ERROR_COLOURS],
        "labels": {str(number): name.replace("_", " ") for name, number in LABELS.items() if any(number in scan.labels for scan in scans)},
        "scans": [scan.content for scan in scans],
    }


def _pictures(run: Run, opened: Iterable[ScanMaps]) -> list[Picture]:
    pictures = find_pictures(run.folder, list(run.maps))
    shown = {picture.scan for picture in pictures}
    return [make_montage(scan) for scan in opened if scan.name not in shown] + pictures


def _truth_text(scans: Sequence[ScanMaps], release: Path | None) -> str:
    if not any(scan.truth is not None for scan in scans):
        return "none at hand (blind scans)" if scans else "not part of this report"
    return "kept by the evaluation" if release is None else f"release folder {release.resolve().name}"


def _join(run: Run, ratings: Sequence[Rating]) -> JoinedRatings:
    joined = join_ratings(run.rows, ratings)
    if ratings and not joined.used:
        raise InputError(f"None of the {len(ratings)} ratings belongs to {run.folder}: {'; '.join(joined.problems)}. Name the ratings of its maps.")
    return joined


def _context(run: Run, opened: Sequence[ScanMaps], scans: Sequence[_Scan], joined: JoinedRatings, release: Path | None) -> dict[str, Any]:
    """What the template shows of the results."""
    own = draw_own_figures(run.rows, joined.visual)
    return {
        "title": f"qsmdl report: {run.folder.resolve().name}",
        "table": make_result_table(run.rows),
        "pictures": [*_pictures(run, opened), *own.pictures],
        "not_drawn": own.left_out,
        "scans": scans,
        "masks": [(scan.name, scan.mask_source) for scan in opened],
        "data": as_json(_viewer_data(scans)),
        "provenance": _provenance(run, _truth_text(opened, release), _step_of(scans)),
        "ratings": make_rating_table(joined.used),
        "rating_notes": joined.problems,
    }


def _step_of(scans: Sequence[_Scan]) -> float:
    return max((scan.step_ppm for scan in scans), default=0.0)


def _render(context: dict[str, Any], rating: RatingMode | None) -> str:
    scripts = (*_TABLE_SCRIPTS, *(_PANE_SCRIPTS if context["scans"] else ()), *(_RATING_SCRIPTS if rating else ()))
    told = {"rating": None} if rating is None else {"rating": as_json(rating.content), "rating_page": rating.page, "rating_title": TITLE}
    return render_page("report.html.j2", context | told, scripts=scripts, with_niivue=bool(context["scans"]))


def write_report(
    path: Path | str,
    run_folder: Path | str,
    *,
    release: Path | str | None = None,
    ratings: Sequence[Rating] = (),
    scans: Sequence[str] = (),
    with_maps: bool = True,
    with_rating: bool = False,
    overwrite: bool = False,
) -> Written:
    """Writes the report of an evaluation's folder: everything in one HTML file.

    release: a folder in the challenge's layout with the truths of the scans; None takes those that the evaluation kept. ratings: visual ratings to
    show. scans: whose maps are shown and rated (all where empty). with_maps: false for table and figures alone. with_rating: the page opens on a
    start screen, from which maps are rated blind or the results are opened; the key to the blind codes goes beside the page.
    The maps are quantised to steps of 1e-4 ppm inside the mask and 0 outside (`volumes.embed_map`).
    Raises InputError before anything is written: not a run's folder, rows without maps, grids that differ, a release without the truth, a picture
    that is none, ratings of other maps, an existing target; with_rating without maps or truths.
    """
    path, place = Path(path), None if release is None else Path(release)
    check_target(path, overwrite)
    if with_rating:
        check_key_target(path, overwrite)
        if not with_maps:
            raise InputError("with_rating is of no use without maps, which are what is rated. Leave one of the two out.")
    run = read_run(run_folder, with_maps=with_maps, scans=scans)
    joined = _join(run, ratings)
    opened = [open_scan(run, name, release=place) for name in run.maps]
    rating = make_rating(run, opened) if with_rating else None
    embedded = [_embed_scan(scan, index) for index, scan in enumerate(opened)]
    html = _render(_context(run, opened, embedded, joined, place), rating)
    key_path = None
    if rating is None:
        write_text(path, html, overwrite)
    else:
        key_path = write_with_key(path, html, rating, overwrite)
    return Written(path, path.stat().st_size, _step_of(embedded), key_path)
