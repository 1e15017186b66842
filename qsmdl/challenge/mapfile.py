"""A susceptibility map in a NIfTI file from a stranger.

The header decides how much memory a reader takes and how bytes become numbers, so it is checked byte by byte, against the grid of the truth, before
any library sees the file.

Source of the format: NIfTI-1 Data Format (nifti1.h), NIfTI Data Format Working Group, 2004.
"""

import struct
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from qsmdl.challenge.inflating import inflate
from qsmdl.errors import InputError

Shape = tuple[int, int, int]

HEADER_BYTES = 352
"""The header of a single-file NIfTI-1 with the four bytes that announce extensions."""
LARGEST_VALUE_BYTES = 8
_BYTES_OF_TYPE = {2: 1, 256: 1, 4: 2, 512: 2, 8: 4, 768: 4, 16: 4, 64: 8, 1024: 8, 1280: 8}
"""Bytes per value of the real types: (u)int8 to (u)int64, float32 and float64."""
_REFUSED_TYPES = {0: "unknown", 1: "binary", 32: "complex64", 128: "RGB", 1536: "float128", 1792: "complex128", 2048: "complex256", 2304: "RGBA"}
_GZIP, _ZIP = b"\x1f\x8b", b"PK"
_REMEDY = "Write the map as a single real 3-D NIfTI-1 volume on the scan's grid; `qsmdl submit` does."


def largest_file_bytes(shape: Shape) -> int:
    """Bytes of the largest file that can hold one map of a grid: a header and float64 values."""
    n_x, n_y, n_z = shape
    return HEADER_BYTES + LARGEST_VALUE_BYTES * n_x * n_y * n_z


def _check_beginning(name: str, head: bytes) -> str:
    """The byte order, "<" or ">", of what is a single-file NIfTI-1 without extensions."""
    if head.startswith((_GZIP, _ZIP)):
        what = "compressed by gzip, although its name does not end in .gz" if head.startswith(_GZIP) else "a zip archive within the archive"
        raise InputError(f"{name} is {what}. {_REMEDY}")
    if len(head) < HEADER_BYTES:
        raise InputError(
            f"{name} has {len(head)} bytes, fewer than the {HEADER_BYTES} of a NIfTI-1 header: "
            f"it is truncated or no NIfTI file. {_REMEDY}"
        )
    order = next((o for o in "<>" if struct.unpack_from(f"{o}i", head)[0] == 348), None)
    if order is None:
        what = "NIfTI-2" if 540 in (*struct.unpack_from("<i", head), *struct.unpack_from(">i", head)) else "no NIfTI file"
        raise InputError(f"{name} is {what}: its first four bytes are {head[:4].hex(' ')}, not the header size 348. {_REMEDY}")
    magic = head[344:348]
    if magic != b"n+1\0":
        what = "the header of an .hdr/.img pair" if magic == b"ni1\0" else "not NIfTI-1"
        raise InputError(f"{name} is {what} (magic {magic!r} instead of b'n+1\\x00'). {_REMEDY}")
    if head[348:352] != b"\0\0\0\0":
        raise InputError(f"{name} has header extensions, in which anything can be stored; submissions carry no identifying content. {_REMEDY}")
    return order


def _check_grid(name: str, head: bytes, order: str, shape: Shape) -> None:
    n_axes, *axes = struct.unpack_from(f"{order}8h", head, 40)
    if not 3 <= n_axes <= 7 or tuple(axes[:n_axes]) != (*shape, *[1] * (n_axes - 3)):
        declared = " x ".join(str(n) for n in axes[: min(max(n_axes, 1), 7)])
        raise InputError(
            f"{name} declares {n_axes} axes of {declared} voxels, but the truth has {' x '.join(map(str, shape))}. "
            "Scoring compares voxel by voxel: hand the map in on the grid of the scan."
        )


