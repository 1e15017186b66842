"""The truth of a release. Nothing that reconstructs or trains may import this module; import-linter holds that rule."""

import logging
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.io.checks import as_mask, check_same_grid, finite_inside
from qsmdl.io.matlab import read_matlab
from qsmdl.io.nifti import SUFFIXES, find_nifti, has_nifti, read_volume
from qsmdl.io.rc2 import CHI, SEGMENTATION, TRUTH_FOLDER, read_mask_and_geometry
from qsmdl.scan import LABELS, Truth

logger = logging.getLogger(__name__)

EVALUATION_FILE, EVALUATION_MASK = "FilestructureForEval.mat", "maskEroded"
"""What the challenge's evaluation code reads beside the truth, and the entry of it that names the mask of all metrics."""


class EvaluationMask(NamedTuple):
    """The voxels [x, y, z] that are scored, and where they came from: "maskEroded" or "MaskBrainExtracted"."""

    mask: Tensor
    source: str


def truth_places(folder: Path | str) -> list[Path]:
    """Where the truth of a scan may lie: `Sim2/GT`, the sibling `Sim2GT`, and for `Sim2Snr1` also `Sim2GT`, as both noise levels share one truth."""
    folder = Path(folder).resolve()
    siblings = [f"{folder.name}{TRUTH_FOLDER}", re.sub(r"Snr\d+$", "", folder.name) + TRUTH_FOLDER]
    return [folder / TRUTH_FOLDER, *(folder.with_name(name) for name in dict.fromkeys(siblings))]


def find_truth(folder: Path | str) -> Path | None:
    """The folder that holds `Chi` for the scan in `folder`, in either form of the release, or None (a blind scan)."""
    return next((place for place in truth_places(folder) if has_nifti(place, CHI)), None)


def _read_labels(path: Path, mask: Tensor, mask_path: Path) -> Tensor:
    volume, _ = read_volume(path, ndim=3)
    check_same_grid(mask_path, tuple(mask.shape), path, tuple(volume.shape))
    everywhere = torch.ones_like(mask)
    labels = finite_inside(path, volume, everywhere).round()
    if float((labels - volume).abs().max()) > 0.01 or float(labels.min()) < 0 or float(labels.max()) > 255:
        raise InputError(
            f"{path} ranges from {float(volume.min()):g} to {float(volume.max()):g} with values that are no labels; whole numbers are needed, "
            f"{min(LABELS.values())} to {max(LABELS.values())} as in the release. Check that it is the segmentation and was resampled "
            "with nearest neighbours."
        )
    return labels.to(torch.uint8)


def _named_file(text: str, folder: Path, place: Path) -> Path | None:
    """The file of the release that a path in the evaluation file means: relative to the release's root, the scan or the truth.

    The text is not trusted: nothing outside these folders is ever opened. Absolute paths are those of the organisers' machines.
    """
    parts = [part for part in text.strip().replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts or ".." in parts or not parts[-1].endswith(SUFFIXES):
        raise InputError(
            f"{place / EVALUATION_FILE} names {text[:200]!r} as {EVALUATION_MASK}; a path of a NIfTI file inside the release is needed. Correct "
            "the entry, or remove the file to score in MaskBrainExtracted."
        )
    folder = folder.resolve()
    places = [base.joinpath(*parts) for base in (folder.parent.parent, folder.parent, folder, place)]
    for path in (*places, place / parts[-1], folder / parts[-1]):
        if path.is_file() and path.resolve().is_relative_to(folder.parent.parent):
            return path
    return None


def evaluation_mask(folder: Path | str, brain: Tensor, brain_path: Path) -> EvaluationMask:
    """The mask of the challenge's evaluation code, `maskEroded` of GT/FilestructureForEval.mat (an array, or the path of a NIfTI file); where that
    is not there, the brain mask [x, y, z], which a log message says.

    Raises InputError naming the file: damaged, a path that leaves the release, a mask on another grid or without a voxel.
    """
    folder, place = Path(folder), find_truth(folder)
    path = None if place is None else place / EVALUATION_FILE
    if place is None or path is None or not path.is_file():
        logger.info("%s: no %s, so the metrics are computed in MaskBrainExtracted.", folder.name, EVALUATION_FILE)
        return EvaluationMask(brain, "MaskBrainExtracted")
    entry = read_matlab(path).get(EVALUATION_MASK)
    if isinstance(entry, str):
        named = _named_file(entry, folder, place)
        if named is None:
            logger.warning("%s names %s, which is not there: the metrics of %s are computed in MaskBrainExtracted.", path, entry, folder.name)
            return EvaluationMask(brain, "MaskBrainExtracted")
        volume, path = read_volume(named, ndim=3)[0], named
    elif isinstance(entry, np.ndarray):
        volume = torch.from_numpy(np.ascontiguousarray(entry, dtype=np.float32))
    else:
        logger.warning("%s has no usable entry %s: the metrics of %s are computed in MaskBrainExtracted.", path, EVALUATION_MASK, folder.name)
        return EvaluationMask(brain, "MaskBrainExtracted")
    check_same_grid(brain_path, tuple(brain.shape), path, tuple(volume.shape))
    if volume.ndim != 3:
        raise InputError(f"{EVALUATION_MASK} of {path} has {volume.ndim} axes {tuple(volume.shape)}, but a mask has three. Correct the file.")
    return EvaluationMask(as_mask(path, volume), EVALUATION_MASK)


def read_truth(folder: Path | str) -> Truth:
    """Reads what the scan in `folder` is scored against: `GT/Chi` and `GT/Segmentation`, or those of the sibling folder `<name>GT`, in the mask of
    `evaluation_mask`.

    Raises InputError naming the files: no truth there (with the places looked at), unreadable, grids that differ, NaN inside the mask, labels that
    are not whole numbers.
    """
    folder = Path(folder)
    mask, geometry, header = read_mask_and_geometry(folder)
    place = find_truth(folder)
    if place is None:
        places = ", ".join(str(candidate / CHI) for candidate in truth_places(folder))
        raise InputError(f"{folder} has no truth: none of {places} (.nii or .nii.gz) exists. Blind scans can be reconstructed but not scored.")
    chi_path = find_nifti(place, CHI)
    chi_ppm, _ = read_volume(chi_path, ndim=3)
    check_same_grid(header.path, geometry.shape, chi_path, tuple(chi_ppm.shape))
    labels = _read_labels(find_nifti(place, SEGMENTATION), mask, header.path)
    scored = evaluation_mask(folder, mask, header.path)
    return Truth(geometry, finite_inside(chi_path, chi_ppm, mask | scored.mask), labels, scored.mask, scored.source, mask)
