"""Fingerprints of volumes: who has one can tell whether another volume holds the same head, without having the volume.

Three parts. The content hash is equal for equal decoded values, whatever the file's type, compression or header. The detail is the volume's
band-pass content at 4 mm, the scale on which gyri and vessels differ from head to head and ventricles and hemispheres, which all heads share, cancel.
The outline is the shape of the region that is not background. Detail and outline are compared by `challenge.matching`; nothing here reads a truth.
"""

import base64
import binascii
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.io.nifti import nifti_files, read_volume

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]
Triple = tuple[float, float, float]

GRID_MM = 4.0
"""Grid of a stored detail. At the shortest wavelength that it can hold, 8 mm, the band has fallen to half its peak."""
FINE_MM, COARSE_MM = 2.4, 3.6
"""Standard deviations of the two Gaussians whose difference is the detail: the band peaks at a wavelength of 13 mm."""
CLIP = 2.5
"""Details are clipped at this many robust standard deviations, so that a calcification or a vein does not outweigh the rest."""
OUTLINE_CELLS, OUTLINE_SPAN, OUTLINE_SOFTNESS = 40, 2.4, 0.6
"""The outline's cube: cells along an axis, half its width in standard deviations of the region, and the cells' Gaussian width in cells."""
_STEP, _LEVELS = 0.25, 60
_MIN_VOXELS = 60
_NEGLIGIBLE = 0.05
"""Of the typical height or texture of a volume: what lies below counts as background."""
_OUTSIDE = -128
_LARGEST_GRID = 256


def content_hash(volume: Tensor | NDArray[Any]) -> str:
    """SHA-256 of the decoded values (as little-endian float32 in C order) and the shape: the same for `.nii` and `.nii.gz`, for int16 with a slope
    and float32, wherever the values decode to the same float32; -0 counts as 0, and every NaN is one.
    """
    values = np.asarray(volume.detach().cpu().numpy() if isinstance(volume, Tensor) else volume).astype("<f4", order="C", copy=True)
    values[values == 0] = 0.0
    values[np.isnan(values)] = np.nan
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes(order="C")).hexdigest()


