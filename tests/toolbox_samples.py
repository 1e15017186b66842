"""Folders with the names and kinds of files that the challenge's toolbox has, made from a built-in head on a grid without cubes."""

import functools
from pathlib import Path

import numpy as np
import torch

from qsmdl.io.nifti import write_volume
from qsmdl.phantom.anatomy.head import draw_head, render_head
from qsmdl.scan import LABELS, Geometry, Phantom

VOXEL_MM = 3.2
SHAPE = (51, 65, 63)
STONE = (slice(20, 23), slice(30, 33), slice(33, 36))
"""Where the calcification is."""


@functools.cache
def head() -> Phantom:
    """The head of all samples; no stream of qsmdl draws it."""
    return render_head(draw_head(987654321, contrast="sim1"), Geometry(SHAPE, (VOXEL_MM,) * 3))


def volumes() -> dict[str, torch.Tensor]:
    """By the names of the toolbox."""
    drawn = head()
    labels, chi = drawn.labels.clone(), drawn.chi_ppm.clone()
    chi[~drawn.mask] = 9.2  # the toolbox's model has air and bone outside the brain
    stone = chi.clone()
    stone[STONE], labels[STONE] = -1.5, LABELS["calcification"]
    return {
        "chimodel/ChiModelMIX.nii": stone,
        "chimodel/ChiModelMIX_noCalc.nii": chi,
        "maps/M0.nii.gz": drawn.m0,
        "maps/R1.nii.gz": drawn.r1_per_s,
        "maps/R2star.nii.gz": drawn.r2star_per_s,
        "masks/SegmentedModel.nii.gz": labels,
        "masks/BrainMask.nii.gz": drawn.mask,
    }


def write_toolbox(folder: Path, *, without: tuple[str, ...] = ()) -> Path:
    """Writes the files but those named."""
    for name, volume in volumes().items():
        if name not in without:
            kind = np.uint8 if name.startswith("masks") else np.float32
            write_volume(folder / name, volume, voxel_size_mm=(VOXEL_MM,) * 3, dtype=kind)
    return folder
