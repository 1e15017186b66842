"""What a phantom consists of: maps of susceptibility, relaxation rates and proton density, and one tissue."""

from dataclasses import dataclass

from torch import Tensor

MAP_NAMES = ("chi_ppm", "r1_per_s", "r2star_per_s", "m0")


@dataclass(slots=True)
class Maps:
    """chi_ppm, r1_per_s, r2star_per_s, m0 on one grid [x, y, z]."""

    chi_ppm: Tensor
    r1_per_s: Tensor
    r2star_per_s: Tensor
    m0: Tensor

    def blend(self, other: "Maps", fraction: Tensor) -> None:
        """Mix in another tissue, in place; fraction [x, y, z] of the other, 0 ... 1."""
        for name in MAP_NAMES:
            getattr(self, name).lerp_(getattr(other, name), fraction)

    def part(self, box: tuple[slice, slice, slice] | Tensor) -> "Maps":
        """The maps of a box or of the voxels of a boolean mask; a box is a view."""
        return Maps(self.chi_ppm[box], self.r1_per_s[box], self.r2star_per_s[box], self.m0[box])


@dataclass(frozen=True, slots=True)
class Tissue:
    """What a layer is made of: chi_ppm, r1_per_s, r2star_per_s, m0 (arbitrary units, as in the maps), label (None: labels are left alone)."""

    chi_ppm: float
    r1_per_s: float
    r2star_per_s: float
    m0: float
    label: int | None = None
