"""The register of evaluation data: volumes that were made on this machine from what must never be trained on, and by which copies are recognised.

`qsmdl simulate --from-toolbox` writes volumes of the challenge's own head. Their folders carry a mark (`io.evaluation`), but a copy does not. So
every such truth and scan enters a register before its folder appears, and everything that a network was trained on is compared with the register
(`guard.check_registered`): when a training begins, when weights are attested, and before a network is judged. It lies in the folder that
QSMDL_EVALUATION_DATA names, else in `qsmdl/evaluation` of the user's data ($XDG_DATA_HOME, ~/.local/share). An entry holds the values inside the mask
in half precision (of a scan, its first magnitude) and the hashes of the exact ones (of a scan, of all its echoes).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qsmdl import __version__
from qsmdl.errors import InputError
from qsmdl.io.fingerprint import content_hash
from qsmdl.io.weights import load_weights, save_weights
from qsmdl.scan import Geometry, Scan, Truth

VARIABLE = "QSMDL_EVALUATION_DATA"


def register_folder() -> Path:
    """Where the register lies."""
    own, data = os.environ.get(VARIABLE), os.environ.get("XDG_DATA_HOME")
    if own:
        return Path(own).expanduser()
    return (Path(data) if data else Path.home() / ".local" / "share") / "qsmdl" / "evaluation"


def register_truth(name: str, truth: Truth, *, source: str) -> Path:
    """Adds a truth and its mask to the register; nothing happens where they are there. name: what messages call it; source: where it comes from, in
    words.

    Raises InputError where the register cannot be written: then the truth must not be written either.
    """
    return _register(name, truth.chi_ppm, truth.mask, truth.geometry, source, {content_hash(truth.mask): "mask"})


def register_scan(name: str, scan: Scan, *, source: str) -> Path:
    """Adds a scan to the register, as `register_truth` does: its first magnitude to be compared with, all echoes to be recognised exactly."""
    echoes = {content_hash(echo): "values" for volume in (scan.magnitude, scan.phase_rad) for echo in volume}
    return _register(name, scan.magnitude[0], scan.mask, scan.geometry, source, echoes)


def _register(name: str, values: Tensor, mask: Tensor, geometry: Geometry, source: str, exact: Mapping[str, str]) -> Path:
    content = content_hash(values)
    path = register_folder() / f"{content[:32]}.safetensors"
    if path.exists():
        return path
    inside = values[mask].float()
    packed = np.packbits(mask.cpu().numpy().ravel())
    tensors = {"values": (inside / inside.abs().max().clamp_min(1e-30)).half(), "mask": torch.from_numpy(packed)}
    card = {
        "name": name,
        "source": source,
        "qsmdl_version": __version__,
        "shape": list(geometry.shape),
        "voxel_size_mm": list(geometry.voxel_size_mm),
        "exact": {content: "values", **exact},
    }
    try:
        save_weights(path, tensors, card)
    except InputError as error:
        raise InputError(
            f"{name} is evaluation data and must be registered before it is written, but {error} Name a folder that can be written: "
            f"{VARIABLE}=FOLDER."
        ) from error
    return path


def _unpack(packed: Tensor, shape: tuple[int, int, int]) -> Tensor:
    n = int(np.prod(shape))
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=n).astype(bool).reshape(shape))


@dataclass(frozen=True, eq=False)
class Registered:
    """An entry of the register. truth: the mask, and for chi_ppm the values inside it, scaled to 1 and of half precision; no labels. exact: hashes of
    the exact volumes and what these are, "values" or "mask".
    """

    name: str
    truth: Truth
    exact: dict[str, str]


def _read(path: Path) -> Registered:
    tensors, card = load_weights(path)
    try:
        x, y, z = (int(n) for n in card["shape"])
        mask, chi = _unpack(tensors["mask"], (x, y, z)), torch.zeros(x, y, z)
        chi[mask] = tensors["values"].float()
        sx, sy, sz = (float(size) for size in card["voxel_size_mm"])
        truth = Truth(Geometry((x, y, z), (sx, sy, sz)), chi, torch.zeros_like(chi, dtype=torch.uint8), mask)
        return Registered(str(card["name"]), truth, {str(content): str(what) for content, what in card["exact"].items()})
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path} is no entry of the register of evaluation data ({error}). Restore it, or simulate these data again.") from error


def read_register() -> list[Registered]:
    """All entries of the register. Raises InputError for one that cannot be read."""
    folder = register_folder()
    return [_read(path) for path in sorted(folder.glob("*.safetensors"))] if folder.is_dir() else []
