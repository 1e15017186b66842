"""Which tissue fills each voxel: one, or two where a border runs through it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qsmdl.physics.box import Box, slabs


@dataclass(frozen=True, eq=False, slots=True)
class Mosaic:
    """Labels [x, y, z] (uint8) and, for partial volume, a second label with the share of the voxel that it fills.

    above and share: None for hard borders (a voxel belongs to what its centre lies in). voxel_mm: width of the ramp from 0 to 1 across a border, the
    geometric mean of the voxel's edges. Where a third tissue comes in, the smaller of the two that were there gives way.
    """

    below: Tensor
    above: Tensor | None
    share: Tensor | None
    voxel_mm: float

    @staticmethod
    def of(labels: Tensor, voxel_mm: float, *, partial_volume: bool) -> "Mosaic":
        """A mosaic that writes into labels [x, y, z]."""
        if not partial_volume:
            return Mosaic(labels, None, None, voxel_mm)
        return Mosaic(labels, torch.zeros_like(labels), torch.zeros(labels.shape, device=labels.device), voxel_mm)

    def within(self, box: Box) -> "Mosaic":
        """The part in a box, written through to the whole."""
        if self.above is None or self.share is None:
            return Mosaic(self.below[box], None, None, self.voxel_mm)
        return Mosaic(self.below[box], self.above[box], self.share[box], self.voxel_mm)

    def write(self, depth_mm: Tensor, label: int, allowed: Tensor | None = None) -> None:
        """Fill what has a positive depth [x, y, z] with a label, where allowed (boolean, None: everywhere)."""
        if self.above is None or self.share is None:
            inside = depth_mm > 0
            self.below.masked_fill_(inside if allowed is None else inside.logical_and_(allowed), label)
            return
        for slab in slabs(depth_mm.shape, depth_mm.device):
            part = Mosaic(self.below[slab], self.above[slab], self.share[slab], self.voxel_mm)
            part._share_out(depth_mm[slab], label, None if allowed is None else allowed[slab])

    def _share_out(self, depth_mm: Tensor, label: int, allowed: Tensor | None) -> None:
        assert self.above is not None
        assert self.share is not None
        fraction = (depth_mm / self.voxel_mm).add_(0.5)
        touched = fraction > 0
        if allowed is not None:
            touched.logical_and_(allowed)
        full = (fraction >= 1).logical_and_(touched)
        border = touched.logical_xor_(full)
        self.below.copy_(torch.where(border & (self.share > 0.5), self.above, self.below)).masked_fill_(full, label)
        self.above.masked_fill_(border, label)
        self.share.copy_(torch.where(border, fraction, self.share)).masked_fill_(full, 0.0)

    def settle(self) -> Tensor:
        """The labels that fill half of each voxel or more [x, y, z]."""
        if self.above is None or self.share is None:
            return self.below
        return torch.where(self.share >= 0.5, self.above, self.below)
