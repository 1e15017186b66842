"""Where the files of a multi-echo gradient-echo scan lie in a BIDS dataset, by name alone; no volume is opened.

A scan is the folder of a subject or of one of its sessions: `sub-01/anat/sub-01_echo-1_part-mag_MEGRE.nii.gz`, `..._part-phase_MEGRE.nii.gz` and
their JSON sidecars (Brain Imaging Data Structure 1.10, anatomy imaging data). The brain mask lies among the derivatives:
`derivatives/qsmdl/sub-01/anat/sub-01_mask.nii.gz`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsmdl.errors import InputError
from qsmdl.io.files import read_json
from qsmdl.io.nifti import SUFFIXES

DESCRIPTION, DERIVATIVES, PIPELINE, ANAT = "dataset_description.json", "derivatives", "qsmdl", "anat"
SUFFIX = "MEGRE"
PARTS = ("mag", "phase")
_LABEL = re.compile(r"[A-Za-z0-9]+")


@dataclass(frozen=True)
class BidsName:
    """A file's name taken apart: `sub-01_echo-1_part-mag_MEGRE.nii.gz`. entities: ("sub", "01"), ... in the order of the name."""

    entities: tuple[tuple[str, str], ...]
    suffix: str
    extension: str

    @classmethod
    def parse(cls, name: str) -> "BidsName | None":
        """None for a name that BIDS does not know."""
        stem, dot, extension = name.partition(".")
        *pairs, suffix = stem.split("_")
        entities = tuple((key, value) for key, _, value in (pair.partition("-") for pair in pairs))
        if not dot or not _LABEL.fullmatch(suffix) or not all(_LABEL.fullmatch(key) and _LABEL.fullmatch(value) for key, value in entities):
            return None
        return cls(entities, suffix, f".{extension}")

    def get(self, entity: str) -> str | None:
        """The label of an entity."""
        return dict(self.entities).get(entity)

    @property
    def series(self) -> tuple[tuple[str, str], ...]:
        """What all files of one scan share: the entities but echo and part."""
        return tuple((key, value) for key, value in self.entities if key not in ("echo", "part"))


@dataclass(frozen=True)
class ScanFiles:
    """The files of one scan. magnitude, phase: one for each echo, in their order; mask; field: the local field handed out with the scan, or None."""

    root: Path
    magnitude: tuple[Path, ...]
    phase: tuple[Path, ...]
    mask: Path
    field: Path | None


def is_dataset(folder: Path) -> bool:
    """Whether a folder is the root of a BIDS dataset with subjects."""
    return (folder / DESCRIPTION).is_file() and any(path.is_dir() for path in folder.glob("sub-*"))


def is_scan(folder: Path) -> bool:
    """Whether a folder is that of a subject or session with echoes."""
    place = folder.absolute()
    return place.name.startswith(("sub-", "ses-")) and any(_images(place / ANAT))


def scan_folders(root: Path) -> list[Path]:
    """The folders of all subjects and sessions of a dataset that have echoes."""
    folders = (path for subject in sorted(root.glob("sub-*")) for path in (subject, *sorted(subject.glob("ses-*"))))
    return [path for path in folders if is_scan(path)]


def scan_name(folder: Path) -> str:
    """How tables call a scan: the labels of subject and session, `01` or `01_ses-2`."""
    folder = folder.absolute()
    subject = folder if folder.name.startswith("sub-") else folder.parent
    return subject.name.removeprefix("sub-") + ("" if subject == folder else f"_{folder.name}")


def _root(folder: Path) -> Path:
    return folder.parent if folder.name.startswith("sub-") else folder.parent.parent


def _images(place: Path) -> Iterator[tuple[Path, BidsName]]:
    """The echoes in a folder."""
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        name = BidsName.parse(path.name)
        if name is not None and name.suffix == SUFFIX and name.extension in SUFFIXES:
            yield path, name


def _one_series(folder: Path) -> list[tuple[Path, BidsName]]:
    images = list(_images(folder / ANAT))
    if not images:
        raise InputError(
            f"{folder} holds no multi-echo gradient echo. A BIDS subject's {ANAT}/ has sub-XX_echo-N_part-mag_{SUFFIX}.nii.gz and "
            f"sub-XX_echo-N_part-phase_{SUFFIX}.nii.gz, each with a .json."
        )
    series = sorted({"_".join(f"{key}-{value}" for key, value in name.series) for _, name in images})
    if len(series) > 1:
        raise InputError(f"{folder / ANAT} holds more than one scan: {', '.join(series)}. Copy the one that is meant to a subject of its own.")
    return images


