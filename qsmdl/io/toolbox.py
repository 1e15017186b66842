"""The head phantom of the toolbox that goes with the QSM Reconstruction Challenge 2.0 (Marques et al., Magn Reson Med 2021;86:526-542), as files.

`chimodel/ChiModelMIX_noCalc` (Sim1) and `chimodel/ChiModelMIX` (Sim2, with the calcification) in ppm, `maps/M0` (arbitrary units), `maps/R1` and
`maps/R2star` (1/s), `masks/SegmentedModel` (labels of the challenge) and, if it is there, `masks/BrainMask`; each `.nii` or `.nii.gz`, in the folder
named or in its sub-folder `data`. It is the challenge's own head: nothing made from it may be trained on (docs/truth-guard.md).
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.io.checks import as_mask, check_same_grid, finite_inside
from qsmdl.io.fingerprint import content_hash
from qsmdl.io.nifti import HeaderInfo, find_nifti, has_nifti, known_voxel_size, read_header, read_volume
from qsmdl.scan import LABELS, Geometry, Phantom

logger = logging.getLogger(__name__)

CHI_MODELS = {1: "chimodel/ChiModelMIX_noCalc", 2: "chimodel/ChiModelMIX"}
"""Simulation to susceptibility model."""
M0, R1, R2STAR, SEGMENTATION, BRAIN = "maps/M0", "maps/R1", "maps/R2star", "masks/SegmentedModel", "masks/BrainMask"
B0_TESLA = 7.0
SOURCE = "toolbox of the QSM Reconstruction Challenge 2.0 (the challenge's own head)"
_OUTSIDE = ("fat", "bone", "air", "muscle")
_PLAUSIBLE = {R1: (0.1, 10.0, "1/s; a T1 in s or ms, or a rate in 1/ms?"), R2STAR: (1.0, 500.0, "1/s; a T2* in ms, or a rate in 1/ms?")}
"""Range of the median inside the brain, and what a value outside it may be."""
_LARGEST_PPM = 30.0


@dataclass(frozen=True)
class ToolboxModel:
    """One simulation's phantom, and the content hash of every file it was made from, by name."""

    simulation: int
    phantom: Phantom
    contents: dict[str, str]


def data_folder(folder: Path | str) -> Path:
    """The folder with `chimodel`, `maps` and `masks`: the one named or its sub-folder `data`. Raises InputError for none and for both."""
    folder = Path(folder)
    found = [place for place in (folder, folder / "data") if (place / "chimodel").is_dir()]
    if len(found) == 2:
        raise InputError(f"Both {folder} and {folder / 'data'} hold a chimodel folder. Name the one that is meant.")
    if not found:
        raise InputError(f"{folder} is not the toolbox's data: neither it nor {folder / 'data'} has a folder chimodel (beside maps and masks).")
    return found[0]


def find_model(folder: Path | str, simulation: int) -> dict[str, Path]:
    """The files of a simulation (1 or 2) by their names in the toolbox; no volume is opened.

    Raises InputError naming what is missing or there both as .nii and .nii.gz.
    """
    if simulation not in CHI_MODELS:
        raise InputError(f"simulation is {simulation}; the challenge has 1 and 2.")
    place, chi = data_folder(folder), CHI_MODELS[simulation]
    if not has_nifti((place / chi).parent, Path(chi).name):
        held = ", ".join(sorted(path.name for path in (place / "chimodel").iterdir())) or "nothing"
        other = f" For Sim{3 - simulation} alone, pass --contrast sim{3 - simulation}." if has_nifti(place, CHI_MODELS[3 - simulation]) else ""
        raise InputError(f"{place} has no susceptibility of Sim{simulation}: {chi}.nii or .nii.gz is missing; chimodel holds {held}.{other}")
    stems = [chi, M0, R1, R2STAR, SEGMENTATION, *([BRAIN] if has_nifti(place, BRAIN) else [])]
    return {stem: find_nifti((place / stem).parent, Path(stem).name) for stem in stems}


def _check_headers(files: dict[str, Path]) -> HeaderInfo:
    """All volumes lie on one grid of one voxel size; returns the header of the first, the susceptibility's."""
    headers = [read_header(path) for path in files.values()]
    first = headers[0]
    for header in headers[1:]:
        check_same_grid(first.path, first.shape, header.path, header.shape)
        if any(abs(a - b) > 0.01 * a for a, b in zip(first.voxel_size_mm, header.voxel_size_mm, strict=True)):
            raise InputError(
                f"The header of {header.path} gives voxels of {header.voxel_size_mm} mm, that of {first.path} {first.voxel_size_mm} mm; the files of "
                "one model must agree. Correct whichever is wrong (the challenge's model has 0.64 mm)."
            )
    return first