@dataclass(frozen=True, eq=False, slots=True)
class Signature:
    """detail [x, y, z]: on a grid of GRID_MM, in robust standard deviations, 0 outside `support`; None for a volume without texture (a mask).

    outline: occupancy [OUTLINE_CELLS] * 3 of a cube around the region that is not background, from 0 to 1; None where there is no background.
    """

    detail: Volume | None
    support: Mask | None
    outline: Volume | None

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing in it to compare."""
        detail, outline = self.detail, self.outline
        return (detail is None or self.support is None or np.unique(detail[self.support]).size < 2) and (outline is None or not np.ptp(outline))

    def encode(self) -> dict[str, Any]:
        """Plain JSON content, about 25 kB for a head."""
        packed: dict[str, Any] = {"grid_mm": GRID_MM, "detail": None, "outline": None}
        if self.detail is not None and self.support is not None:
            levels = np.where(self.support, np.rint(self.detail / _STEP), _OUTSIDE).astype(np.int8)
            packed["detail"] = {"shape": list(levels.shape), "data": _pack(levels)}
        if self.outline is not None:
            packed["outline"] = _pack(np.rint(self.outline * _LEVELS).astype(np.int8))
        return packed

    @classmethod
    def decode(cls, packed: Mapping[str, Any]) -> "Signature":
        """What `encode` made. Raises InputError for anything else."""
        try:
            if packed["grid_mm"] != GRID_MM:
                raise InputError(f"The signature has a grid of {packed['grid_mm']} mm, but {GRID_MM} mm is compared. Fingerprint the volume again.")
            detail = support = outline = None
            if packed["detail"] is not None:
                x, y, z = (int(n) for n in packed["detail"]["shape"])
                levels = _unpack(packed["detail"]["data"], (x, y, z))
                support = levels != _OUTSIDE
                detail = np.where(support, levels * np.float32(_STEP), np.float32(0)).astype(np.float32)
            if packed["outline"] is not None:
                outline = _unpack(packed["outline"], (OUTLINE_CELLS,) * 3).astype(np.float32) / np.float32(_LEVELS)
        except (KeyError, TypeError, ValueError, OverflowError, zlib.error, binascii.Error) as error:
            raise InputError(f"A stored signature cannot be read ({type(error).__name__}: {error}). Fingerprint the volume again.") from error
        return cls(detail, support, outline)


def _pack(levels: NDArray[np.int8]) -> str:
    return base64.b64encode(zlib.compress(levels.tobytes(order="C"), 9)).decode("ascii")


def _unpack(text: str, shape: tuple[int, int, int]) -> NDArray[np.int8]:
    """A size is agreed on first, so that a small text cannot fill the memory."""
    if min(shape) < 1 or max(shape) > _LARGEST_GRID:
        raise ValueError(f"shape {shape}")
    expected = int(np.prod(shape))
    content = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), expected + 1)
    return np.frombuffer(content, dtype=np.int8, count=expected).reshape(shape) if len(content) == expected else _wrong_size(shape)


def _wrong_size(shape: tuple[int, int, int]) -> NDArray[np.int8]:
    raise ValueError(f"the data do not fill the shape {shape}")


def _faces(volume: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([volume.take(i, axis=axis).ravel() for axis in range(3) for i in (0, -1)])


def _box(region: Mask) -> tuple[slice, ...]:
    return tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(region))


def _largest_piece(region: Mask) -> Mask:
    """Of a region, without holes."""
    pieces, _ = ndimage.label(region)
    filled: Mask = ndimage.binary_fill_holes(pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:])))
    return filled


def _raised_region(volume: Volume) -> Mask | None:
    """The region that stands out from the background as one solid piece (an offset was added to the brain alone, or it is a mask), or None."""
    smooth = ndimage.uniform_filter(volume, 5, mode="nearest")
    border = _faces(smooth)
    middle = float(np.median(border))
    height = np.abs(smooth - middle)
    noise = 1.4826 * float(np.median(np.abs(border - middle)))
    raised = height > max(6 * noise, _NEGLIGIBLE * float(height.max()), 1e-30)
    if not raised.any():
        return None
    raised &= height > 0.5 * np.median(height[raised])  # smoothing has widened the region: its edge is at half its height
    if np.quantile(height[raised], 0.9) > 1.5 * np.median(height[raised]):
        return None  # hills of texture, not a plateau
    filled = _largest_piece(raised)
    if raised[filled].mean() <= 0.8 or not 0.05 < filled.mean() < 0.9:
        return None
    outside = height[~ndimage.binary_dilation(filled, iterations=3)]
    is_calm = not outside.size or np.quantile(outside, 0.98) < 0.25 * np.median(height[filled])
    return filled if is_calm else None  # or there are other hills beside it


def _textured_region(volume: Volume) -> Mask | None:
    """The region whose texture is not negligible beside that of the rest, or None: interpolation by splines or in k-space leaves ripples in the
    background, weak noise and a slope leave no two voxels of it equal.
    """
    rough = volume - ndimage.uniform_filter(volume, 5, mode="nearest")
    level = np.sqrt(ndimage.uniform_filter(rough**2, 5).clip(0))
    raised = level > _NEGLIGIBLE * float(np.median(level[level >= level.mean()]))
    # the two filters widen by four voxels at most, and by two at least
    return ndimage.binary_erosion(_largest_piece(raised), iterations=2, border_value=1) if raised.any() else None


def find_support(volume: Volume) -> Mask | None:
    """The voxels that differ from the background, which is what most of the volume's faces show, exactly or nearly. None where there is no
    background, as in a patch from inside the brain.
    """
    values, counts = np.unique(_faces(volume), return_counts=True)
    background = values[counts.argmax()]
    exact: Mask = volume != background
    known = counts.max() > 0.2 * counts.sum() and exact.sum() >= _MIN_VOXELS and not exact.all()
    if known:
        low, high = np.quantile(np.abs(volume[exact] - background), (0.25, 0.9))
        if low > 0.01 * high:  # else much of it is ripples that have not died away yet, or weak noise inside a frame
            return exact
    n_voxels = exact.sum() if known else exact.size
    found = ((_raised_region(volume), 0.6 if known else 0.9), (_textured_region(volume), 0.6))
    regions = [region for region, share in found if region is not None and _MIN_VOXELS <= region.sum() < share * n_voxels]
    if len(regions) == 2 and regions[0].sum() < 0.5 * regions[1].sum():
        return regions[1]  # the plateau is but a part of what has texture
    if regions:
        return regions[0]
    return exact if known else None


def _gaussian_rows(n_in: int, size_in_mm: float, n_out: int, size_out_mm: float, sigma_mm: float) -> Volume:
    """The matrix [n_out, n_in] that smooths an axis and reads it on another grid with the same centre."""
    x_in, x_out = ((np.arange(n) - (n - 1) / 2) * size for n, size in ((n_in, size_in_mm), (n_out, size_out_mm)))
    sigma = max(sigma_mm, 0.5 * size_in_mm)  # a narrower Gaussian would fall between the samples
    weights = np.exp(-0.5 * ((x_out[:, None] - x_in[None]) / sigma) ** 2) * (size_in_mm / (sigma * np.sqrt(2 * np.pi)))
    rows: Volume = weights.astype(np.float32)
    return rows


def apply_rows(volume: Volume, rows: list[Volume]) -> Volume:
    """One matrix along each axis."""
    for axis, matrix in enumerate(rows):
        product: Volume = np.moveaxis(np.tensordot(matrix, volume, axes=(1, axis)), 0, axis)
        volume = product
    return volume


def _smoothed(volume: Volume, voxel_size_mm: Triple, shape: tuple[int, ...], grid_mm: float, sigma_mm: float) -> Volume:
    rows = [_gaussian_rows(n, v, m, grid_mm, sigma_mm) for n, v, m in zip(volume.shape, voxel_size_mm, shape, strict=True)]
    return apply_rows(volume, rows)


def detail_of(volume: Volume, support: Mask, voxel_size_mm: Triple, *, grid_mm: float = GRID_MM) -> tuple[Volume, Mask] | None:
    """Band-pass content [x, y, z] on a grid of grid_mm around the support's bounding box, and where it is known; None without texture.

    Both Gaussians are normalised by the support (normalised convolution; Knutsson and Westin, CVPR 1993), so that its border leaves no edge.
    """
    box = _box(support)
    inside = support[box].astype(np.float32)
    centre = float(np.median(volume[box][support[box]]))
    values = (volume[box] - np.float32(centre)) * inside
    shape = tuple(int(np.ceil(n * v / grid_mm)) for n, v in zip(values.shape, voxel_size_mm, strict=True))
    if max(shape) > _LARGEST_GRID:
        raise InputError(f"The volume spans {max(shape) * grid_mm:.0f} mm, which no head does. Check the voxel size {voxel_size_mm} mm in it.")
    weights = [_smoothed(inside, voxel_size_mm, shape, grid_mm, sigma) for sigma in (FINE_MM, COARSE_MM)]
    levels = [_smoothed(values, voxel_size_mm, shape, grid_mm, sigma) for sigma in (FINE_MM, COARSE_MM)]
    known = (weights[0] > 0.7) & (weights[1] > 0.3)
    band = levels[0] / np.maximum(weights[0], 1e-3) - levels[1] / np.maximum(weights[1], 1e-3)
    if int(known.sum()) < _MIN_VOXELS:
        return None
    spread = 1.4826 * float(np.median(np.abs(band[known])))
    if not spread > 1e-5 * float(np.abs(values).max()):
        return None
    return (np.clip(band / spread, -CLIP, CLIP) * known).astype(np.float32), known


def outline_of(support: Mask) -> Volume:
    """Occupancy [OUTLINE_CELLS] * 3 of a cube that is centred on the region and as wide, along every axis, as OUTLINE_SPAN standard deviations of it
    on both sides: the same for every voxel size.
    """
    rows = []
    for axis, n in enumerate(support.shape):
        profile = support.sum(axis=tuple(i for i in range(3) if i != axis)).astype(float)
        position = np.arange(n)
        mean = float(profile @ position / profile.sum())
        deviation = max(float(np.sqrt(profile @ (position - mean) ** 2 / profile.sum())), 0.3)
        cells = mean + np.linspace(-OUTLINE_SPAN, OUTLINE_SPAN, OUTLINE_CELLS) * deviation
        sigma = max(OUTLINE_SOFTNESS * 2 * OUTLINE_SPAN * deviation / (OUTLINE_CELLS - 1), 0.5)
        rows.append((np.exp(-0.5 * ((cells[:, None] - position[None]) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))).astype(np.float32))
    return apply_rows(support.astype(np.float32), rows).clip(0, 1)


def volume_signature(volume: Tensor | NDArray[Any], voxel_size_mm: Triple) -> Signature:
    """The signature of a volume [x, y, z] of any unit. NaN and Inf count as background."""
    values = np.nan_to_num(np.array(volume, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if values.ndim != 3:
        raise InputError(f"A volume to fingerprint has the shape {values.shape}, but three axes (x, y, z) are needed. Take echoes apart.")
    values /= max(float(np.abs(values).max(initial=0)), 1e-30)  # squares must stay within float32
    found = find_support(values)
    detail = detail_of(values, np.ones(values.shape, dtype=bool) if found is None else found, voxel_size_mm)
    outline = None if found is None else outline_of(found)
    return Signature(None, None, outline) if detail is None else Signature(*detail, outline)


@dataclass(frozen=True, eq=False, slots=True)
class Fingerprint:
    """name: the file (and "[i]" for a volume of a series), as messages and records call it; content: `content_hash`; shape; signature."""

    name: str
    content: str
    shape: tuple[int, ...]
    signature: Signature


def fingerprint_file(path: Path | str, name: str | None = None) -> list[Fingerprint]:
    """The fingerprint of a NIfTI file; of a series (x, y, z, n) one for each volume.

    Raises InputError naming the file: unreadable, other axes, or a volume with nothing that could be compared.
    """
    values, header = read_volume(path)
    name = name or str(path)
    if values.ndim not in (3, 4):
        raise InputError(f"{path} has the shape {tuple(values.shape)}; (x, y, z) or (x, y, z, n) is needed.")
    volumes = [(name, values)] if values.ndim == 3 else [(f"{name}[{i}]", values[..., i]) for i in range(values.shape[3])]
    found = [Fingerprint(n, content_hash(v), tuple(v.shape), volume_signature(v.numpy(), header.voxel_size_mm)) for n, v in volumes]
    blank = next((f for f in found if f.signature.is_blank), None)
    if blank is not None:
        remedy = "Remove it, or name the whole volume that it was cut from."
        raise InputError(f"{blank.name} {blank.shape} is constant, or too small to be compared with a truth. {remedy}")
    return found


def fingerprint_folder(folder: Path | str) -> list[Fingerprint]:
    """The fingerprints of all NIfTI files in a folder and its sub-folders, named relative to it, in alphabetical order.

    Raises InputError: no such folder, no NIfTI file in it, or a file that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Name the folder that holds the training volumes (.nii or .nii.gz).")
    paths = nifti_files(folder)
    if not paths:
        raise InputError(f"{folder} holds no .nii or .nii.gz file. Training volumes in other formats must be converted before they can be attested.")
    return [fingerprint for path in paths for fingerprint in fingerprint_file(path, path.relative_to(folder).as_posix())]
