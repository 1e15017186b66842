"""The layout of QSM-CI (the continuous benchmark of QSM algorithms, github.com/QSMxT/QSM-CI): a dataset is a folder with

`inputs/`: phase (rad, wrapped) and magnitude (x, y, z, echo), mask (0/1), params.json (TE in s, B0 in T, B0_dir in voxel axes, voxel_size in mm);
`groundtruth/`: totalfield, localfield and chimap (ppm), dseg (labels of the QSM challenge 2.0).

What is mounted for an algorithm has the names of `inputs/`, with `localfield` where the algorithm inverts a field map.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.io.checks import as_mask, check_phase_range, check_same_grid, check_units, finite_inside
from qsmdl.io.evaluation import MARK_STEM, write_mark
from qsmdl.io.field import read_field
from qsmdl.io.files import atomic_folder, write_json
from qsmdl.io.nifti import SUFFIXES, HeaderInfo, find_nifti, has_nifti, read_volume, warn_if_affine_disagrees, write_volume
from qsmdl.io.params import FILE_NAME, ReleaseParams, choose_voxel_size, read_params
from qsmdl.scan import FieldMap, Geometry, Scan, Truth
from qsmdl.units import GAMMA_MHZ_PER_TESLA, hz_per_ppm

INPUTS, GROUND_TRUTH = "inputs", "groundtruth"
PHASE, MAGNITUDE, MASK, LOCAL_FIELD, TOTAL_FIELD, CHI, SEGMENTATION = "phase", "magnitude", "mask", "localfield", "totalfield", "chimap", "dseg"


def _has_exactly(folder: Path, stem: str) -> bool:
    """In lower case also where the file system would take other spellings for it: the RC2 release has a `Phase`."""
    return any(path.name in (stem + suffix for suffix in SUFFIXES) for path in folder.iterdir())


def _is_inputs(folder: Path) -> bool:
    return folder.is_dir() and _has_exactly(folder, MASK) and any(_has_exactly(folder, stem) for stem in (PHASE, LOCAL_FIELD))


def is_scan(folder: Path) -> bool:
    """Whether a folder is a dataset (with `inputs/`, if incomplete), its `inputs`, or what is mounted for an algorithm."""
    place = folder / INPUTS
    begun = place.is_dir() and any(_has_exactly(place, stem) for stem in (PHASE, MAGNITUDE, MASK, LOCAL_FIELD))
    return begun or _is_inputs(folder)


def inputs_of(folder: Path | str) -> Path:
    """The folder with the inputs: of a dataset, or the one named itself."""
    folder = Path(folder)
    return folder / INPUTS if (folder / INPUTS).is_dir() else folder


def scan_name(folder: Path) -> str:
    """How tables call a scan: as its dataset is called."""
    place = inputs_of(folder).resolve()
    return place.parent.name if place.name == INPUTS else place.name


def truth_place(folder: Path | str) -> Path:
    """Where the truth of a dataset lies, if there is one: beside `inputs`."""
    return inputs_of(folder).resolve().parent / GROUND_TRUTH


def check_files(folder: Path | str) -> None:
    """Raises InputError naming the file where one that a scan needs is missing or there twice. No volume is opened."""
    place = inputs_of(folder)
    for stem in (PHASE, MAGNITUDE, MASK):
        find_nifti(place, stem)
    _check_params(place)


def _check_params(place: Path) -> None:
    if not (place / FILE_NAME).is_file():
        raise InputError(f'{place} has no {FILE_NAME}. Write one: {{"TE": [s, ...], "B0": T, "B0_dir": [x, y, z], "voxel_size": [mm, mm, mm]}}.')


def header_source(folder: Path | str) -> Path:
    """The file whose header a scan's outputs take: the mask, as QSM-CI asks."""
    return find_nifti(inputs_of(folder), MASK)


def _read_mask(folder: Path) -> tuple[Tensor, Geometry, HeaderInfo, ReleaseParams]:
    place = inputs_of(folder)
    _check_params(place)
    volume, header = read_volume(find_nifti(place, MASK), ndim=3)
    params = read_params(place)
    warn_if_affine_disagrees(header)
    x, y, z = volume.shape
    geometry = Geometry((x, y, z), choose_voxel_size(params, header), params.b0_direction, params.b0_tesla, header.affine)
    return as_mask(header.path, volume), geometry, header, params


def read_mask_and_geometry(folder: Path | str) -> tuple[Tensor, Geometry, HeaderInfo]:
    """The mask (bool), the geometry and the mask's header. Raises InputError as `read_scan`."""
    mask, geometry, header, _ = _read_mask(Path(folder))
    return mask, geometry, header


def _read_echoes(path: Path, mask: Tensor, header: HeaderInfo, n_echoes: int) -> Tensor:
    """[echo, x, y, z], finite inside the mask; a single echo may be (x, y, z)."""
    volume, _ = read_volume(path)
    check_same_grid(header.path, header.shape, path, tuple(volume.shape))
    volume = volume[..., None] if volume.ndim == 3 else volume
    if volume.ndim != 4 or volume.shape[3] != n_echoes:
        raise InputError(f"{path} has the shape {tuple(volume.shape)}, but {FILE_NAME} has {n_echoes} echo times, one for each (x, y, z, echo).")
    return finite_inside(path, volume.permute(3, 0, 1, 2).contiguous(), mask)


