"""The montage of the best five: their maps with the truth and the difference maps, where the maps are at hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qsmdl.challenge.kept_truth import FOLDER as KEPT_TRUTHS
from qsmdl.challenge.ranking import N_BEST, Entry, Standing
from qsmdl.challenge.release import find_scans
from qsmdl.challenge.truth import read_truth
from qsmdl.errors import InputError
from qsmdl.io.checks import check_same_grid
from qsmdl.io.nifti import SUFFIXES, read_volume
from qsmdl.report.figures import montage
from qsmdl.report.gallery import Drawn, Gallery
from qsmdl.scan import Truth


def _stems(entry: Entry, scan: str, stage: int | None) -> list[str]:
    """How the file of a map is called: as evaluate.py writes it, or as the challenge wants submissions to."""
    own = [f"{scan}_{entry.method}"]
    return own if stage is None else [*own, f"{entry.method}_{scan}_Step{stage}"]


def index_maps(folders: Sequence[Path]) -> dict[str, Path]:
    """Every NIfTI file in the folders, and in their sub-folders `maps`, by its name without suffix.

    Names are looked up here instead of made into paths, as they come from files. Raises InputError: a folder that is none, one name twice.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder. --maps names the folder of an evaluation, or one with SCAN_METHOD.nii.gz files.")
        for path in sorted([*folder.iterdir(), *((folder / "maps").iterdir() if (folder / "maps").is_dir() else ())]):
            suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)
            if suffix is None:
                continue
            stem = path.name.removesuffix(suffix)
            if stem in found:
                raise InputError(f"{path} and {found[stem]} are both maps called {stem}. Pass folders in which each map is once.")
            found[stem] = path
    return found


def check_folders(folders: Sequence[Path], release: Path | None) -> None:
    """Raises InputError for folders of maps (`index_maps`) or a release that are none, before anything is drawn."""
    if release is not None and not release.is_dir():
        raise InputError(f"{release} is not a folder. --truth names the release that the maps were made from.")
    index_maps(folders)


def find_scan_truth(scan: str, release: Path | None, folders: Sequence[Path]) -> Truth:
    """The truth of a scan: of the release, or as evaluations kept it beside their maps. Raises InputError where there is none."""
    if release is not None:
        return read_truth(find_scans(release, names=[scan])[0].folder)
    kept = [base / KEPT_TRUTHS for folder in folders for base in (folder, folder.resolve().parent)]
    place = next((path for root in kept if root.is_dir() for path in root.iterdir() if path.name == scan), None)
    if place is None:
        raise InputError(f"No truth of {scan} lies beside the maps. Name the release that they were made from with --truth.")
    return read_truth(place)


def _read_maps(best: Sequence[Entry], scan: str, standing: Standing, maps: dict[str, Path], truth: Truth) -> dict[str, Any]:
    arrays = {}
    for entry in best:
        path = next((maps[stem] for stem in _stems(entry, scan, standing.stage) if stem in maps), None)
        if path is None:
            raise InputError(f"The folders of --maps hold no map of {entry.name} on {scan} ({scan}_{entry.method}.nii.gz).")
        volume, _ = read_volume(path, ndim=3)
        check_same_grid(path, tuple(volume.shape), Path(f"the truth of {scan}"), truth.geometry.shape)
        arrays[entry.name] = volume.numpy()
    return arrays


def _montage_scan(gallery: Gallery, standing: Standing, scan: str, maps: dict[str, Path], truth: Truth) -> None:
    best = [entry for entry in standing.entries if entry.nrmse is not None][:N_BEST]
    arrays = _read_maps(best, scan, standing, maps, truth)
    suffix = "" if standing.stage is None else f"_stage{standing.stage}"
    safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in scan)
    paths = tuple(gallery.folder / f"best_maps_{safe}{suffix}.{kind}" for kind in ("png", "svg"))
    geometry = truth.geometry
    for path in paths:
        montage(
            path, arrays, mask=truth.mask.numpy(), voxel_size_mm=geometry.voxel_size_mm, truth=truth.chi_ppm.numpy(), affine=geometry.affine,
            overwrite=gallery.overwrite,
        )  # fmt: skip
    gallery.drawn.append(Drawn(paths[0].stem, f"Maps on {scan} of the lowest NRMSE (up to five algorithms), with the truth and their errors.", paths))


def draw_best_maps(gallery: Gallery, standing: Standing, folders: Sequence[Path], release: Path | None) -> None:
    """Adds a montage of the best five for each scan of a standing; a scan without truth, or without the map of one of the five, is left out.

    folders: with the maps (`index_maps`); release: with the truths, or None for those that evaluations kept.
    Raises InputError: folders that are none.
    """
    check_folders(folders, release)
    maps = index_maps(folders)
    for scan in standing.scans:
        try:
            _montage_scan(gallery, standing, scan, maps, find_scan_truth(scan, release, folders))
        except InputError as error:
            gallery.left_out.append((f"best_maps_{scan}", str(error)))
