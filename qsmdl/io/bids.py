"""Scans and their truth as a BIDS dataset: multi-echo gradient echo (MEGRE) in `sub-XX/anat`, mask, truth and labels in `derivatives/qsmdl`.

Phase is in rad, susceptibility (`Chimap`) in ppm. B0 is along the world's z axis, so the affine says where it lies in the voxels' axes; the sidecars
repeat it as `B0_dir`, a unit vector in voxel axes, which BIDS does not know but QSM tools read. Magnitude and phase follow the Brain Imaging Data
Structure 1.10 (anatomy imaging data; quantitative MRI), the derivatives its chapter on imaging derivatives.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.io.bids_files import ScanFiles, find_files, is_dataset, read_sidecar, scan_folders, scan_name
from qsmdl.io.checks import as_mask, check_phase_range, check_same_grid, check_units, finite_inside
from qsmdl.io.nifti import HeaderInfo, known_voxel_size, read_header, read_volume, warn_if_affine_disagrees
from qsmdl.scan import Geometry, Scan
from qsmdl.units import GAMMA_MHZ_PER_TESLA, hz_per_ppm, ppm_from_hz

logger = logging.getLogger(__name__)

Triple = tuple[float, float, float]
_PARALLEL = 0.9998
"""Cosine of the angle (about a degree) within which sidecar and affine agree on B0; a field does not know B0's sign."""
_EXACTLY = 1 - 1e-9


def b0_of_affine(affine: NDArray[np.floating[Any]]) -> Triple:
    """The direction of B0, the world's z axis, in the voxel axes of an affine 4 x 4."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    x, y, z = axes[2] / np.linalg.norm(axes[2])
    return float(x), float(y), float(z)


def affine_of(geometry: Geometry) -> NDArray[np.float64]:
    """An affine 4 x 4 that says where B0 lies: the geometry's own where it does, else turned by the smallest angle that takes B0 to the world's z."""
    own = np.diag([*geometry.voxel_size_mm, 1.0]) if geometry.affine is None else np.asarray(geometry.affine, dtype=float)
    axes = own[:3, :3] / np.linalg.norm(own[:3, :3], axis=0)
    along = axes @ np.array(geometry.b0_direction)
    if along[2] > _EXACTLY:
        return own
    cross, cosine = np.cross(along, (0.0, 0.0, 1.0)), float(along[2])
    turn = np.diag([1.0, -1.0, -1.0])  # B0 against the world's z: half a turn about x
    if cosine > -_EXACTLY:
        skew = np.array([[0, -cross[2], cross[1]], [cross[2], 0, -cross[0]], [-cross[1], cross[0], 0]])
        turn = np.eye(3) + skew + skew @ skew / (1 + cosine)  # Rodrigues' formula
    turned = np.eye(4)
    turned[:3, :3] = turn @ own[:3, :3]
    turned[:3, 3] = turn @ own[:3, 3]
    return turned


def _number(path: Path, content: Mapping[str, Any], key: str, limits: tuple[float, float], meaning: str) -> float:
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not limits[0] < value <= limits[1]:
        raise InputError(
            f"The sidecar of {path} has {key} {value!r}; {meaning}, above {limits[0]:g} and at most {limits[1]:g}, is needed. Correct its .json."
        )
    return float(value)


def _direction(path: Path, content: Mapping[str, Any], header: HeaderInfo) -> Triple:
    """B0 in voxel axes: what the sidecar says, else what the affine says."""
    from_affine = b0_of_affine(header.affine)
    if content.get("B0_dir") is None:
        return from_affine
    value = content["B0_dir"]
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(v, int | float) and math.isfinite(v) for v in value):
        raise InputError(f"The sidecar of {path} has B0_dir {value!r}; a unit vector of three numbers in voxel axes is needed. Correct its .json.")
    norm = math.sqrt(sum(v * v for v in value))
    if abs(norm - 1) > 0.01:
        raise InputError(f"The sidecar of {path} has B0_dir {value} with length {norm:.4g}, but must be a unit vector in voxel axes.")
    x, y, z = (v / norm for v in value)
    if abs(float(np.dot((x, y, z), from_affine))) < _PARALLEL:
        told = tuple(round(v, 4) for v in from_affine)
        logger.warning("%s: its sidecar says B0_dir %s, its affine %s; the sidecar is used. Correct whichever is wrong.", path, value, told)
    return x, y, z


def _same(paths: tuple[Path, ...], values: list[float], key: str) -> float:
    if len(set(values)) > 1:
        raise InputError(f"The sidecars of {paths[0]} and its other echoes differ in {key}: {sorted(set(values))}. Correct them.")
    return values[0]


def _geometry(files: ScanFiles, header: HeaderInfo, sidecars: list[dict[str, Any]]) -> Geometry:
    warn_if_affine_disagrees(header)
    fields = [_number(p, c, "MagneticFieldStrength", (0, 25), "the field strength in tesla") for p, c in zip(files.phase, sidecars, strict=True)]
    x, y, z = header.shape[:3]
    b0 = _same(files.phase, fields, "MagneticFieldStrength")
    return Geometry((x, y, z), known_voxel_size(header), _direction(files.phase[0], sidecars[0], header), b0, header.affine)


def header_source(folder: Path | str) -> Path:
    """The file whose header a scan's outputs take: the magnitude of its first echo."""
    return find_files(folder).magnitude[0]