def read_scan(folder: Path | str, *, gamma_mhz_per_tesla: float = GAMMA_MHZ_PER_TESLA) -> Scan:
    """Reads the echoes of a dataset or of its `inputs`; its name is the dataset's. frequency_ppm is `localfield` where that lies among the inputs.

    Raises InputError naming the file: missing (params.json too: nothing is assumed here), grids that differ, empty mask, NaN inside the mask, echo
    times in ms or not one per echo, phase outside [-pi, pi].
    """
    folder = Path(folder)
    place = inputs_of(folder)
    mask, geometry, header, params = _read_mask(folder)
    n_echoes = len(params.echo_times_s)
    magnitude = _read_echoes(find_nifti(place, MAGNITUDE), mask, header, n_echoes)
    phase_path = find_nifti(place, PHASE)
    phase_rad = _read_echoes(phase_path, mask, header, n_echoes)
    check_phase_range(phase_path, phase_rad, mask)
    frequency_ppm = None
    if has_nifti(place, LOCAL_FIELD):
        path = find_nifti(place, LOCAL_FIELD)
        volume, _ = read_volume(path, ndim=3)
        check_same_grid(header.path, header.shape, path, tuple(volume.shape))
        frequency_ppm = finite_inside(path, volume, mask)
        check_units(path, frequency_ppm, mask, hz_per_ppm(geometry.b0_tesla, gamma_mhz_per_tesla), "ppm")
    return Scan(geometry, params.echo_times_s, magnitude, phase_rad, mask, frequency_ppm, scan_name(folder))


def has_field_only(folder: Path | str) -> bool:
    """Whether the inputs are a field map without echoes, as mounted for an algorithm of the stage "dipole"."""
    place = inputs_of(folder)
    return _is_inputs(place) and not _has_exactly(place, PHASE)


def read_local_field(folder: Path | str) -> FieldMap:
    """Reads `localfield` (ppm) of inputs without echoes. Raises InputError as `io.field.read_field`."""
    place = inputs_of(folder)
    _, geometry, header, _ = _read_mask(Path(folder))
    path, name = find_nifti(place, LOCAL_FIELD), scan_name(Path(folder))
    b0, direction, size = geometry.b0_tesla, geometry.b0_direction, geometry.voxel_size_mm
    return read_field(path, "ppm", header.path, b0_tesla=b0, b0_direction=direction, voxel_size_mm=size, name=name)


def write_qsm_ci(
    folder: Path | str,
    scan: Scan,
    truth: Truth | None = None,
    *,
    local_field_ppm: Tensor | None = None,
    recipe: Mapping[str, Any] | None = None,
    evaluation_data: str | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a scan as a dataset of QSM-CI: `inputs/`, with a truth `groundtruth/`, and beside them `recipe.json` (what made it).

    local_field_ppm [x, y, z]: the field of the truth without noise, written as localfield and, as nothing outside the brain has a field here, as
    totalfield too; evaluation_data: where data that nothing may be trained on come from, which marks the folder. The folder appears complete or not
    at all. Raises InputError: the folder exists (or, with overwrite, holds more than a dataset), truth on another grid, the disk refuses.
    """
    if truth is not None and truth.geometry.shape != scan.geometry.shape:
        raise InputError(f"The truth has the shape {truth.geometry.shape}, the scan {scan.geometry.shape}; both must lie on one grid.")
    geometry = scan.geometry
    params = {"TE": list(scan.echo_times_s), "B0": geometry.b0_tesla, "B0_dir": list(geometry.b0_direction)}
    with atomic_folder(folder, overwrite, contents=(INPUTS, GROUND_TRUTH, "recipe", MARK_STEM)) as hidden:
        write_json(hidden / INPUTS / FILE_NAME, params | {"voxel_size": list(geometry.voxel_size_mm)})
        _write(hidden / INPUTS, PHASE, scan.phase_rad.permute(1, 2, 3, 0), geometry)
        _write(hidden / INPUTS, MAGNITUDE, scan.magnitude.permute(1, 2, 3, 0), geometry)
        _write(hidden / INPUTS, MASK, scan.mask, geometry, np.uint8)
        if truth is not None:
            _write_truth(hidden / GROUND_TRUTH, truth, geometry, local_field_ppm)
        if recipe is not None:
            write_json(hidden / "recipe.json", dict(recipe))
        if evaluation_data is not None:
            write_mark(hidden, evaluation_data)


def _write_truth(place: Path, truth: Truth, geometry: Geometry, local_field_ppm: Tensor | None) -> None:
    _write(place, CHI, truth.chi_ppm, geometry)
    _write(place, SEGMENTATION, truth.labels, geometry, np.uint8)
    if local_field_ppm is not None:
        for stem in (LOCAL_FIELD, TOTAL_FIELD):
            _write(place, stem, torch.where(truth.mask, local_field_ppm, 0.0), geometry)


def _write(place: Path, stem: str, volume: Tensor, geometry: Geometry, dtype: Any = np.float32) -> None:
    write_volume(place / f"{stem}.nii.gz", volume, affine=geometry.affine, voxel_size_mm=geometry.voxel_size_mm, dtype=dtype)
