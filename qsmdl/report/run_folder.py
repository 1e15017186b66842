"""What an evaluation left in its folder: rows.json, maps/SCAN_METHOD.nii.gz, figures, settings, and truth/SCAN where it was kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsmdl.challenge.kept_truth import FOLDER
from qsmdl.challenge.protocol import Row
from qsmdl.challenge.truth import find_truth, read_truth, truth_places
from qsmdl.errors import InputError
from qsmdl.io.checks import check_same_grid
from qsmdl.io.nifti import HeaderInfo, find_nifti, has_nifti, read_header, read_volume
from qsmdl.report.table import read_rows
from qsmdl.scan import Geometry, Truth

Array = NDArray[Any]
_SETTINGS_FILES = (".hydra/config.yaml", ".hydra/overrides.yaml", "protocol.json")
_MAX_SETTINGS_BYTES = 200_000


@dataclass(frozen=True, slots=True)
class Run:
    """An evaluation's folder: its rows, scan -> method -> file of the map, and settings (file name, text)."""

    folder: Path
    rows: Sequence[Row]
    maps: Mapping[str, Mapping[str, Path]]
    settings: Sequence[tuple[str, str]]


@dataclass(frozen=True, eq=False, slots=True)
class ScanMaps:
    """The maps of one scan. mask [x, y, z] bool; mask_source: where it came from, in words; geometry: that of the maps' files; truth: or None."""

    name: str
    paths: Mapping[str, Path]
    geometry: Geometry
    mask: NDArray[np.bool_]
    mask_source: str
    truth: Truth | None

    def read(self, method: str) -> Array:
        """A map [x, y, z] in ppm, float32."""
        return read_volume(self.paths[method], ndim=3)[0].numpy()


def _as_file_name(name: str, what: str, source: Path) -> str:
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise InputError(f"{source} holds the {what} {name!r}, which is no file name, so its maps cannot be found. Rename it in the rows.")
    return name


def _find_map(folder: Path, row: Row, source: Path) -> Path:
    stem = f"{_as_file_name(row['scan'], 'scan', source)}_{_as_file_name(row['method'], 'method', source)}"
    if not has_nifti(folder, stem):
        raise InputError(
            f"{source} has a row of {row['method']} on {row['scan']}, but {folder / stem}.nii.gz does not exist. "
            "Put the map there, remove the row, or make a report without maps (--without-maps)."
        )
    return find_nifti(folder, stem)


def _read_settings(folder: Path) -> list[tuple[str, str]]:
    found = []
    for name in _SETTINGS_FILES:
        path = folder / name
        if path.is_file() and path.stat().st_size <= _MAX_SETTINGS_BYTES:
            found.append((name, path.read_text(encoding="utf-8", errors="replace")))
    return found


def _find_maps(folder: Path, rows: Sequence[Row], scans: Sequence[str], source: Path) -> dict[str, dict[str, Path]]:
    if not (folder / "maps").is_dir():
        raise InputError(f"{folder} holds no folder maps, as evaluate.py writes it. Name its folder, or pass --without-maps.")
    known = list(dict.fromkeys(row["scan"] for row in rows))
    unknown = [scan for scan in scans if scan not in known]
    if unknown:
        raise InputError(f"{source} has no row on {unknown[0]!r}; its scans are {', '.join(known)}. Choose among these with --scans.")
    maps: dict[str, dict[str, Path]] = {}
    for row in rows:
        if row["scan"] in (scans or known):
            maps.setdefault(row["scan"], {})[row["method"]] = _find_map(folder / "maps", row, source)
    return maps


def read_run(folder: Path | str, *, with_maps: bool = True, scans: Sequence[str] = ()) -> Run:
    """Reads the rows of an evaluation's folder and finds the map of each.

    with_maps: false where only table and figures are wanted; scans: whose maps are wanted (all where empty).
    Raises InputError: no such folder, no rows.json, rows that are none, a row without a map, a scan without rows.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Name the folder that evaluate.py wrote (it holds rows.json and maps).")
    source = folder / "rows.json"
    if not source.is_file():
        raise InputError(f"{folder} holds no rows.json, so it is not the folder of an evaluation. Name the folder that evaluate.py wrote.")
    rows = read_rows(source)
    if not rows:
        raise InputError(f"{source} holds no rows, so there is nothing to report. Evaluate at least one method.")
    maps = _find_maps(folder, rows, scans, source) if with_maps else {}
    return Run(folder, rows, maps, _read_settings(folder))


def _find_truth(run: Run, scan: str, release: Path | None) -> Truth | None:
    if release is not None:
        if not (release / scan).is_dir() or find_truth(release / scan) is None:
            places = ", ".join(str(place) for place in truth_places(release / scan))
            raise InputError(f"{release} holds no truth of {scan}: neither of {places} holds Chi. Name the release that was evaluated.")
        return read_truth(release / scan)
    kept = run.folder / FOLDER / scan
    return read_truth(kept) if kept.is_dir() else None


def _seen(paths: Mapping[str, Path]) -> NDArray[np.bool_]:
    """Where any map is not 0: the best guess at the mask of a blind scan."""
    seen: NDArray[np.bool_] | None = None
    for path in paths.values():
        here = read_volume(path, ndim=3)[0].numpy() != 0
        seen = here if seen is None else seen | here
    if seen is None or not seen.any():
        raise InputError(f"{next(iter(paths.values()))} and the other maps of its scan are 0 everywhere, so there is nothing to show.")
    return seen


def _check_grids(headers: Mapping[str, HeaderInfo], truth: Truth | None, scan: str) -> HeaderInfo:
    first = next(iter(headers.values()))
    for header in headers.values():
        check_same_grid(first.path, first.shape, header.path, header.shape)
        if not np.allclose(header.affine, first.affine, atol=1e-3):
            raise InputError(
                f"{header.path} has the affine {header.affine.tolist()}, but {first.path} has {first.affine.tolist()}: "
                "they lie differently in space. Write all maps of a scan with the scan's header."
            )
    if truth is not None and truth.geometry.shape != tuple(first.shape[:3]):
        raise InputError(
            f"The truth of {scan} has the shape {truth.geometry.shape}, but {first.path} has {first.shape}; they must lie on one grid. "
            "Name the release that was evaluated."
        )
    return first


def open_scan(run: Run, scan: str, *, release: Path | str | None = None) -> ScanMaps:
    """The maps of one scan with mask and truth, checked to lie on one grid.

    release: a folder in the challenge's layout that holds the truths; None takes those that the evaluation kept, if it did.
    Raises InputError naming the file: unreadable, maps on different grids, a release without this truth, or with a truth on another grid.
    """
    paths = run.maps[scan]
    truth = _find_truth(run, scan, None if release is None else Path(release))
    header = _check_grids({method: read_header(path) for method, path in paths.items()}, truth, scan)
    x, y, z = header.shape[:3]
    geometry = Geometry((x, y, z), header.voxel_size_mm, affine=header.affine)
    if truth is None:
        return ScanMaps(scan, paths, geometry, _seen(paths), "voxels where any map is not 0 (no truth, no mask at hand)", None)
    return ScanMaps(scan, paths, geometry, truth.mask.numpy(), "mask of the metrics", truth)
