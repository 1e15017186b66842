"""One simulated volume in one safetensors file, such that reading gives back the scan and the truth bit by bit.

Beyond a rim around the brain, echoes are exactly 0 (`phantom.acquire`), so only the voxels that hold something are written: about a quarter of a
head's grid. What the volume was drawn as stands in the header as plain JSON. Files are read as bytes once, hashed and parsed from these bytes:
what has been checked is what is used.
"""

import hashlib
import json
import math
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.io.files import atomic_path
from qsmdl.io.provenance import tensors_digest
from qsmdl.scan import Geometry, Scan, Truth

CARD_KEY = "qsmdl_volume"
FORMAT = 1
SUPPORT_SHARE = 0.3
"""Share of a grid whose voxels are written, for estimates: 0.2 to 0.3 for heads, up to 0.45 for shapes and textures."""
SPARE_BYTES = 2**30
"""What a disk must have left when everything is written."""
_ECHOES = ("magnitude", "phase_rad")
_UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError, struct.error)


def expected_bytes(shape: tuple[int, int, int], n_echoes: int) -> int:
    """About how large the file of a scan becomes."""
    n = math.prod(shape)
    return int(n * (SUPPORT_SHARE * (8 * n_echoes + 4) + 1.25))


def check_free_space(folder: Path, n_bytes: int, what: str) -> None:
    """Raises InputError where the disk of a folder (or of the closest one above it that exists) has less free than n_bytes and SPARE_BYTES."""
    place = next(p for p in (folder, *folder.resolve().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    if free < n_bytes + SPARE_BYTES:
        raise InputError(
            f"{what} need about {_gigabytes(n_bytes)}, and {_gigabytes(SPARE_BYTES)} must stay free, but the disk of {folder} has "
            f"{_gigabytes(free)}. Make room, ask for fewer volumes, or name a folder on another disk; what is written already is kept."
        )


def _gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"


@dataclass(frozen=True, eq=False, slots=True)
class VolumeFile:
    """What a file holds. card: what the volume was drawn as, in plain values; sha256: of the file."""

    scan: Scan
    truth: Truth
    card: dict[str, Any]
    sha256: str


def _bits(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.cpu().numpy().ravel()))


def _mask(bits: Tensor, shape: tuple[int, int, int]) -> Tensor:
    n = math.prod(shape)
    if bits.dtype != torch.uint8 or bits.numel() != -(-n // 8):
        raise ValueError(f"{bits.numel()} bytes of a mask of {n} voxels")
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=n).astype(bool).reshape(shape))


def _not_zero(volume: Tensor) -> Tensor:
    """Where any bit is set: a negative zero counts."""
    return volume.view(torch.int32) != 0


def _pack(scan: Scan, truth: Truth) -> dict[str, Tensor]:
    """The tensors of a file. Raises InputError for what it has no place for."""
    has_more = scan.frequency_ppm is not None or scan.geometry.affine is not None or truth.brain_mask is not None
    if has_more or not torch.equal(scan.mask, truth.mask):
        raise InputError(f"{scan.name} has a frequency map, an affine or a second mask, for which files of simulated volumes have no place.")
    if bool(_not_zero(truth.chi_ppm)[~truth.mask].any()):
        raise InputError(f"The truth of {scan.name} does not end at its mask, so it cannot be kept. Set it to 0 beyond.")
    support = (_not_zero(scan.magnitude) | _not_zero(scan.phase_rad)).any(0)
    return {
        "mask": _bits(scan.mask),
        "support": _bits(support),
        **{name: getattr(scan, name)[:, support].contiguous() for name in _ECHOES},
        "chi_ppm": truth.chi_ppm[scan.mask].contiguous(),
        "labels": truth.labels.to(torch.uint8).contiguous(),
    }