def _check_values(name: str, head: bytes, order: str) -> int:
    """Bytes per value."""
    datatype, bits = struct.unpack_from(f"{order}2h", head, 70)
    size = _BYTES_OF_TYPE.get(datatype)
    if size is None:
        raise InputError(
            f"{name} holds values of the NIfTI type {datatype} "
            f"({_REFUSED_TYPES.get(datatype, 'unknown')}); real numbers are needed. {_REMEDY}"
        )
    if bits != 8 * size:
        raise InputError(
            f"{name} declares type {datatype} with {bits} bits per value, but that type has "
            f"{8 * size}. The header is damaged. {_REMEDY}"
        )
    offset, slope, intercept = struct.unpack_from(f"{order}3f", head, 108)
    if offset != HEADER_BYTES:
        raise InputError(
            f"{name} declares that its values begin at byte {offset:g}; they begin at "
            f"{HEADER_BYTES}, directly after the header. {_REMEDY}"
        )
    # slope NaN or 0: no scaling
    if np.isinf(slope) or not (np.isfinite(intercept) or np.isnan(slope)):
        raise InputError(f"{name} has the scale factor {slope} and offset {intercept}; both must be finite. {_REMEDY}")
    return size


def check_file(file: BinaryIO, *, name: str, shape: Shape) -> None:
    """Raises InputError unless a file is one real NIfTI-1 volume of the shape (x, y, z) and of exactly the length that its header tells."""
    file.seek(0)
    head = file.read(HEADER_BYTES)
    order = _check_beginning(name, head)
    _check_grid(name, head, order, shape)
    expected = HEADER_BYTES + _check_values(name, head, order) * int(np.prod(shape))
    found = file.seek(0, 2)
    if found != expected:
        raise InputError(f"{name} has {found} bytes, but its header tells {expected}: it is truncated or has something appended. {_REMEDY}")


def _unpacked(chunks: Iterable[bytes], name: str, shape: Shape) -> Iterator[bytes]:
    return inflate(chunks, name=f"the gzip file {name}", wbits=31, max_bytes=largest_file_bytes(shape))


def _decode(file: BinaryIO, name: str, shape: Shape) -> NDArray[np.float32]:
    file.seek(0)
    nifti: Any = nib.nifti1.Nifti1Image  # nibabel's constructors carry no types
    try:
        with np.errstate(all="ignore"):  # float64 beyond the range of float32 becomes inf and is counted with the others
            values = nifti.from_stream(file).get_fdata(dtype=np.float32, caching="unchanged")
    except (ValueError, EOFError, ImageFileError, HeaderDataError, np.linalg.LinAlgError) as error:
        raise InputError(f"{name} could not be read as NIfTI ({type(error).__name__}: {error}). {_REMEDY}") from error
    # a copy: the values may still be mapped to the file, which vanishes
    return np.array(values.reshape(shape, order="F"), dtype=np.float32, order="C")


def _check_finite(name: str, values: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"{name} holds {int(bad.sum())} NaN or infinite values, {int((bad & mask).sum())} of them inside the mask, the first at index {where}. "
            "Maps must be finite everywhere: set voxels outside the brain to 0 and repair those inside."
        )


def read_map(chunks: Iterable[bytes], *, name: str, gzipped: bool, shape: Shape, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A map [x, y, z] from the bytes of a `.nii` or `.nii.gz` file, in the units of the file, scale factors applied.

    The bytes flow into a temporary file without a name, of at most `largest_file_bytes`, which vanishes with the process. name: what messages call
    the file, fit to be printed; mask [x, y, z]: only to say where values that are not finite lie.
    Raises InputError: damaged, too large, a header that breaks a rule, another grid, NaN or Inf.
    """
    with tempfile.TemporaryFile() as file:
        for piece in _unpacked(chunks, name, shape) if gzipped else chunks:
            file.write(piece)
        check_file(file, name=name, shape=shape)
        values = _decode(file, name, shape)
    _check_finite(name, values, mask)
    return values
