"""Label maps: segmentations in NIfTI files."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel import orientations
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.io.label_table import LabelTable, check_labels_known
from qsmdl.io.nifti import read_volume

_nibabel: Any = orientations  # its functions carry no types
_LARGEST_LABEL = 2**24
"""Beyond this float32 skips whole numbers."""


def read_label_map(path: Path | str, table: LabelTable) -> tuple[Tensor, tuple[float, float, float]]:
    """The labels [x, y, z], int32, of a 3-D NIfTI file and their voxel size in mm, with axes turned so that x points right, y anterior, z superior.

    Oblique volumes keep their axes, each named after the direction that it is closest to.
    Raises InputError naming the file: unreadable, not 3-D, not whole numbers, an affine without directions, labels that the table does not have
    (listed with their numbers of voxels).
    """
    volume, header = read_volume(path, ndim=3)
    values = volume.numpy()
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > _LARGEST_LABEL or not (values == np.rint(values)).all():
        raise InputError(
            f"{header.path} is no label map: its values run from {values.min():g} to {values.max():g} and labels are whole numbers from 0 to "
            f"{_LARGEST_LABEL}. Name the segmentation; if it was resampled, do that again with nearest neighbours."
        )
    orientation = _nibabel.io_orientation(header.affine)
    if np.isnan(orientation).any():
        raise InputError(f"The affine of {header.path} gives one of its axes no direction. Correct the header, or export the segmentation again.")
    sizes = [0.0, 0.0, 0.0]
    for axis, target in enumerate(orientation[:, 0]):
        sizes[int(target)] = header.voxel_size_mm[axis]
    labels = torch.from_numpy(np.ascontiguousarray(_nibabel.apply_orientation(values, orientation)).astype(np.int32))
    check_labels_known(labels, table, str(header.path))
    return labels, (sizes[0], sizes[1], sizes[2])
