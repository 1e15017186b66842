"""The maps of a run on disk, each with a note of what it was made from, so that a run that was killed goes on and never mixes two settings."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from qsmdl import __version__
from qsmdl.challenge.protocol import Row
from qsmdl.challenge.run import Case
from qsmdl.errors import InputError
from qsmdl.io.files import read_json, write_json
from qsmdl.io.nifti import read_volume, write_volume
from qsmdl.methods import Method
from qsmdl.scan import ChiMap, Choice

MAPS = "maps"


def file_digest(path: Path) -> str:
    """SHA-256 of a file. Raises InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} could not be read: {error.strerror}. Check the name.") from error


def plain_settings(method: Method) -> dict[str, Any]:
    """A method's settings as JSON holds them."""
    kinds = {Path: str, tuple: list}
    return {key: next((kinds[k](value) for k in kinds if isinstance(value, k)), value) for key, value in method.settings.items()}


def describe(method: Method) -> dict[str, Any]:
    """What a method is: its kind, function and settings, and the hash of its network's weights (None without one)."""
    weights = method.weights_path
    return {
        "kind": method.kind,
        "function": f"{method.function.__module__}.{method.function.__qualname__}",
        "settings": plain_settings(method),
        "weights_sha256": None if weights is None else file_digest(weights),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _first_difference(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> str | None:
    """The first entry in which two notes differ, in words."""
    for key in dict.fromkeys([*before, *now]):
        old, new, name = before.get(key), now.get(key), f"{path}{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found = _first_difference(old, new, f"{name}.")
            if found:
                return found
        elif old != new:
            return f"{name} was {old!r} and is now {new!r}"
    return None


def check_unchanged(path: Path, before: Any, now: Mapping[str, Any], *, remedy: str = "choose another hydra.run.dir") -> None:
    """Raises InputError where what a file of an earlier call says differs from what is wanted now; remedy: what else than the same settings helps."""
    difference = _first_difference(before, now) if isinstance(before, Mapping) else "it is no object"
    if difference:
        raise InputError(
            f"{path} belongs to a run with other settings: {difference}. Call it with the same settings to go on, or {remedy}."
        )


@dataclass(frozen=True)
class StoredMap:
    """A map that is on disk: its row without metrics, its curve for plots, the setting that was chosen for it, and how many steps it took."""

    row: Row
    curve: tuple[float, ...]
    choice: Choice | None = None
    n_steps: int = 0


@dataclass(frozen=True)
class MapStore:
    """`folder`/maps/SCAN_METHOD.nii.gz, each with a JSON beside it that is written last: a map counts from then on."""

    folder: Path

    def path(self, scan: str, method: str) -> Path:
        """Where the map of a method on a scan lies."""
        return self.folder / MAPS / f"{scan}_{method}.nii.gz"

    def _note_path(self, scan: str, method: str) -> Path:
        return self.folder / MAPS / f"{scan}_{method}.json"

    def find(self, scan: str, method: str, made_from: Mapping[str, Any]) -> StoredMap | None:
        """A map that was made from the very same, or None. Raises InputError where it was made from something else, or is not what was written."""
        path, note_path = self.path(scan, method), self._note_path(scan, method)
        if not note_path.exists() or not path.exists():
            return None
        note = read_json(note_path)
        if not isinstance(note, dict) or not isinstance(note.get("row"), dict) or not isinstance(note.get("curve"), list):
            raise InputError(f"{note_path} is not the note of a map. Remove it, and the map is made again.")
        check_unchanged(note_path, note.get("made_from"), made_from)
        if note.get("sha256") != file_digest(path):
            raise InputError(f"{path} is not the file that this run wrote: its hash differs from that in {note_path}. Remove it to make it again.")
        told: dict[str, Any] | None = note.get("choice")
        plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in (told or {}).items()}
        choice = None if told is None else Choice(**plain)
        n_steps = int(note.get("outcome", {}).get("n_steps", 0))
        return StoredMap(cast(Row, note["row"]), tuple(float(value) for value in note["curve"]), choice, n_steps)

    def keep(self, chi: ChiMap, row: Row, case: Case, made_from: Mapping[str, Any]) -> StoredMap:
        """Write a map and then its note."""
        path, geometry = self.path(case.name, row["method"]), chi.geometry
        write_volume(path, chi.chi_ppm, affine=geometry.affine, voxel_size_mm=geometry.voxel_size_mm, like=case.header_source, overwrite=True)
        curve = chi.outcome.curve if all(math.isfinite(value) for value in chi.outcome.curve) else ()
        outcome = {"n_steps": chi.outcome.n_steps, "stopped": chi.outcome.stopped, "residual": _finite(chi.outcome.residual)}
        choice = None if chi.outcome.choice is None else asdict(chi.outcome.choice)
        told = {"row": row, "outcome": outcome, "choice": choice, "curve": list(curve), "units": "ppm"}
        note = {"made_from": dict(made_from), "sha256": file_digest(path), **told}
        write_json(self._note_path(case.name, row["method"]), note, overwrite=True)
        return StoredMap(row, curve, chi.outcome.choice, chi.outcome.n_steps)

    def read(self, scan: str, method: str) -> Tensor:
        """The map [x, y, z] in ppm as it lies on disk."""
        return read_volume(self.path(scan, method), ndim=3)[0]


def made_from(method: Method, scan: str, content: str, *, seed: int, field: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that determines a map: the method with its settings, the scan's content, how its field was had, seed, version."""
    return {"scan": scan, "content": content, **field, **describe(method), "seed": seed, "qsmdl_version": __version__}
