"""The truth of a release. Nothing that reconstructs or trains may import this module; import-linter holds that rule."""

import re
from pathlib import Path

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.io.checks import check_same_grid, finite_inside
from qsmdl.io.nifti import find_nifti, has_nifti, read_volume
from qsmdl.io.rc2 import CHI, SEGMENTATION, TRUTH_FOLDER, read_mask_and_geometry
from qsmdl.scan import LABELS, Truth


def _candidates(folder: Path) -> list[Path]:
    """Where the truth of a scan may lie: `Sim2/GT`, the sibling `Sim2GT`, and for `Sim2Snr1` also `Sim2GT`, as both noise levels share one truth."""
    folder = folder.resolve()
    siblings = [f"{folder.name}{TRUTH_FOLDER}", re.sub(r"Snr\d+$", "", folder.name) + TRUTH_FOLDER]
    return [folder / TRUTH_FOLDER, *(folder.with_name(name) for name in dict.fromkeys(siblings))]


def find_truth(folder: Path | str) -> Path | None:
    """The folder that holds `Chi` for the scan in `folder`, in either form of the release, or None (a blind scan)."""
    return next((place for place in _candidates(Path(folder)) if has_nifti(place, CHI)), None)


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


def read_truth(folder: Path | str) -> Truth:
    """Reads what the scan in `folder` is scored against: `GT/Chi` and `GT/Segmentation`, or those of the sibling folder `<name>GT`, with the
    scan's mask.

    Raises InputError naming the files: no truth there (with the places looked at), unreadable, grids that differ, NaN inside the mask, labels that
    are
    not whole numbers.
    """
    folder = Path(folder)
    mask, geometry, header = read_mask_and_geometry(folder)
    place = find_truth(folder)
    if place is None:
        places = ", ".join(str(candidate / CHI) for candidate in _candidates(folder))
        raise InputError(f"{folder} has no truth: none of {places} (.nii or .nii.gz) exists. Blind scans can be reconstructed but not scored.")
    chi_path = find_nifti(place, CHI)
    chi_ppm, _ = read_volume(chi_path, ndim=3)
    check_same_grid(header.path, geometry.shape, chi_path, tuple(chi_ppm.shape))
    labels = _read_labels(find_nifti(place, SEGMENTATION), mask, header.path)
    return Truth(geometry, finite_inside(chi_path, chi_ppm, mask), labels, mask)
