"""The layout of the QSM Reconstruction Challenge 2.0 (RC2) release.

A scan is one folder (`Sim1`, `Sim2Snr1`, ...) with `Magnitude` and `Phase` (x, y, z, echo; phase wrapped, in rad), `MaskBrainExtracted`, optionally
`Frequency` (Hz) and `params.json`; volumes are `.nii` or `.nii.gz`. Both forms of the release share it; they differ in where the truth lies, which
this module knows for writing only.
Source: QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021;86:1241-1255.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.io.checks import as_mask, check_phase_range, check_same_grid, check_units, finite_inside
from qsmdl.io.evaluation import MARK_STEM, write_mark
from qsmdl.io.files import atomic_folder, write_json
from qsmdl.io.nifti import HeaderInfo, find_nifti, has_nifti, read_volume, warn_if_affine_disagrees, write_volume
from qsmdl.io.params import FILE_NAME, ReleaseParams, choose_voxel_size, read_params
from qsmdl.scan import Geometry, Scan, Truth
from qsmdl.units import GAMMA_MHZ_PER_TESLA, hz_from_ppm, hz_per_ppm, ppm_from_hz

MASK, MAGNITUDE, PHASE, FREQUENCY = "MaskBrainExtracted", "Magnitude", "Phase", "Frequency"
TRUTH_FOLDER, CHI, SEGMENTATION = "GT", "Chi", "Segmentation"
ORIENTATIONS = "orientations"
"""Sub-folder of a scan with scans of the same head at other orientations to B0, registered to its grid (docs/cosmos.md)."""
_CONTENTS = (MASK, MAGNITUDE, PHASE, FREQUENCY, TRUTH_FOLDER, ORIENTATIONS, "params", "recipe", MARK_STEM)


def convention_stem(convention: str) -> str:
    """Where a truth of another convention than the release's own lies: beside `Chi` as `Chi_crop`, `Chi_cell`, ..."""
    return f"{CHI}_{convention}"


def header_source(folder: Path | str) -> Path:
    """The file whose header a scan's outputs take: the mask, which every release has. Raises InputError where it is missing."""
    return find_nifti(folder, MASK)


def read_mask_and_geometry(folder: Path | str) -> tuple[Tensor, Geometry, HeaderInfo]:
    """The brain mask (bool) of a scan's folder, its geometry (`params.json` or the challenge's values, see `read_params`) and the mask's header.

    Raises InputError naming the file for every problem found.
    """
    mask, geometry, header, _ = _read_mask_and_params(Path(folder))
    return mask, geometry, header


def _read_mask_and_params(folder: Path) -> tuple[Tensor, Geometry, HeaderInfo, ReleaseParams]:
    volume, header = read_volume(header_source(folder), ndim=3)
    params = read_params(folder)
    warn_if_affine_disagrees(header)
    x, y, z = volume.shape
    geometry = Geometry((x, y, z), choose_voxel_size(params, header), params.b0_direction, params.b0_tesla, header.affine)
    return as_mask(header.path, volume), geometry, header, params


def _read_echoes(path: Path, mask: Tensor, mask_path: Path, n_echoes: int, source: str) -> Tensor:
    """[echo, x, y, z], finite inside the mask."""
    volume, _ = read_volume(path, ndim=4)
    check_same_grid(mask_path, tuple(mask.shape), path, tuple(volume.shape))
    if volume.shape[3] != n_echoes:
        raise InputError(
            f"{path} has {volume.shape[3]} echoes (shape {tuple(volume.shape)}), but there are {n_echoes} echo times (from {source}). "
            f"Write params.json with one TE per echo into {path.parent}."
        )
    return finite_inside(path, volume.permute(3, 0, 1, 2).contiguous(), mask)


def _read_frequency(folder: Path, mask: Tensor, mask_path: Path, b0_tesla: float, gamma_mhz_per_tesla: float) -> Tensor | None:
    if not has_nifti(folder, FREQUENCY):
        return None
    path = find_nifti(folder, FREQUENCY)
    volume, _ = read_volume(path, ndim=3)
    check_same_grid(mask_path, tuple(mask.shape), path, tuple(volume.shape))
    frequency_ppm = ppm_from_hz(finite_inside(path, volume, mask), b0_tesla, gamma_mhz_per_tesla)
    check_units(path, frequency_ppm, mask, hz_per_ppm(b0_tesla, gamma_mhz_per_tesla), "Hz")
    return frequency_ppm


def read_scan(folder: Path | str, *, gamma_mhz_per_tesla: float = GAMMA_MHZ_PER_TESLA) -> Scan:
    """Reads one scan of a release; its name is the folder's name.

    gamma_mhz_per_tesla turns `Frequency` (Hz) into ppm; some scripts for the release use 42.7747892 (0.46 % more). NaN and Inf outside the mask
    become 0. Values that had to be assumed and contradictions between files are logged as warnings (logger `qsmdl.io`).
    Raises InputError naming the file: missing, unreadable, wrong number of axes, grids that differ, empty mask, NaN or Inf inside the mask, echo
    times that are missing, in ms or not one per echo, phase outside [-pi, pi].
    """
    folder = Path(folder)
    mask, geometry, header, params = _read_mask_and_params(folder)
    n_echoes = len(params.echo_times_s)
    magnitude = _read_echoes(find_nifti(folder, MAGNITUDE), mask, header.path, n_echoes, params.source)
    phase_path = find_nifti(folder, PHASE)
    phase_rad = _read_echoes(phase_path, mask, header.path, n_echoes, params.source)
    check_phase_range(phase_path, phase_rad, mask)
    frequency_ppm = _read_frequency(folder, mask, header.path, geometry.b0_tesla, gamma_mhz_per_tesla)
    return Scan(geometry, params.echo_times_s, magnitude, phase_rad, mask, frequency_ppm, folder.resolve().name)