def _echoes(folder: Path, images: Sequence[tuple[Path, BidsName]], part: str) -> dict[int, Path]:
    """The files of one part by echo number."""
    found: dict[int, Path] = {}
    for path, name in images:
        echo = name.get("echo") or ""
        if name.get("part") != part:
            continue
        if not echo.isdigit():
            raise InputError(f"{path} has no echo number. A multi-echo file is called sub-XX_echo-1_part-{part}_{SUFFIX}.nii.gz.")
        if int(echo) in found:
            raise InputError(f"{path} and {found[int(echo)].name} are both echo {int(echo)} of part-{part}. Keep one of them.")
        found[int(echo)] = path
    if not found:
        raise InputError(f"{folder / ANAT} holds no part-{part} of the echoes. Magnitude and phase are both needed, as part-mag and part-phase.")
    return found


def derivative_places(folder: Path, pipeline: str = "*") -> list[Path]:
    """The `anat` folders of a scan (subject or session) among the derivatives, qsmdl's own first."""
    folder = folder.absolute()
    root = _root(folder)
    places = [path / folder.relative_to(root) / ANAT for path in (root / DERIVATIVES).glob(pipeline)]
    return sorted((place for place in places if place.is_dir()), key=lambda place: (place.relative_to(root).parts[1] != PIPELINE, place))


def find_derivative(place: Path, suffix: str, **entities: str) -> Path | None:
    """The one NIfTI file with a suffix and entities in a folder of derivatives, or None. Raises InputError where there are several."""
    found = []
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        name = BidsName.parse(path.name)
        if name is not None and name.suffix == suffix and name.extension in SUFFIXES and all(name.get(k) == v for k, v in entities.items()):
            found.append(path)
    if len(found) > 1:
        raise InputError(f"{place} holds {' and '.join(path.name for path in found)}, and it is not clear which is meant. Keep one of them.")
    return found[0] if found else None


def _find_mask(folder: Path) -> Path:
    masks = [mask for place in derivative_places(folder) if (mask := find_derivative(place, "mask")) is not None]
    own = [mask for mask in masks if PIPELINE in mask.relative_to(_root(folder.absolute())).parts[1:2]]
    if len(own or masks) > 1:
        raise InputError(f"{folder} has several brain masks: {', '.join(map(str, masks))}. Put the one that is meant into {DERIVATIVES}/{PIPELINE}.")
    if not masks:
        wanted = _root(folder.absolute()) / DERIVATIVES / PIPELINE / folder.absolute().relative_to(_root(folder.absolute())) / ANAT
        raise InputError(f"{folder} has no brain mask. Make one on the grid of the echoes, as {wanted}/sub-XX_mask.nii.gz.")
    return (own or masks)[0]


def find_files(folder: Path | str) -> ScanFiles:
    """The files of the scan in the folder of a subject or session.

    Raises InputError: no echoes, more than one scan, echoes of which magnitude or phase is missing or there twice, no brain mask or several.
    """
    folder = Path(folder)
    images = _one_series(folder)
    magnitude, phase = (_echoes(folder, images, part) for part in PARTS)
    if set(magnitude) != set(phase):
        echo = min(set(magnitude) ^ set(phase))
        raise InputError(f"{folder / ANAT} has echo {echo} of only one of part-mag and part-phase. Every echo needs both files.")
    mask, numbers = _find_mask(folder), sorted(phase)
    fields = (find_derivative(place, "fieldmap", desc="local") for place in derivative_places(folder, PIPELINE))
    return ScanFiles(
        _root(folder.absolute()), tuple(magnitude[n] for n in numbers), tuple(phase[n] for n in numbers), mask, next((f for f in fields if f), None)
    )


def read_sidecar(path: Path, root: Path) -> dict[str, Any]:
    """The metadata of a file: its own JSON, and those of fewer entities beside it and in the folders above it up to the dataset's root, the nearest
    winning (the inheritance principle). Raises InputError for a JSON file that cannot be read.
    """
    path = path.absolute()
    name = BidsName.parse(path.name)
    folders = [place for place in reversed(path.parents) if place.is_relative_to(root.absolute())]
    content: dict[str, Any] = {}
    for place in folders:
        known = [(other, parsed) for other in sorted(place.glob("*.json")) if (parsed := BidsName.parse(other.name)) is not None]
        shared = [(other, parsed) for other, parsed in known if name and parsed.suffix == name.suffix and set(parsed.entities) <= set(name.entities)]
        for other, _ in sorted(shared, key=lambda pair: len(pair[1].entities)):
            found = read_json(other)
            if not isinstance(found, dict):
                raise InputError(f"{other} holds a {type(found).__name__}, but a sidecar is one JSON object. Correct the file.")
            content |= found
    return content
