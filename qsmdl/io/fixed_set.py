"""Fixed sets of simulated volumes: a folder with `set.json`, which says what the volumes are drawn from, and one file for each (`io.volume_file`).

Only a set that was opened can be read: opening reads every volume, fingerprints its truth and keeps the hash of its file, and reading refuses any
other file. So what enters a training is what was compared with evaluation data, however files, links or names change meanwhile.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from qsmdl import __version__
from qsmdl.errors import InputError
from qsmdl.io.evaluation import check_not_evaluation_data
from qsmdl.io.files import read_json, write_json
from qsmdl.io.fingerprint import Fingerprint, content_hash, volume_signature
from qsmdl.io.volume_file import VolumeFile, check_free_space, read_card, read_volume_file
from qsmdl.io.weights import load_weights, save_weights
from qsmdl.scan import Geometry, Scan, Truth

SET_FILE = "set.json"
FORMAT = 1
DRAWN_FROM = ("recipe_digest", "stream", "seed")
"""What set and volumes both tell; the set tells `recipe` and `label_maps`, too."""
_VOLUME = re.compile(r"volume_(\d{5,})\.safetensors")


def volume_path(folder: Path, number: int) -> Path:
    """Where a volume of a set lies."""
    return folder / f"volume_{number:05d}.safetensors"


def volume_numbers(folder: Path) -> list[int]:
    """Which volumes a set has, ascending. Hidden files, which are not finished, are none."""
    found = ((match, entry) for entry in folder.iterdir() if (match := _VOLUME.fullmatch(entry.name)) and entry.is_file())
    return sorted(number for match, entry in found if volume_path(folder, number := int(match[1])) == entry)


def plain_of(content: Any) -> Any:
    """Content as JSON gives it back."""
    return json.loads(json.dumps(content, allow_nan=False))


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    """The settings in which two plain contents differ, with both values."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = sorted({*before, *now})
        return [text for key in keys for text in _differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))]
    return [] if before == now else [f"{name} ({_short(before)} instead of {_short(now)})"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]} ..."


