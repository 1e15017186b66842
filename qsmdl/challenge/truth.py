"""The truth of a release. Nothing that reconstructs or trains may import this module; import-linter holds that rule."""

import logging
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.io import qsm_ci
from qsmdl.io.bids_files import PIPELINE, derivative_places, find_derivative
from qsmdl.io.checks import as_mask, check_same_grid, finite_inside
from qsmdl.io.layouts import layout_of, read_mask_and_geometry
from qsmdl.io.matlab import read_matlab
from qsmdl.io.nifti import SUFFIXES, find_nifti, has_nifti, read_volume
from qsmdl.io.rc2 import CHI, SEGMENTATION, TRUTH_FOLDER
from qsmdl.scan import LABELS, Truth

logger = logging.getLogger(__name__)

EVALUATION_FILE, EVALUATION_MASK = "FilestructureForEval.mat", "maskEroded"
"""What the challenge's evaluation code reads beside the truth, and the entry of it that names the mask of all metrics."""


class TruthFiles(NamedTuple):
    """The files of a truth."""

    chi: Path
    segmentation: Path


class EvaluationMask(NamedTuple):
    """The voxels [x, y, z] that are scored, and where they came from: "maskEroded" or "MaskBrainExtracted"."""

    mask: Tensor
    source: str


def truth_places(folder: Path | str) -> list[Path]:
    """Where the truth of a scan may lie: `Sim2/GT`, the sibling `Sim2GT`, and for `Sim2Snr1` also `Sim2GT`, as both noise levels share one truth;
    in a BIDS dataset `derivatives/qsmdl/sub-XX/anat` (maps of other pipelines there are reconstructions); in one of QSM-CI `groundtruth`.
    """
    layout = layout_of(folder)
    if layout == "bids":
        return derivative_places(Path(folder), PIPELINE)
    if layout == "qsm-ci":
        return [qsm_ci.truth_place(folder)]
    folder = Path(folder).resolve()
    siblings = [f"{folder.name}{TRUTH_FOLDER}", re.sub(r"Snr\d+$", "", folder.name) + TRUTH_FOLDER]
    return [folder / TRUTH_FOLDER, *(folder.with_name(name) for name in dict.fromkeys(siblings))]


def find_truth(folder: Path | str) -> Path | None:
    """The folder that holds the true susceptibility for the scan in `folder`, in any layout, or None (a blind scan)."""
    layout = layout_of(folder)
    if layout == "bids":
        return next((place for place in truth_places(folder) if find_derivative(place, "Chimap")), None)
    stem = CHI if layout == "rc2" else qsm_ci.CHI
    return next((place for place in truth_places(folder) if has_nifti(place, stem)), None)


def _truth_files(folder: Path, place: Path) -> TruthFiles:
    """Raises InputError where one is missing."""
    layout = layout_of(folder)
    if layout != "bids":
        stems = (CHI, SEGMENTATION) if layout == "rc2" else (qsm_ci.CHI, qsm_ci.SEGMENTATION)
        return TruthFiles(find_nifti(place, stems[0]), find_nifti(place, stems[1]))
    chi, labels = find_derivative(place, "Chimap"), find_derivative(place, "dseg")
    if chi is None or labels is None:
        raise InputError(f"{place} holds a Chimap without the labels, dseg. Copy the missing file.")
    return TruthFiles(chi, labels)


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
    `evaluation_mask`; of other layouts (`io.layouts`) chimap and dseg, in the scan's mask.

    Raises InputError naming the files: no truth there (with the places looked at), unreadable, grids that differ, NaN inside the mask, labels that
    are not whole numbers.
    """
    folder = Path(folder)
    mask, geometry, header = read_mask_and_geometry(folder)
    place = find_truth(folder)
    if place is None:
        stem = {"rc2": CHI, "bids": "*_Chimap", "qsm-ci": qsm_ci.CHI}[layout_of(folder)]
        places = ", ".join(str(candidate / stem) for candidate in truth_places(folder))
        raise InputError(f"{folder} has no truth: none of {places} (.nii or .nii.gz) exists. Blind scans can be reconstructed but not scored.")
    chi_path, labels_path = _truth_files(folder, place)
    chi_ppm, _ = read_volume(chi_path, ndim=3)
    check_same_grid(header.path, geometry.shape, chi_path, tuple(chi_ppm.shape))
    labels = _read_labels(labels_path, mask, header.path)
    scored = evaluation_mask(folder, mask, header.path) if layout_of(folder) == "rc2" else EvaluationMask(mask, "the scan's mask")
    return Truth(geometry, finite_inside(chi_path, chi_ppm, mask | scored.mask), labels, scored.mask, scored.source, mask)