def _labels(path: Path) -> Tensor:
    volume, _ = read_volume(path, ndim=3)
    labels = finite_inside(path, volume, torch.ones_like(volume, dtype=torch.bool)).round()
    unknown = sorted(set(np.unique(labels.numpy()).tolist()) - {0.0, *map(float, LABELS.values())})
    if unknown or float((labels - volume).abs().max()) > 0.01:
        what = f"the labels {', '.join(f'{value:g}' for value in unknown[:5])}" if unknown else "values that are no whole numbers"
        raise InputError(f"{path} holds {what}, but the challenge's labels are whole numbers, 0 to {max(LABELS.values())}. Check the file.")
    return labels.to(torch.uint8)


def _brain(files: dict[str, Path], labels: Tensor) -> Tensor:
    if BRAIN in files:
        volume, header = read_volume(files[BRAIN], ndim=3)
        return as_mask(header.path, volume)
    logger.warning("There is no %s: the brain is taken to be what %s labels as such.", BRAIN, files[SEGMENTATION])
    outside = torch.tensor([0, *(LABELS[name] for name in _OUTSIDE)], dtype=torch.uint8)
    return as_mask(files[SEGMENTATION], (~torch.isin(labels, outside)).float())


def _map(path: Path, brain: Tensor, stem: str) -> Tensor:
    """A map of M0, R1 or R2*: not negative and plausible in the brain, and not negative (0 where it was) outside."""
    volume, _ = read_volume(path, ndim=3)
    volume = finite_inside(path, volume, brain)
    inside = volume[brain]
    if float(inside.min()) < 0:
        where = tuple(int(i) for i in ((volume < 0) & brain).nonzero()[0])
        raise InputError(
            f"{path} holds {int((inside < 0).sum())} negative values inside the brain, the first {float(volume[where]):g} at index {where}; "
            f"{Path(stem).name} is never negative. Repair the file."
        )
    low, high, doubt = _PLAUSIBLE.get(stem, (1e-12, float("inf"), "a map of zeros?"))
    median = float(inside.median())
    if not low <= median <= high:
        raise InputError(f"{path} has the median {median:.4g} in the brain, but {low:g} to {high:g} is plausible ({doubt}). Correct the file.")
    return volume.clamp_min(0)


def _without_calcification(labels: Tensor) -> Tensor:
    """The labels of Sim1, which has no calcification: there, the nearest other label."""
    stone = labels.numpy() == LABELS["calcification"]
    if not stone.any():
        return labels
    nearest = ndimage.distance_transform_edt(stone, return_distances=False, return_indices=True)
    return torch.from_numpy(labels.numpy()[tuple(nearest)])


def read_model(folder: Path | str, simulation: int) -> ToolboxModel:
    """Reads the phantom of a simulation (1 or 2): susceptibility of the brain alone, as in the challenge, at 7 T with B0 along the third axis.

    The voxel size is the header's. Raises InputError naming the file: missing or ambiguous (`find_model`), grids or voxel sizes that differ,
    unreadable, NaN in the brain, unknown labels, susceptibility that is not in ppm, rates or M0 that are negative or implausible, and a Sim2 without
    calcification.
    """
    files = find_model(folder, simulation)
    header = _check_headers(files)
    labels = _labels(files[SEGMENTATION])
    if simulation == 2 and not bool((labels == LABELS["calcification"]).any()):
        raise InputError(f"{files[SEGMENTATION]} has no calcification (label {LABELS['calcification']}), but Sim2 needs one. Check the file.")
    brain = _brain(files, labels)
    chi_path = files[CHI_MODELS[simulation]]
    chi, _ = read_volume(chi_path, ndim=3)
    chi = torch.where(brain, finite_inside(chi_path, chi, brain), 0.0)
    largest = float(chi.abs().max())
    if not 0 < largest <= _LARGEST_PPM:
        raise InputError(f"{chi_path} reaches {largest:.4g} in the brain, but susceptibility in ppm is not 0 everywhere and below {_LARGEST_PPM:g}.")
    x, y, z = header.shape[:3]
    geometry = Geometry((x, y, z), known_voxel_size(header), (0.0, 0.0, 1.0), B0_TESLA, header.affine)
    m0, r1, r2star = (_map(files[stem], brain, stem) for stem in (M0, R1, R2STAR))
    shown = _without_calcification(labels) if simulation == 1 else labels
    phantom = Phantom(geometry, chi, m0, r1, r2star, shown, brain, {"source": SOURCE, "simulation": simulation})
    contents = {stem: content_hash(read_volume(path)[0]) for stem, path in files.items()}
    return ToolboxModel(simulation, phantom, contents)
