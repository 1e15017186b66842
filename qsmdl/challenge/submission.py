"""A submission as the challenge wanted it: maps without anything that tells whose they are, in one zip archive, and a form apart from it.

Source: QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021;86:1241-1255, and the instructions handed out with its data.
"""

import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from qsmdl.challenge.form import Form, form_from
from qsmdl.errors import InputError
from qsmdl.io.files import atomic_path, write_json
from qsmdl.io.nifti import SUFFIXES, HeaderInfo, read_volume, write_volume

SCANS: dict[int, tuple[str, ...]] = {1: ("Sim1", "Sim2"), 2: ("Sim1Snr1", "Sim1Snr2", "Sim2Snr1", "Sim2Snr2")}
"""The scans of each stage; a submission holds a map of every one of them."""
_SCAN_IN_NAME = re.compile(r"(?<![a-z0-9])sim([12])(?:snr([12]))?(?![a-z0-9])", re.IGNORECASE)
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip archive can tell: the true one would say when, and in which time zone, maps were packed."""
_UNITS = {"ppb": 1000.0, "Hz at 7 T": 298.04, "Hz at 3 T": 127.73, "a fraction (10^-6 ppm)": 1e-6}
_LARGEST_PPM, _SMALLEST_PPM = 2.0, 0.01
"""Plausible 99th percentiles of |chi - median| inside a head; maps of the challenge lie near 0.15 ppm."""


class Packed(NamedTuple):
    """What `pack` wrote."""

    archive: Path
    form: Path


def entry_name(identifier: str, scan: str, suffix: str = ".nii") -> str:
    """The challenge's name of a map: `ID_Sim1_Step1.nii`, `ID_Sim2Snr1_Step2.nii`, or with .nii.gz."""
    return f"{identifier}_{scan}_Step{stage_of_scan(scan)}{suffix}"


def stage_of_scan(scan: str) -> int:
    """1 for Sim1 and Sim2, 2 for Sim1Snr1 and its kin. Raises InputError for other names."""
    for stage, scans in SCANS.items():
        if scan in scans:
            return stage
    raise InputError(f"There is no scan {scan!a} in the challenge; it has {', '.join(name for scans in SCANS.values() for name in scans)}.")


def scan_of_entry(name: str, identifier: str, stage: int) -> str:
    """The scan that a member of an archive is a map of. Raises InputError where its name is none that the challenge asks for."""
    for scan in SCANS[stage]:
        if name in {entry_name(identifier, scan, suffix) for suffix in SUFFIXES}:
            return scan
    wanted = ", ".join(entry_name(identifier, scan) for scan in SCANS[stage])
    raise InputError(
        f"it holds {name[:80]!a}, but in stage {stage} an archive named {identifier}.zip "
        f"holds {wanted} (or .nii.gz) and nothing else."
    )


def check_complete(scans: Iterable[str], stage: int) -> None:
    """Raises InputError unless there is exactly one map of every scan of the stage."""
    scans = list(scans)
    twice = sorted({scan for scan in scans if scans.count(scan) > 1})
    if twice:
        raise InputError(f"there are two maps of {twice[0]}; one of each scan is needed. Leave one out.")
    missing = [scan for scan in SCANS[stage] if scan not in scans]
    if missing:
        raise InputError(f"there is no map of {', '.join(missing)}; stage {stage} needs {', '.join(SCANS[stage])}, as scores are averaged over them.")


def assign_scans(words: Iterable[str]) -> dict[str, Path]:
    """Which map belongs to which scan: `Sim1=chi.nii.gz`, or a path whose file name holds the scan's name (`Sim1_tv.nii.gz`).

    Raises InputError: a name that tells no scan or several, a scan twice, maps of both stages, an incomplete stage.
    """
    pairs = [_assign(word) for word in words]
    stages = {stage_of_scan(scan) for scan, _ in pairs}
    if len(stages) != 1:
        raise InputError(f"The maps are of {', '.join(scan for scan, _ in pairs) or 'no scan'}; a submission is of one stage: {_stages_text()}.")
    check_complete([scan for scan, _ in pairs], stages.pop())
    return dict(pairs)


def _stages_text() -> str:
    return ", or ".join(f"{', '.join(scans)} (stage {stage})" for stage, scans in SCANS.items())


def _assign(word: str) -> tuple[str, Path]:
    scan, equals, path = word.partition("=")
    if equals and not Path(word).exists():
        stage_of_scan(scan)
        return scan, Path(path)
    found = {f"Sim{m[1]}" + (f"Snr{m[2]}" if m[2] else "") for m in _SCAN_IN_NAME.finditer(Path(word).name)}
    if len(found) != 1:
        names = " and ".join(sorted(found)) or "no scan"
        raise InputError(f"The file name of {word} tells {names}. Say which scan it belongs to, as in Sim1={word}.")
    return found.pop(), Path(word)


