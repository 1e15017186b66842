"""`params.json`, the acquisition parameters beside a release's volumes."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsmdl.errors import InputError
from qsmdl.io.files import read_json
from qsmdl.io.nifti import HeaderInfo, known_voxel_size

logger = logging.getLogger(__name__)

FILE_NAME = "params.json"
CHALLENGE_B0_TESLA = 7.0
CHALLENGE_ECHO_TIMES_S = (0.004, 0.012, 0.020, 0.028)
"""Echo times of the QSM Challenge 2.0 (QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021)."""
_EXAMPLE = '{"B0": 7.0, "TE": [0.004, 0.012, 0.020, 0.028], "B0_dir": [0, 0, 1], "voxel_size": [1, 1, 1]}'


@dataclass(frozen=True, slots=True)
class ReleaseParams:
    """B0 in tesla, echo times in s, unit B0 direction in voxel axes, voxel size in mm (None: the header's); source: where they came from."""

    b0_tesla: float
    echo_times_s: tuple[float, ...]
    b0_direction: tuple[float, float, float]
    voxel_size_mm: tuple[float, float, float] | None
    source: str


def _numbers(path: Path, key: str, value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in values):
        raise InputError(f"{path}: {key} is {value!r}, but must hold finite numbers. Example: {_EXAMPLE}.")
    return tuple(float(v) for v in values)


def _vector(path: Path, key: str, value: Any) -> tuple[float, float, float]:
    values = _numbers(path, key, value)
    if len(values) != 3:
        raise InputError(f"{path}: {key} is {value!r}, but needs three numbers, in the order x, y, z.")
    return values[0], values[1], values[2]


def _required(path: Path, content: dict[str, Any], key: str, meaning: str) -> Any:
    if content.get(key) is None:
        raise InputError(f"{path} has no entry {key} ({meaning}). Add it; example: {_EXAMPLE}.")
    return content[key]


def _echo_times(path: Path, content: dict[str, Any]) -> tuple[float, ...]:
    times = _numbers(path, "TE", _required(path, content, "TE", "the echo times in s are missing"))
    if max(times) >= 1:
        in_s = ", ".join(f"{t / 1000:g}" for t in times)
        raise InputError(f"{path}: TE is {list(times)}, but echo times are in s and below 1. If these are ms, write [{in_s}].")
    if min(times) <= 0 or list(times) != sorted(set(times)):
        raise InputError(f"{path}: TE is {list(times)}, but echo times are positive and ascend. Put the echoes and their times in order.")
    return times


def _b0_tesla(path: Path, content: dict[str, Any]) -> float:
    (b0, *more) = _numbers(path, "B0", _required(path, content, "B0", "the field strength in tesla"))
    if more or not 0 < b0 <= 25:
        raise InputError(f"{path}: B0 is {content['B0']!r}, but must be one field strength in tesla, above 0 and at most 25. Divide MHz by 42.577.")
    return b0


def _b0_direction(path: Path, content: dict[str, Any]) -> tuple[float, float, float]:
    if content.get("B0_dir") is None:
        logger.warning("%s has no B0_dir; B0 is taken along the third axis, (0, 0, 1).", path)
        return 0.0, 0.0, 1.0
    x, y, z = _vector(path, "B0_dir", content["B0_dir"])
    norm = math.sqrt(x * x + y * y + z * z)
    if abs(norm - 1) > 0.01:
        raise InputError(f"{path}: B0_dir is {[x, y, z]} with length {norm:.4g}, but must be a unit vector in voxel axes. Divide it by its length.")
    return x / norm, y / norm, z / norm  # files round to a few digits


def _voxel_size(path: Path, content: dict[str, Any]) -> tuple[float, float, float] | None:
    if content.get("voxel_size") is None:
        return None
    size = _vector(path, "voxel_size", content["voxel_size"])
    if min(size) <= 0:
        raise InputError(f"{path}: voxel_size is {list(size)}, but every entry must be positive, in mm.")
    return size


def read_params(folder: Path) -> ReleaseParams:
    """Reads `params.json` of a release folder; without it the challenge's 7 T and echo times hold, which a warning says.

    Raises InputError naming the file and entry: not JSON, B0 or TE missing, echo times in ms, vectors without three entries, a B0_dir that is no
    unit vector.
    """
    path = folder / FILE_NAME
    if not path.exists():
        times = ", ".join(f"{1000 * t:g}" for t in CHALLENGE_ECHO_TIMES_S)
        logger.warning("%s is not there: the challenge's 7 T, echo times %s ms and B0 along (0, 0, 1) are assumed.", path, times)
        return ReleaseParams(CHALLENGE_B0_TESLA, CHALLENGE_ECHO_TIMES_S, (0.0, 0.0, 1.0), None, "challenge defaults")
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, but must hold one JSON object. Example: {_EXAMPLE}.")
    return ReleaseParams(_b0_tesla(path, content), _echo_times(path, content), _b0_direction(path, content), _voxel_size(path, content), str(path))


def choose_voxel_size(params: ReleaseParams, header: HeaderInfo) -> tuple[float, float, float]:
    """The voxel size of params.json, else the header's; a warning names both where they differ by more than 1 %."""
    if params.voxel_size_mm is None:
        return known_voxel_size(header)
    if any(abs(a - b) > 0.01 * a for a, b in zip(params.voxel_size_mm, header.voxel_size_mm, strict=True)):
        logger.warning(
            "Voxel size: %s says %s mm, the header of %s says %s mm; params.json is used. Correct whichever is wrong.",
            params.source,
            params.voxel_size_mm,
            header.path,
            tuple(round(v, 6) for v in header.voxel_size_mm),
        )
    return params.voxel_size_mm
