"""A field map from files, for data that come without echoes."""

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.io.checks import as_mask, check_not_wrapped, check_same_grid, check_units, finite_inside
from qsmdl.io.nifti import known_voxel_size, read_volume, warn_if_affine_disagrees
from qsmdl.scan import FieldKind, FieldMap, Geometry
from qsmdl.units import GAMMA_MHZ_PER_TESLA, hz_per_ppm, ppm_from_hz, ppm_from_rad

FieldUnits = Literal["ppm", "hz", "rad"]


def _field_ppm(values: Tensor, units: str, b0_tesla: float, echo_time_s: float | None, gamma_mhz_per_tesla: float) -> Tensor:
    if units == "ppm":
        return values
    if units == "hz":
        return ppm_from_hz(values, b0_tesla, gamma_mhz_per_tesla)
    if echo_time_s is None or not 0 < echo_time_s < 1:
        raise InputError(f"The echo time is {echo_time_s}, but a field in rad needs the echo time of the measurement, between 0 and 1 s. Pass it.")
    return ppm_from_rad(values, b0_tesla, echo_time_s) * (GAMMA_MHZ_PER_TESLA / gamma_mhz_per_tesla)


def _read_weight(weight_path: Path | str | None, mask: Tensor, mask_path: Path) -> Tensor:
    if weight_path is None:
        return mask.float()
    volume, header = read_volume(weight_path, ndim=3)
    check_same_grid(mask_path, tuple(mask.shape), header.path, tuple(volume.shape))
    weight = finite_inside(header.path, volume, mask) * mask
    mean = float(weight[mask].mean())
    if float(weight.min()) < 0 or mean <= 0:
        raise InputError(
            f"The weight {header.path} has the smallest value {float(weight.min()):.4g} and the mean {mean:.4g} inside the mask, "
            "but must be at least 0 everywhere and positive somewhere. The magnitude will do."
        )
    return weight / mean


def read_field(
    field_path: Path | str,
    units: FieldUnits,
    mask_path: Path | str,
    *,
    b0_tesla: float,
    b0_direction: tuple[float, float, float] = (0.0, 0.0, 1.0),
    echo_time_s: float | None = None,
    voxel_size_mm: tuple[float, float, float] | None = None,
    weight_path: Path | str | None = None,
    kind: FieldKind = "local",
    gamma_mhz_per_tesla: float = GAMMA_MHZ_PER_TESLA,
    name: str | None = None,
) -> FieldMap:
    """Reads a field map (x, y, z) in ppm, Hz, or rad at `echo_time_s` (unwrapped), with its mask.

    voxel_size_mm: None takes the header's; weight_path: relative confidence 1/sigma (the magnitude will do), None weighs all voxels alike;
    name: None takes the file's. A local field whose size is doubtful is logged as a warning.
    Raises InputError naming the file: missing, unreadable, not 3-D, grids that differ, empty mask, NaN or Inf inside the mask; unknown units;
    rad without an echo time; values that end at -pi and pi; a local field too large for any head.
    """
    if units not in get_args(FieldUnits):
        raise InputError(f"The units of the field are {units!r}; they must be one of {', '.join(get_args(FieldUnits))}.")
    volume, header = read_volume(field_path, ndim=3)
    mask_volume, mask_header = read_volume(mask_path, ndim=3)
    check_same_grid(mask_header.path, tuple(mask_volume.shape), header.path, tuple(volume.shape))
    mask = as_mask(mask_header.path, mask_volume)
    warn_if_affine_disagrees(header)
    x, y, z = volume.shape
    geometry = Geometry((x, y, z), voxel_size_mm or known_voxel_size(header), b0_direction, b0_tesla, header.affine)
    values = finite_inside(header.path, volume, mask)
    check_not_wrapped(header.path, values, mask, units)
    field_ppm = _field_ppm(values, units, b0_tesla, echo_time_s, gamma_mhz_per_tesla)
    if kind == "local":
        check_units(header.path, field_ppm, mask, hz_per_ppm(b0_tesla, gamma_mhz_per_tesla), units)
    weight = _read_weight(weight_path, mask, mask_header.path)
    return FieldMap(geometry, torch.where(mask, field_ppm, 0.0), mask, weight, None, kind, name or header.path.name.split(".")[0])
