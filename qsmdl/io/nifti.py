"""Volumes in NIfTI files."""

import gzip
import logging
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.io.files import atomic_path

logger = logging.getLogger(__name__)

SUFFIXES = (".nii", ".nii.gz")
_MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}
_UNREADABLE = (OSError, EOFError, zlib.error, ImageFileError, HeaderDataError, ValueError, OverflowError, MemoryError)


@dataclass(frozen=True, eq=False, slots=True)
class HeaderInfo:
    """What a volume's header says. path: the file read; shape: as in the file; voxel_size_mm: (x, y, z) from pixdim; affine: 4 x 4, voxels to mm."""

    path: Path
    shape: tuple[int, ...]
    voxel_size_mm: tuple[float, float, float]
    affine: np.ndarray


def nifti_files(folder: Path | str) -> list[Path]:
    """All NIfTI files in a folder and its sub-folders but hidden ones, in alphabetical order: what a training may read, and what is fingerprinted."""
    return sorted(p for p in Path(folder).rglob("*") if p.name.endswith(SUFFIXES) and p.is_file() and not p.name.startswith("."))


def find_nifti(folder: Path | str, stem: str) -> Path:
    """The file `stem.nii` or `stem.nii.gz` in a folder. Raises InputError: no such folder, neither file, or both of them."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"The folder {folder} does not exist. It should hold {stem}.nii or {stem}.nii.gz.")
    found = [folder / (stem + suffix) for suffix in SUFFIXES if (folder / (stem + suffix)).is_file()]
    if not found:
        raise InputError(f"{folder} holds neither {stem}.nii nor {stem}.nii.gz. Check the folder and the file's name (upper and lower case count).")
    if len(found) > 1:
        raise InputError(f"{folder} holds both {stem}.nii and {stem}.nii.gz, and they may differ. Keep one of them.")
    return found[0]


def has_nifti(folder: Path | str, stem: str) -> bool:
    """Whether a folder holds `stem.nii` or `stem.nii.gz`."""
    return any((Path(folder) / (stem + suffix)).is_file() for suffix in SUFFIXES)


def _resolve(path: Path | str) -> Path:
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, but a NIfTI file is needed. Name one file in it.")
    if path.name.endswith(SUFFIXES):
        if not path.is_file():
            raise InputError(f"{path} does not exist. Check the name.")
        return path
    if path.is_file():
        raise InputError(f"{path} is not a NIfTI file: its name ends neither in .nii nor in .nii.gz. Convert it first.")
    return find_nifti(path.parent, path.name)


def _load(path: Path) -> Any:
    try:
        image = nib.load(path, mmap=False)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    if not isinstance(image, nib.nifti1.Nifti1Pair):
        raise InputError(f"{path} is not NIfTI but {type(image).__name__}. Convert it to NIfTI.")
    return image


def _with_checksum(path: Path, image: Any) -> Any:
    """A compressed image read to its very end: only there gzip's checksum tells a damaged file from a sound one, and nibabel stops before it."""
    if not path.name.endswith(".gz"):
        return image
    with gzip.open(path, "rb") as file:
        return type(image).from_bytes(file.read())


def _unreadable(path: Path, error: BaseException) -> InputError:
    if path.stat().st_size == 0:
        return InputError(f"{path} is empty (0 bytes). Copy or download it again.")
    reason = f"{type(error).__name__}: {error}"
    return InputError(f"{path} could not be read as NIfTI ({reason}). The file is truncated, damaged or of another format: copy or export it again.")


def _check_content(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], ndim: int | None) -> None:
    if dtype.kind not in "iufb":
        raise InputError(f"{path} holds values of the type {dtype}; real numbers are needed. Write magnitude and phase as separate files.")
    if not shape or min(shape) < 1:
        raise InputError(f"{path} has the shape {shape} and so holds no voxels. Export it again.")
    if ndim is not None and len(shape) != ndim:
        axes = "(x, y, z)" if ndim == 3 else "(x, y, z, echo)"
        raise InputError(f"{path} is {len(shape)}-D with the shape {shape} where {ndim}-D {axes} is needed. Name the right file, split or stack it.")


def _header_info(path: Path, image: Any) -> HeaderInfo:
    shape = tuple(int(n) for n in image.shape)
    try:
        factor = _MM_PER_UNIT.get(image.header.get_xyzt_units()[0], 1.0)
    except KeyError:  # a code that the standard does not know
        factor = 1.0
    zooms = [abs(float(z)) * factor for z in image.header.get_zooms()[:3]]
    x, y, z = [*zooms, 1.0, 1.0, 1.0][:3]
    return HeaderInfo(path, shape, (x, y, z), np.array(image.affine, dtype=float))


