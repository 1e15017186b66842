"""Volumes for a report: cropped to the mask, quantised to int16 inside it, compressed, as text.

What is embedded is a plain NIfTI-1 file (gzip, base64), so that any NIfTI reader can check it.
Source of the format: NIfTI-1 Data Format (nifti1.h), NIfTI Data Format Working Group, 2004.
"""

import base64
import gzip
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from numpy.typing import NDArray

from qsmdl.errors import InputError
from qsmdl.scan import Geometry

Box = tuple[slice, slice, slice]

STEP_PPM = 1e-4
"""A thousandth of the half window of +-0.1 ppm; int16 then reaches +-3.27 ppm, and wider maps get a coarser step."""
MARGIN_VOXELS = 2
_LARGEST = 32767
_HEADER_BYTES = 352
_HEADER: Any = Nifti1Header  # nibabel gives these no types


@dataclass(frozen=True, slots=True)
class EmbeddedVolume:
    """text: a NIfTI file, compressed with gzip, as base64; step_ppm: between two levels (0 for labels and masks); n_invalid: voxels of the mask that
    were NaN or Inf and are shown as 0.
    """

    text: str
    step_ppm: float = 0.0
    n_invalid: int = 0


def crop_to(mask: NDArray[np.bool_]) -> Box:
    """The mask's bounding box with a small margin, clipped to the volume. Raises InputError where the mask is empty."""
    if mask.ndim != 3 or not mask.any():
        raise InputError(f"The mask has the shape {mask.shape} and {int(mask.sum())} voxels inside; it must be 3-D and hold at least one.")
    x, y, z = (slice(max(int(i.min()) - MARGIN_VOXELS, 0), int(i.max()) + MARGIN_VOXELS + 1) for i in np.nonzero(mask))
    nx, ny, nz = mask.shape
    return slice(x.start, min(x.stop, nx)), slice(y.start, min(y.stop, ny)), slice(z.start, min(z.stop, nz))


def affine_of(geometry: Geometry) -> NDArray[np.float64]:
    """4 x 4, voxels to mm; without a file's own, the voxel size alone. Raises InputError where it has no inverse."""
    affine = np.diag([*geometry.voxel_size_mm, 1.0]) if geometry.affine is None else np.asarray(geometry.affine, dtype=float)
    if not np.isfinite(affine).all() or abs(float(np.linalg.det(affine[:3, :3]))) < 1e-9:
        raise InputError(f"The affine {affine.tolist()} of the maps has no inverse, so left and right cannot be told. Repair the header.")
    return affine


def _embed(values: NDArray[Any], geometry: Geometry, step_ppm: float) -> str:
    """Values [x, y, z] of int16 or uint8, already cropped; geometry belongs to them."""
    header = _HEADER()
    header.set_data_dtype(values.dtype)
    header.set_data_shape(values.shape)
    header.set_sform(affine_of(geometry), code=1)
    header.set_zooms(geometry.voxel_size_mm)
    header.set_xyzt_units("mm")
    header["magic"], header["vox_offset"] = b"n+1", _HEADER_BYTES
    header["scl_slope"], header["scl_inter"] = step_ppm or 1.0, 0.0
    content = header.binaryblock + bytes(_HEADER_BYTES - len(header.binaryblock)) + values.astype(values.dtype.newbyteorder("<")).tobytes(order="F")
    return base64.b64encode(gzip.compress(content, compresslevel=6, mtime=0)).decode("ascii")


def embed_map(chi_ppm: NDArray[Any], mask: NDArray[np.bool_], geometry: Geometry) -> EmbeddedVolume:
    """A map [x, y, z] in ppm as int16 steps of `STEP_PPM` inside the mask, 0 outside. The error is at most half a step.

    Raises InputError: another shape than the mask, an empty mask, an affine without inverse.
    """
    if chi_ppm.shape != mask.shape:
        raise InputError(f"The map has the shape {chi_ppm.shape}, but the mask has {mask.shape}. A report shows maps on one grid.")
    box = crop_to(mask)
    inside = mask[box]
    values = np.where(inside, chi_ppm[box].astype(np.float64), 0.0)
    invalid = ~np.isfinite(values)
    values[invalid] = 0.0
    step = max(STEP_PPM, float(np.abs(values).max()) / _LARGEST)
    step = float(np.float32(step))  # the header's precision
    levels = np.clip(np.rint(values / step), -_LARGEST, _LARGEST).astype(np.int16)
    return EmbeddedVolume(_embed(levels, geometry.cropped(box), step), step, int(invalid.sum()))


def embed_labels(labels: NDArray[Any], mask: NDArray[np.bool_], geometry: Geometry) -> EmbeddedVolume:
    """Labels or a mask [x, y, z] as uint8, cropped like the maps; labels outside the mask become 0. Raises InputError as `embed_map`."""
    if labels.shape != mask.shape:
        raise InputError(f"The labels have the shape {labels.shape}, but the mask has {mask.shape}. A report shows volumes on one grid.")
    box = crop_to(mask)
    values = np.where(mask[box], labels[box], 0).astype(np.uint8)
    return EmbeddedVolume(_embed(values, geometry.cropped(box), 0.0))