def read_orientations(folder: Path | str, *, gamma_mhz_per_tesla: float = GAMMA_MHZ_PER_TESLA) -> list[Scan]:
    """The scans in the sub-folder `orientations` of a scan, by name; none where there is no such folder. Raises InputError as `read_scan` does."""
    place = Path(folder) / ORIENTATIONS
    if not place.is_dir():
        return []
    folders = sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [read_scan(path, gamma_mhz_per_tesla=gamma_mhz_per_tesla) for path in folders]


def write_release(
    folder: Path | str,
    scan: Scan,
    truth: Truth | None = None,
    *,
    conventions: Mapping[str, Truth] | None = None,
    orientations: Sequence[Scan] = (),
    recipe: Mapping[str, Any] | None = None,
    evaluation_data: str | None = None,
    gamma_mhz_per_tesla: float = GAMMA_MHZ_PER_TESLA,
    overwrite: bool = False,
) -> None:
    """Writes a scan in the release's layout, with `GT/Chi` and `GT/Segmentation` where there is a truth, the same truth in other `conventions` as
    `GT/Chi_crop` and the like, other orientations of the head as `orientations/NAME`, and `recipe.json` (what made it). evaluation_data: where data
    that nothing may be trained on come from, which marks the folder (`io.evaluation`).

    The folder appears complete or not at all. Volumes are float32, mask and labels uint8; Frequency is in Hz.
    Raises InputError: the folder exists (or, with overwrite, holds more than a release), truth on another grid, the disk refuses.
    """
    folder = Path(folder)
    for other in (truth, *(conventions or {}).values(), *orientations):
        if other is not None and other.geometry.shape != scan.geometry.shape:
            what = f"The orientation {other.name}" if isinstance(other, Scan) else "The truth"
            raise InputError(f"{what} has the shape {other.geometry.shape}, the scan {scan.geometry.shape}; both must lie on one grid.")
    with atomic_folder(folder, overwrite, contents=_CONTENTS) as hidden:
        _write_scan(hidden, scan, gamma_mhz_per_tesla)
        for other in orientations:
            _write_scan(hidden / ORIENTATIONS / other.name, other, gamma_mhz_per_tesla)
        _write_truth(hidden / TRUTH_FOLDER, truth, conventions or {})
        if recipe is not None:
            write_json(hidden / "recipe.json", dict(recipe))
        if evaluation_data is not None:
            write_mark(hidden, evaluation_data)


def write_truth_apart(
    folder: Path | str,
    truth: Truth,
    *,
    conventions: Mapping[str, Truth] | None = None,
    evaluation_data: str | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a truth in a folder of its own beside its scans, as the release's second form does: `Sim2GT` for `Sim2`, or for `Sim2Snr1` and
    `Sim2Snr2`, which share it. The folder appears complete or not at all. Raises InputError as `write_release`.
    """
    stems = (CHI, SEGMENTATION, MARK_STEM, *(convention_stem(convention) for convention in conventions or {}))
    with atomic_folder(folder, overwrite, contents=stems) as hidden:
        _write_truth(hidden, truth, conventions or {})
        if evaluation_data is not None:
            write_mark(hidden, evaluation_data)


def _write_truth(place: Path, truth: Truth | None, conventions: Mapping[str, Truth]) -> None:
    if truth is not None:
        _write(place, CHI, truth.chi_ppm, truth.geometry)
        _write(place, SEGMENTATION, truth.labels, truth.geometry, np.uint8)
    for convention, other in conventions.items():
        _write(place, convention_stem(convention), other.chi_ppm, other.geometry)


def _params_of(scan: Scan) -> dict[str, Any]:
    geometry = scan.geometry
    return {
        "B0": geometry.b0_tesla,
        "TE": list(scan.echo_times_s),
        "B0_dir": list(geometry.b0_direction),
        "voxel_size": list(geometry.voxel_size_mm),
    }


def _write(folder: Path, stem: str, volume: Tensor, geometry: Geometry, dtype: Any = np.float32) -> None:
    write_volume(folder / f"{stem}.nii.gz", volume, affine=geometry.affine, voxel_size_mm=geometry.voxel_size_mm, dtype=dtype)


def _write_scan(folder: Path, scan: Scan, gamma_mhz_per_tesla: float) -> None:
    write_json(folder / FILE_NAME, _params_of(scan))
    _write(folder, MAGNITUDE, scan.magnitude.permute(1, 2, 3, 0), scan.geometry)
    _write(folder, PHASE, scan.phase_rad.permute(1, 2, 3, 0), scan.geometry)
    _write(folder, MASK, scan.mask, scan.geometry, np.uint8)
    if scan.frequency_ppm is not None:
        _write(folder, FREQUENCY, hz_from_ppm(scan.frequency_ppm, scan.geometry.b0_tesla, gamma_mhz_per_tesla), scan.geometry)