def write_volume_file(path: Path, scan: Scan, truth: Truth, card: Mapping[str, Any]) -> int:
    """Writes a simulated volume atomically; returns the file's size in bytes. card: plain values that say what it was drawn as.

    Raises InputError: the file exists, the disk has no room, or the scan holds what such files do not (frequency map, affine).
    """
    tensors = _pack(scan, truth)
    geometry = scan.geometry
    told = {
        **card,
        "format": FORMAT,
        "geometry": {name: getattr(geometry, name) for name in ("shape", "voxel_size_mm", "b0_direction", "b0_tesla")},
        "echo_times_s": scan.echo_times_s,
        "name": scan.name,
        "mask_source": truth.mask_source,
        "tensors": tensors_digest(tensors),
    }
    text = json.dumps(told, allow_nan=False, sort_keys=True)
    n_bytes = sum(t.numel() * t.element_size() for t in tensors.values()) + len(text)
    check_free_space(path.parent, n_bytes, path.name)
    with atomic_path(path) as hidden:
        try:
            save_file(tensors, hidden, metadata={CARD_KEY: text})
            hidden.chmod(0o644)  # safetensors makes files that only their owner can read
        except SafetensorError as error:  # safetensors wraps the operating system's errors (disk full)
            raise OSError(str(error)) from error
    return path.stat().st_size


def _damaged(path: Path, reason: object) -> InputError:
    return InputError(
        f"{path} could not be read as a simulated volume ({reason}). It is damaged: remove it, and let qsmdl simulate --set write it again."
    )


def read_card(path: Path) -> dict[str, Any]:
    """The card in a file's header, and nothing else. Raises InputError for a file that is not of the length that its header tells."""
    try:
        with path.open("rb") as file:
            (n,) = struct.unpack("<Q", file.read(8))
            size = path.stat().st_size
            header = json.loads(file.read(n)) if n <= size else {}
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        if 8 + n + end != size:
            raise ValueError(f"{size} bytes instead of {8 + n + end}")
        return _card_of(header)
    except _UNREADABLE as error:
        raise _damaged(path, error) from error


def _card_of(header: dict[str, Any]) -> dict[str, Any]:
    card = json.loads(header["__metadata__"][CARD_KEY])
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    return card


def read_volume_file(path: Path, *, sha256: str | None = None) -> VolumeFile:
    """Reads a file that `write_volume_file` made. sha256: which file it must be.

    Raises InputError naming the file: missing, damaged, or another one than it must be.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} could not be read: {error.strerror}. Check the name.") from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise InputError(
            f"{path} was changed since it was fingerprinted (SHA-256 {found[:16]} instead of {sha256[:16]}), so it is not trained on. Leave the "
            "files of a set alone while it is trained on, and begin again."
        )
    try:
        tensors = load(content)
        (n,) = struct.unpack("<Q", content[:8])
        card = _card_of(json.loads(content[8 : 8 + n]))
        if sha256 is None and card["tensors"] != tensors_digest(tensors):
            raise ValueError("its values are not those that were written")
        return VolumeFile(*_unpack(tensors, card), card, found)
    except _UNREADABLE as error:
        raise _damaged(path, error) from error


def _unpack(tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> tuple[Scan, Truth]:
    told = card["geometry"]
    geometry = Geometry(tuple(told["shape"]), tuple(told["voxel_size_mm"]), tuple(told["b0_direction"]), float(told["b0_tesla"]))
    # Labels are whole: a grid that the file does not hold is noticed here, before memory is taken for it.
    labels = tensors["labels"].reshape(geometry.shape)
    mask, support = (_mask(tensors[name], geometry.shape) for name in ("mask", "support"))
    echoes = {}
    for name in _ECHOES:
        if tensors[name].shape != (len(card["echo_times_s"]), int(support.sum())):
            raise ValueError(f"{name} of the shape {tuple(tensors[name].shape)}")
        echoes[name] = torch.zeros((len(card["echo_times_s"]), *geometry.shape))
        for echo, values in zip(echoes[name], tensors[name], strict=True):
            echo.masked_scatter_(support, values)
    chi = torch.zeros(geometry.shape)
    chi[mask] = tensors["chi_ppm"]
    scan = Scan(geometry, tuple(card["echo_times_s"]), mask=mask, name=str(card["name"]), **echoes)
    return scan, Truth(geometry, chi, labels, mask, str(card["mask_source"]))
