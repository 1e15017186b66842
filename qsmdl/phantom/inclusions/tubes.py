"""Vessels as tubes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qsmdl.phantom.drawing.sampling import uniform


@dataclass(frozen=True, eq=False, slots=True)
class Tubes:
    """Vessels of equal length: points_mm [vessel, point, 3] in head millimetres and radii_mm [vessel, point]."""

    points_mm: Tensor
    radii_mm: Tensor


def with_bulbs(tubes: Tubes, share: float, factor: float, generator: torch.Generator) -> Tubes:
    """Tubes of which a random share swells towards the last point, to factor times its radius."""
    swollen = uniform(generator, len(tubes.radii_mm)) < share
    radii = tubes.radii_mm.clone()
    radii[:, -1] *= torch.where(swollen, factor, 1.0)
    return Tubes(tubes.points_mm, radii)