def check_set(folder: Path, drawn_from: Mapping[str, Any], remedy: str) -> None:
    """Raises InputError where a folder is no set, or one of other volumes than those that are drawn from what `drawn_from` tells."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Name a set of volumes that qsmdl simulate --set made.")
    if not (folder / SET_FILE).is_file():
        raise InputError(f"{folder} holds no {SET_FILE}, so it is no set of volumes. Name a folder that qsmdl simulate --set made.")
    before, now = read_json(folder / SET_FILE), {"format": FORMAT, **plain_of(drawn_from)}
    if not isinstance(before, dict):
        raise InputError(f"{folder / SET_FILE} is not of the form that qsmdl writes. {remedy}")
    found = _differences({key: before.get(key) for key in now}, now)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise InputError(
            f"{folder} holds volumes of the recipe {before.get('recipe_digest')}, stream {before.get('stream')!r}, seed {before.get('seed')}, but "
            f"wanted are those of the recipe {now['recipe_digest']}, stream {now['stream']!r}, seed {now['seed']}. They differ in "
            f"{'; '.join(found[:3])}{more}. {remedy}"
        )


def check_place(folder: Path, drawn_from: Mapping[str, Any]) -> None:
    """Raises InputError where a set cannot be begun or gone on with: a folder of other volumes, or of something else."""
    if (folder / SET_FILE).exists():
        check_set(folder, drawn_from, "Choose another folder, or call with the settings of this one.")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is no set of volumes (it holds no {SET_FILE}). Choose another folder.")


def begin_set(folder: Path, drawn_from: Mapping[str, Any]) -> None:
    """Makes the folder of a set, where it is not there. Raises InputError as `check_place`."""
    check_place(folder, drawn_from)
    if not (folder / SET_FILE).exists():
        write_json(folder / SET_FILE, {"format": FORMAT, "qsmdl_version": __version__, **plain_of(drawn_from)})


def card_of_volume(drawn_from: Mapping[str, Any], number: int, params: Mapping[str, Any]) -> dict[str, Any]:
    """What the file of a volume tells of what it was drawn from. params: `VolumeParams` as plain values."""
    told = {"number": number, "volume": params, **{key: drawn_from[key] for key in DRAWN_FROM}}
    return {**plain_of(told), "qsmdl_version": __version__}


def _is_of(card: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(card.get(key) == value for key, value in wanted.items() if key != "qsmdl_version")


def _is_on_grid(geometry: Geometry, params: Mapping[str, Any]) -> bool:
    """Whether a volume lies on the grid that it was drawn with: a wrong voxel size would hide it from a comparison with truths."""
    close = zip((*geometry.voxel_size_mm, *geometry.b0_direction), (*params["voxel_size_mm"], *params["b0_direction"]), strict=True)
    return geometry.shape == tuple(params["shape"]) and all(abs(found - wanted) < 1e-6 for found, wanted in close)


def has_volume(folder: Path, card: Mapping[str, Any]) -> bool:
    """Whether the volume of a card (`card_of_volume`) is there and whole. Raises InputError for a damaged file and for one of another volume."""
    path = volume_path(folder, card["number"])
    if not path.exists():
        return False
    if not _is_of(read_card(path), card):
        raise InputError(f"{path} holds another volume than number {card['number']} of this set. Remove it, and it will be written again.")
    return True


@dataclass(frozen=True, eq=False)
class FixedSet:
    """The volumes 0 to n_volumes - 1 of a set, made by `open_set`. sha256: of their files; fingerprints: of their truths."""

    folder: Path
    sha256: tuple[str, ...]
    fingerprints: tuple[Fingerprint, ...]

    @property
    def n_volumes(self) -> int:
        """How many there are."""
        return len(self.sha256)

    @property
    def digest(self) -> str:
        """A hash of all files."""
        return hashlib.sha256("".join(self.sha256).encode()).hexdigest()

    @property
    def source(self) -> dict[str, Any]:
        """The entry of a training record that names the volumes, as `io.provenance.folder_source` does."""
        pairs = zip(self.fingerprints, self.sha256, strict=True)
        volumes = [{"name": f.name, "content": f.content, "shape": list(f.shape), "sha256": sha256} for f, sha256 in pairs]
        return {"kind": "folder", "use": "training", "folder": self.folder.name, "volumes": volumes}

    def read(self, number: int) -> tuple[Scan, Truth]:
        """A volume, as it was rendered. Raises InputError for a file that is not the one that was fingerprinted."""
        found = read_volume_file(volume_path(self.folder, number), sha256=self.sha256[number])
        return found.scan, found.truth


    def maps(self, number: int, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """`kept_maps` of a volume."""
        return kept_maps(self.folder, number, self.sha256[number], name, compute)


def kept_maps(folder: Path, number: int, sha256: str, name: str, compute: Callable[[], Tensor]) -> Tensor:
    """What was computed of a volume under a name before, or is computed now and kept in maps/NAME/ beside the volumes: for what takes longer to
    compute than to read. Maps of another file than that of the hash, and damaged ones, are computed anew. Maps are what networks are fed, never what
    they learn.
    """
    path = volume_path(folder / "maps" / name, number)
    try:
        tensors, card = load_weights(path)
        if card.get("volume") == sha256 and set(tensors) == {"maps"}:
            return tensors["maps"]
    except InputError:
        pass  # not there, or not whole
    computed = compute()
    check_free_space(folder, computed.numel() * computed.element_size(), path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, {"maps": computed}, {"volume": sha256}, overwrite=True)
    return computed


def has_maps(folder: Path, number: int, name: str) -> bool:
    """Whether `kept_maps` of a volume are there under a name; whether they are whole and of the same file is seen when they are read."""
    return volume_path(folder / "maps" / name, number).is_file()


def _fingerprint(path: Path, found: VolumeFile) -> Fingerprint:
    chi = found.truth.chi_ppm
    made = Fingerprint(path.name, content_hash(chi), tuple(chi.shape), volume_signature(chi.numpy(), found.truth.geometry.voxel_size_mm))
    if made.signature.is_blank:
        raise InputError(f"{path} {made.shape} is constant, or too small to be compared with a truth. Remove the set, and draw larger volumes.")
    return made


def open_set(
    folder: Path | str, drawn_from: Mapping[str, Any], params: Callable[[int], Mapping[str, Any]], on_volume: Callable[[int, int], None] | None = None
) -> FixedSet:
    """Reads and fingerprints all volumes of a set. drawn_from: recipe, digest, stream, seed and label maps that they must be of; params: the plain
    `VolumeParams` of a number; on_volume: told the number of volumes done, and of all.

    Raises InputError: no set, one that is marked as evaluation data or drawn from something else, numbers that are missing, or a file that is
    damaged, of another volume, or blank.
    """
    folder = Path(folder).resolve()
    remedy = "Train with the settings of the set (its set.json holds them), or make one with qsmdl simulate DIR --set N and those of the training."
    check_set(folder, drawn_from, remedy)
    check_not_evaluation_data(folder)
    numbers = volume_numbers(folder)
    missing = sorted(set(range(len(numbers) + 1)) - set(numbers))[0]
    if not numbers or missing < len(numbers):
        n = max(numbers, default=0) + 1
        raise InputError(f"{folder} has no volume number {missing}. Fill the gap: qsmdl simulate {folder} --set {n}, with the settings of the set.")
    sha256, fingerprints = [], []
    for number in numbers:
        path = volume_path(folder, number)
        found = read_volume_file(path)
        drawn = params(number)
        if not _is_of(found.card, card_of_volume(drawn_from, number, drawn)) or not _is_on_grid(found.truth.geometry, drawn):
            raise InputError(
                f"{path} was not drawn as volume number {number} of its set, or by another version of qsmdl than {__version__} "
                f"({found.card.get('qsmdl_version')}). Remove it, and let qsmdl simulate --set write it again."
            )
        sha256.append(found.sha256)
        fingerprints.append(_fingerprint(path, found))
        if on_volume is not None:
            on_volume(number + 1, len(numbers))
    return FixedSet(folder, tuple(sha256), tuple(fingerprints))
