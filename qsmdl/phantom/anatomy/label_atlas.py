"""A segmentation that phantoms are made from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.io.label_table import BACKGROUND, OUTSIDE_BRAIN, LabelEntry, LabelTable, check_labels_known
from qsmdl.phantom.tissue.contrast import base_contrast
from qsmdl.physics.box import Box, mask_box
from qsmdl.scan import LABELS

_COMPARABLE = tuple(number for name, number in LABELS.items() if name not in ("fat", "bone", "air", "muscle"))
_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False, slots=True)
class LabelAtlas:
    """Labels of one head.

    labels: numbers [x, y, z] of an integer dtype, x pointing right, y anterior, z superior; table: what each number means; name: how messages and
    records call it. boxes: the bounding box of each number that occurs and is not background; brain_box: of all that belong to
    the brain. Raises InputError: not three axes, no integers, numbers without an entry (listed with their counts), no brain.
    """

    labels: Tensor
    voxel_size_mm: tuple[float, float, float]
    table: LabelTable
    name: str = "the label map"
    boxes: Mapping[int, Box] = field(init=False)
    brain_box: Box = field(init=False)

    def __post_init__(self) -> None:
        if self.labels.ndim != 3 or self.labels.dtype not in _DTYPES:
            raise InputError(
                f"{self.name} has the shape {tuple(self.labels.shape)} and the type {self.labels.dtype}; labels are integers on three axes x, y, z."
            )
        sizes = tuple(float(v) for v in self.voxel_size_mm)
        if len(sizes) != 3 or not all(math.isfinite(v) and v > 0 for v in sizes):
            raise InputError(f"voxel_size_mm of {self.name} is {sizes}; it needs three positive lengths in mm.")
        object.__setattr__(self, "voxel_size_mm", sizes)
        check_labels_known(self.labels, self.table, self.name)
        numbers = [int(n) for n in torch.unique(self.labels).tolist() if self.table[int(n)].tissue != BACKGROUND]
        boxes = {n: mask_box(self.labels == n) for n in numbers}
        object.__setattr__(self, "boxes", boxes)
        brain = [box for n, box in boxes.items() if self.table[n].is_brain]
        if not brain:
            raise InputError(f"{self.name} holds no label of the brain, only {sorted({e.tissue for e in map(self.table.get, numbers) if e})}.")
        x, y, z = (slice(min(b[i].start for b in brain), max(b[i].stop for b in brain)) for i in range(3))
        object.__setattr__(self, "brain_box", (x, y, z))

    @property
    def half_extent_mm(self) -> tuple[float, float, float]:
        """Half the edges of the brain's bounding box."""
        x, y, z = ((s.stop - s.start) * v / 2 for s, v in zip(self.brain_box, self.voxel_size_mm, strict=True))
        return x, y, z

    @property
    def centre(self) -> tuple[float, float, float]:
        """The middle of the brain's bounding box as a fractional index."""
        x, y, z = ((s.start + s.stop - 1) / 2 for s in self.brain_box)
        return x, y, z


def closest_label(entry: LabelEntry) -> int:
    """The number in `scan.LABELS` of what an entry means: its tissue; muscle for what else lies outside the brain; for ranges without a tissue that
    whose susceptibility, rates and proton density are closest to their middle.
    """
    if entry.tissue in LABELS:
        return LABELS[entry.tissue]
    if entry.tissue == OUTSIDE_BRAIN or not entry.is_brain:
        return LABELS["muscle"]
    base = base_contrast("sim2")
    middle = {q: sum(getattr(entry, q)) / 2 for q in ("chi_ppm", "r1_per_s", "r2star_per_s", "m0")}

    def distance(label: int) -> float:
        # Rates on a logarithmic scale; 0.05 ppm of chi weighs as a factor of e in a rate.
        rates = sum(abs(np.log(max(middle[q], 1e-3) / getattr(base, q)[label])) for q in ("r1_per_s", "r2star_per_s", "m0"))
        return float(rates + abs(middle["chi_ppm"] - base.chi_ppm[label]) / 0.05)

    return min(_COMPARABLE, key=distance)