def _drop_trailing_ones(shape: tuple[int, ...], ndim: int | None) -> tuple[int, ...]:
    """Some writers store a volume as (x, y, z, 1)."""
    while ndim is not None and len(shape) > ndim and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def read_volume(path: Path | str, ndim: int | None = None, *, dtype: type[np.floating[Any]] = np.float32) -> tuple[Tensor, HeaderInfo]:
    """Reads a NIfTI file (`.nii`, `.nii.gz`, or a path without suffix for either) with its scale factors applied.

    ndim: 3 or 4 where that many axes are needed (trailing axes of length 1 are dropped); dtype: float32, or float64 where scale factors must not be
    rounded. Returns a contiguous tensor with the file's axes (x, y, z[, echo]) and what the header says.
    Raises InputError naming the file: missing, empty, truncated, not NIfTI, complex or colour values, no voxels, wrong number of axes.
    """
    path = _resolve(path)
    image = _load(path)
    shape = _drop_trailing_ones(tuple(image.shape), ndim)
    _check_content(path, shape, image.get_data_dtype(), ndim)
    try:
        with np.errstate(all="ignore"):  # float64 beyond the range of float32 becomes inf, which the checks on the mask report
            values = _with_checksum(path, image).get_fdata(dtype=dtype, caching="unchanged")
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    return torch.from_numpy(np.ascontiguousarray(values.reshape(shape, order="F"))), _header_info(path, image)


def read_header(path: Path | str) -> HeaderInfo:
    """What the header of a NIfTI file says, without reading its values. Raises InputError as `read_volume` where the header alone tells."""
    path = _resolve(path)
    return _header_info(path, _load(path))


def known_voxel_size(info: HeaderInfo) -> tuple[float, float, float]:
    """The voxel size that a header gives. Raises InputError where an entry of pixdim is 0, which nibabel turns into 1 mm."""
    with ImageOpener(os.fspath(info.path)) as file:
        kind: Any = nib.Nifti2Header if isinstance(_load(info.path), nib.Nifti2Image) else nib.Nifti1Header
        raw = kind.from_fileobj(file, check=False)
    sizes = [float(size) for size in raw["pixdim"][1:4]]
    if 0.0 in sizes:
        raise InputError(
            f"The header of {info.path} gives voxels of {_sizes((sizes[0], sizes[1], sizes[2]))} mm; every entry of pixdim must be positive. Correct "
            "the header, or give voxel_size in params.json."
        )
    return info.voxel_size_mm


def warn_if_affine_disagrees(info: HeaderInfo) -> None:
    """Logs a warning where pixdim and affine give different voxel sizes; pixdim is used."""
    from_affine = tuple(float(v) for v in np.sqrt((info.affine[:3, :3] ** 2).sum(axis=0)))
    if not np.allclose(from_affine, info.voxel_size_mm, rtol=0.01):
        logger.warning("%s: pixdim gives voxels of %s mm, the affine %s; pixdim is used.", info.path, _sizes(info.voxel_size_mm), _sizes(from_affine))


def _sizes(sizes: tuple[float, ...]) -> str:
    return " x ".join(f"{s:g}" for s in sizes)


def _image_like(like: Path, values: np.ndarray, dtype: np.dtype[Any]) -> Any:
    source = _load(_resolve(like))
    if tuple(source.shape[:3]) != values.shape[:3]:
        raise InputError(
            f"The volume to write has the shape {values.shape}, but {like}, whose header it should take, has {tuple(source.shape)}. "
            "Name a file on the same grid."
        )
    header = source.header.copy()
    header.set_intent("none")
    header["cal_min"] = header["cal_max"] = 0  # the display window of another quantity
    header.set_data_dtype(dtype)
    # without an affine, nibabel keeps qform, sform and their codes as they are in the header
    return type(source)(values, None, header)


def _image_of(values: np.ndarray, dtype: np.dtype[Any], affine: np.ndarray | None, voxel_size_mm: tuple[float, float, float]) -> Any:
    matrix = np.diag([*voxel_size_mm, 1.0]) if affine is None else np.asarray(affine, dtype=float)
    make_image: Any = nib.nifti1.Nifti1Image  # nibabel's constructors carry no types
    image = make_image(values, matrix)
    image.header.set_zooms((*voxel_size_mm, *([1.0] * (values.ndim - 3))))
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_data_dtype(dtype)
    return image


def write_volume(
    path: Path | str,
    volume: Tensor | np.ndarray,
    *,
    affine: np.ndarray | None = None,
    voxel_size_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    like: Path | str | None = None,
    overwrite: bool = False,
    dtype: Any = np.float32,
) -> None:
    """Writes a volume (x, y, z[, echo]) to `.nii` or `.nii.gz`, atomically.

    like: a NIfTI file on the same grid whose header (voxel size, qform, sform, their codes, units) is kept; without it, affine and voxel_size_mm make
    a new header. Scale factor 1. Raises InputError: wrong suffix, fewer than 3 axes, another grid than `like`, existing target, or the disk refuses.
    """
    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path} ends neither in .nii nor in .nii.gz; volumes are written as NIfTI. Change the name.")
    values = (volume.detach().cpu().numpy() if isinstance(volume, Tensor) else np.asarray(volume)).astype(dtype)
    if values.ndim not in (3, 4):
        raise InputError(f"The volume for {path} has the shape {values.shape}; (x, y, z) or (x, y, z, echo) is needed.")
    kind = np.dtype(dtype)
    image = _image_of(values, kind, affine, voxel_size_mm) if like is None else _image_like(Path(like), values, kind)
    with atomic_path(path, overwrite) as hidden:
        nib.save(image, hidden)