def _check_map(path: Path, volume: Tensor) -> None:
    values = volume.numpy()
    bad = ~np.isfinite(values)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"{path} holds {int(bad.sum())} NaN or infinite values, the first at index {where}. Set "
            "voxels outside the brain to 0, repair others."
        )
    inside = values[values != 0]
    if not inside.size:
        raise InputError(f"{path} is 0 everywhere. Name the susceptibility map.")
    spread = float(np.percentile(np.abs(inside - np.median(inside)), 99))
    if not _SMALLEST_PPM <= spread <= _LARGEST_PPM:
        guesses = [f"{unit} (divide by {factor:g})" for unit, factor in _UNITS.items() if 0.03 <= spread / factor <= 0.8]
        guess = f" It looks like {' or '.join(guesses)}." if guesses else ""
        raise InputError(
            f"{path}: 99 % of its non-zero values lie within {spread:.4g} of their median; in ppm that would be between {_SMALLEST_PPM:g} and "
            f"{_LARGEST_PPM:g} for a head.{guess} Hand in susceptibility in ppm."
        )


def _check_header(header: HeaderInfo) -> None:
    if not (np.isfinite(header.affine).all() and np.isfinite(header.voxel_size_mm).all() and np.linalg.det(header.affine) != 0):
        raise InputError(
            f"{header.path} has the affine {header.affine.tolist()} and voxels of {header.voxel_size_mm} mm, from which no header can be written: "
            "all must be finite, and no axis may have the length 0. Take the header of the scan."
        )


def _read_maps(maps: Mapping[str, Path]) -> dict[str, tuple[Tensor, HeaderInfo]]:
    read = {scan: read_volume(path, ndim=3) for scan, path in maps.items()}
    (first, *_) = maps
    for scan, (volume, header) in read.items():
        _check_header(header)
        _check_map(maps[scan], volume)
        if volume.shape != read[first][0].shape:
            raise InputError(
                f"{maps[scan]} has the shape {tuple(volume.shape)}, but {maps[first]} has {tuple(read[first][0].shape)}; "
                "the challenge's scans share one grid. Check which file belongs to which scan."
            )
    return read


def _write_archive(path: Path, identifier: str, maps: Mapping[str, tuple[Tensor, HeaderInfo]]) -> None:
    """Members in the order of the scans, with fixed times, permissions and system: the same maps give the same bytes."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path, "w") as archive:
        for scan in sorted(maps):
            volume, header = maps[scan]
            source = Path(folder) / "map.nii"
            # a new header: description, auxiliary file, intent, extensions and dates of the original stay behind
            write_volume(source, volume, affine=header.affine, voxel_size_mm=header.voxel_size_mm, overwrite=True)
            info = zipfile.ZipInfo(entry_name(identifier, scan), _EPOCH)
            info.create_system, info.external_attr = 3, 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            info.file_size = source.stat().st_size
            with source.open("rb") as content, archive.open(info, "w") as member:
                shutil.copyfileobj(content, member, 1 << 20)


def pack(maps: Mapping[str, Path | str], folder: Path | str, *, form: Form, overwrite: bool = False) -> Packed:
    """Writes `ID.zip` and, apart from it, `ID.json` into a folder.

    maps: scan -> a NIfTI file in ppm, one of every scan of the form's stage; form: see `form.Form`, its identifier names the files. The maps are
    float32 and keep voxel size, affine and nothing else of their headers.
    Raises InputError: an incomplete stage, an unreadable map, NaN or Inf, maps on different grids, values that cannot be ppm, an existing target.
    """
    form = form_from(form.to_plain())
    for scan in maps:
        if stage_of_scan(scan) != form.stage:
            raise InputError(f"The form says stage {form.stage}, but {scan} is a scan of stage {stage_of_scan(scan)}. Correct the form.")
    check_complete(maps, form.stage)
    read = _read_maps({scan: Path(path) for scan, path in maps.items()})
    packed = Packed(Path(folder) / f"{form.identifier}.zip", Path(folder) / f"{form.identifier}.json")
    # the archive takes its name only after the form was written, and goes with it if that fails
    with atomic_path(packed.archive, overwrite) as hidden:
        _write_archive(hidden, form.identifier, read)
        write_json(packed.form, form.to_plain(), overwrite)
    return packed