def _read_mask(files: ScanFiles, header: HeaderInfo) -> Tensor:
    volume, _ = read_volume(files.mask, ndim=3)
    check_same_grid(header.path, header.shape, files.mask, tuple(volume.shape))
    return as_mask(files.mask, volume)


def read_mask_and_geometry(folder: Path | str) -> tuple[Tensor, Geometry, HeaderInfo]:
    """The brain mask (bool) of a subject or session, its geometry, and the header of its first echo. Raises InputError as `read_scan`."""
    files = find_files(folder)
    header = read_header(files.magnitude[0])
    geometry = _geometry(files, header, [read_sidecar(path, files.root) for path in files.phase])
    return _read_mask(files, header), geometry, header


def _read_echoes(paths: tuple[Path, ...], mask: Tensor, header: HeaderInfo) -> Tensor:
    """[echo, x, y, z], finite inside the mask."""
    echoes = []
    for path in paths:
        volume, _ = read_volume(path, ndim=3)
        check_same_grid(header.path, header.shape, path, tuple(volume.shape))
        echoes.append(finite_inside(path, volume, mask))
    return torch.stack(echoes)


def _read_field(files: ScanFiles, mask: Tensor, header: HeaderInfo, b0_tesla: float, gamma_mhz_per_tesla: float) -> Tensor | None:
    path = files.field
    if path is None:
        return None
    units = read_sidecar(path, files.root).get("Units")
    if units not in ("Hz", "ppm"):
        raise InputError(f"The sidecar of {path} has the Units {units!r}; 'Hz' or 'ppm' is needed. Correct its .json, or remove the field map.")
    volume, _ = read_volume(path, ndim=3)
    check_same_grid(header.path, header.shape, path, tuple(volume.shape))
    values = finite_inside(path, volume, mask)
    field_ppm = values if units == "ppm" else ppm_from_hz(values, b0_tesla, gamma_mhz_per_tesla)
    check_units(path, field_ppm, mask, hz_per_ppm(b0_tesla, gamma_mhz_per_tesla), str(units))
    return field_ppm


def read_scan(folder: Path | str, *, gamma_mhz_per_tesla: float = GAMMA_MHZ_PER_TESLA) -> Scan:
    """Reads the multi-echo scan of a subject (`sub-XX`) or session (`sub-XX/ses-YY`) of a BIDS dataset; its name is their labels.

    Echo times and field strength come from the sidecars of the phase, the voxel size from the header, B0's direction from `B0_dir` or else from the
    affine, the mask from the derivatives. NaN and Inf outside the mask become 0.
    Raises InputError naming the file: what `find_files` finds wrong, sidecars without EchoTime (s) or MagneticFieldStrength (T), echo times that do
    not ascend, grids that differ, empty mask, NaN inside the mask, phase that is not in rad.
    """
    folder = Path(folder)
    if is_dataset(folder):
        names = ", ".join(str(path.relative_to(folder)) for path in scan_folders(folder))
        raise InputError(f"{folder} is a BIDS dataset. Name one of its subjects or sessions with echoes: {names or 'it has none'}.")
    files = find_files(folder)
    sidecars, header = [read_sidecar(path, files.root) for path in files.phase], read_header(files.magnitude[0])
    times = [_number(p, c, "EchoTime", (0, 0.9999), "an echo time in s") for p, c in zip(files.phase, sidecars, strict=True)]
    if times != sorted(set(times)):
        raise InputError(f"The echo times of {files.phase[0]} and its other echoes are {times} s, but must ascend with the echo's number.")
    geometry, mask = _geometry(files, header, sidecars), _read_mask(files, header)
    magnitude, phase_rad = _read_echoes(files.magnitude, mask, header), _read_echoes(files.phase, mask, header)
    for path, echo in zip(files.phase, phase_rad, strict=True):
        check_phase_range(path, echo, mask)
    frequency_ppm = _read_field(files, mask, header, geometry.b0_tesla, gamma_mhz_per_tesla)
    return Scan(geometry, tuple(times), magnitude, phase_rad, mask, frequency_ppm, scan_name(folder))
