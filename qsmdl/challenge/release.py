"""Finding the scans of a release, in both of its forms, or of datasets in the layouts of BIDS and QSM-CI, and checking that they are complete,
without opening a truth.

The challenge handed out `Sim1/`, `Sim2/` (stage 1) and `DatasetsStep2/Sim{1,2}Snr{1,2}/` with `GT/` inside (stage 2); a second form (Donders
collection) keeps the truth in a sibling folder, `Sim2/` and `Sim2GT/`. Any folder of the same layout will do.
Source: QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021;86:1241-1255.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qsmdl.challenge.protocol import parse_scan
from qsmdl.challenge.truth import EVALUATION_FILE, find_truth, truth_places
from qsmdl.errors import InputError
from qsmdl.io import bids_files, layouts, qsm_ci
from qsmdl.io.nifti import SUFFIXES
from qsmdl.io.rc2 import CHI, FREQUENCY, MAGNITUDE, MASK, PHASE, SEGMENTATION, TRUTH_FOLDER
from qsmdl.scan import LABELS, Truth

_SCAN_NAME = re.compile(r"sim[12](snr\d+)?", re.IGNORECASE)
_NEEDED = (PHASE, MAGNITUDE, MASK)
_TELLING = {(stem + suffix).lower() for stem in (PHASE, MAGNITUDE, FREQUENCY) for suffix in SUFFIXES}


@dataclass(frozen=True)
class ReleaseScan:
    """One scan of a release: its name (`layouts.scan_name`), its folder, and whether a truth lies beside it (found, not opened)."""

    name: str
    folder: Path
    has_truth: bool

    @property
    def level(self) -> str | None:
        """The noise level that the name tells, "Snr1" or "Snr2" in stage 2."""
        level = parse_scan(self.name).snr_level
        return None if level is None else f"Snr{level}"


def _looks_like_scan(folder: Path) -> bool:
    """A scan whose files are all there, or one that lost some: by its name or by the files left."""
    if layouts.layout_of(folder) != "rc2":
        return True
    return _SCAN_NAME.fullmatch(folder.name) is not None or _holds_echoes(folder)


def _holds_echoes(folder: Path) -> bool:
    """In upper or lower case: what is spelt otherwise is an error, and must not be overlooked."""
    return any(path.name.lower() in _TELLING for path in folder.iterdir())


def _subfolders(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".") and not path.name.endswith(TRUTH_FOLDER))
    return sorted(found)


def _scan_folders(root: Path) -> list[Path]:
    """The scan that `root` is, or those in it, or in the folders in it."""
    if bids_files.is_dataset(root):
        return bids_files.scan_folders(root)
    if layouts.layout_of(root) != "rc2" or _holds_echoes(root):
        return [root]
    found = []
    for child in _subfolders(root):
        if bids_files.is_dataset(child):
            found += bids_files.scan_folders(child)
            continue
        found += [child] if _looks_like_scan(child) else [path for path in _subfolders(child) if _looks_like_scan(path)]
    return found


def _of_stage(folders: Sequence[Path], stage: int | None) -> list[Path]:
    """Sim1 and Sim2 for stage 1, Sim1Snr1 and so on for stage 2, where a folder holds both; everything where names do not tell."""
    if stage is None:
        return list(folders)
    with_level = [path for path in folders if parse_scan(layouts.scan_name(path)).snr_level is not None]
    without_level = [path for path in folders if path not in with_level]
    return (without_level or with_level) if stage == 1 else (with_level or without_level)


def _named_otherwise(folder: Path, names: Sequence[str]) -> str:
    """What a folder holds in place of the first of some names, differing in upper and lower case only; nothing where there is none."""
    known = {name.lower() for name in names}
    if any((folder / name).exists() for name in names):
        return ""
    return next((path.name for path in sorted(folder.iterdir()) if path.name.lower() in known), "")


def _file_problem(scan: str, folder: Path, stem: str) -> str | None:
    """What is wrong with a volume that must be there, in words."""
    names = [stem + suffix for suffix in SUFFIXES]
    found = [name for name in names if (folder / name).is_file()]
    if len(found) == 1:
        return None
    if found:
        return f"{scan} holds both {' and '.join(found)} in {folder}"
    other = _named_otherwise(folder, names)
    what = stem if folder.name == scan else f"{folder.name}/{stem}"
    return f"{scan} lacks {what} in {folder}" + (f", where {other} is: upper and lower case count" if other else "")


def _optional_problems(folder: Path) -> list[str]:
    """Parts of a scan that need not be there, but are, under a name that would be overlooked."""
    places = truth_places(folder)
    wanted = [(place.parent, [place.name]) for place in places if not any(other.is_dir() for other in places)]
    wanted += [(place, [EVALUATION_FILE]) for place in places if place.is_dir()]
    wanted.append((folder, [FREQUENCY + suffix for suffix in SUFFIXES]))
    found = [(place, names[0], _named_otherwise(place, names)) for place, names in wanted]
    return [f"{folder.name} needs {name} in {place}, where {other} is: upper and lower case count" for place, name, other in found if other]


def _problems(folder: Path) -> list[str]:
    """What is missing, in words. A folder for the truth that holds only half of it counts as incomplete, none at all as a blind scan."""
    layout = layouts.layout_of(folder)
    if layout != "rc2":
        return _problems_elsewhere(folder, layout)
    needed = [(folder, stem) for stem in _NEEDED]
    place = next((place for place in truth_places(folder) if place.is_dir()), None)
    if place is not None:
        needed += [(place, stem) for stem in (CHI, SEGMENTATION)]
    found = (_file_problem(folder.name, where, stem) for where, stem in needed)
    return [problem for problem in found if problem] + _optional_problems(folder)


def _problems_elsewhere(folder: Path, layout: layouts.Layout) -> list[str]:
    """As `_problems`, for a scan of BIDS or QSM-CI."""
    try:
        if layout == "bids":
            bids_files.find_files(folder)
        else:
            qsm_ci.check_files(folder)
    except InputError as error:
        return [str(error).removesuffix(".")]
    return []


def _check_complete(root: Path, folders: Iterable[Path]) -> None:
    problems = [problem for folder in folders for problem in _problems(folder)]
    if problems:
        raise InputError(
            f"The release {root} is incomplete: {'; '.join(problems)}. "
            "Copy the missing files (.nii or .nii.gz), rename or remove the others, or name the complete scans with data.scans."
        )


def _check_names(folders: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for folder in folders:
        name = layouts.scan_name(folder)
        if name in seen:
            raise InputError(f"There are two scans {name}: {seen[name]} and {folder}. Name one of their parent folders as data.root instead.")
        seen[name] = folder


def find_scans(root: str | Path, *, names: Sequence[str] | None = None, stage: int | None = None) -> list[ReleaseScan]:
    """The scans at `root` (one scan, a folder of scans, a BIDS dataset, or a folder of such folders), by name.

    names: those to take, None for all; stage: of the challenge's protocol, whose scans are taken where the folder holds those of both stages.
    No volume is opened. Raises InputError: no folder, no scan, a name that is not there, a name that occurs twice, and files that are missing (which
    of which scan).
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder. data.root names a folder of scans in the challenge's layout.")
    if isinstance(names, str):
        raise InputError(f"data.scans is {names!r}, but must be a list: data.scans=[{names}].")
    folders = [folder.resolve() if folder.name in ("", "..") else folder for folder in _scan_folders(root)]
    if names is not None:
        known = {folder: layouts.scan_name(folder) for folder in folders}
        missing = sorted(set(names) - set(known.values()))
        if missing:
            raise InputError(f"{root} holds no scan {missing[0]!r}; it holds {', '.join(known.values()) or 'none'}.")
        folders = [folder for folder in folders if known[folder] in names]
    else:
        folders = _of_stage(folders, stage)
    if not folders:
        raise InputError(f"{root} holds no scan: a scan is a folder with Phase, Magnitude and MaskBrainExtracted as .nii or .nii.gz.")
    _check_complete(root, folders)
    _check_names(folders)
    found = [ReleaseScan(layouts.scan_name(folder), folder, find_truth(folder) is not None) for folder in folders]
    return sorted(found, key=lambda scan: scan.name)


def check_truth(scan: ReleaseScan, truth: Truth) -> None:
    """Raises InputError where a truth cannot belong to its scan: Sim2 without its calcification."""
    if parse_scan(scan.name).simulation == 2 and not bool((truth.labels == LABELS["calcification"]).any()):
        place = find_truth(scan.folder)
        raise InputError(
            f"{scan.name} has no calcification: label {LABELS['calcification']} does not occur in {SEGMENTATION} of {place}, but the challenge's "
            "second simulation has one, and two of its metrics need it. Check that the segmentation is that of Sim2, or rename the scan."
        )
