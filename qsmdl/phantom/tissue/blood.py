"""Blood: susceptibility and relaxation by oxygenation, haematocrit and field strength.

Susceptibilities are SI, relative to water (4 pi times the cgs values of the older literature).
"""

import math
from dataclasses import dataclass

import numpy as np

from qsmdl.errors import InputError
from qsmdl.phantom.drawing.ranges import Range, as_range, check_probability, draw_uniform
from qsmdl.phantom.tissue.maps import Tissue
from qsmdl.scan import LABELS

CHI_DO_PPM = 4 * math.pi * 0.273
"""Fully deoxygenated minus fully oxygenated red cells: 3.43 ppm (Jain et al., Magn Reson Med 2012;68:863-867; 4 pi 0.27 in Spees et al., Magn Reson
Med 2001;45:533-542; 4 pi 0.18 = 2.26 in Weisskoff and Kiihne, Magn Reson Med 1992;24:375-383)."""
CHI_OXY_PPM = 4 * math.pi * -0.008
"""Fully oxygenated red cells minus water (Jain et al. 2012)."""
_REFERENCE_TESLA = 3.0
_FIELD_EXPONENT = 1.5


def blood_chi_ppm(oxygenation: float, haematocrit: float, chi_do_ppm: float = CHI_DO_PPM) -> float:
    """Susceptibility of whole blood relative to water: haematocrit (chi_do (1 - oxygenation) + chi_oxy)."""
    return haematocrit * (chi_do_ppm * (1 - oxygenation) + CHI_OXY_PPM)


def blood_r2star_per_s(oxygenation: float, haematocrit: float, b0_tesla: float) -> float:
    """R2* of whole blood: the fit at 3 T of Zhao et al. (Magn Reson Med 2007;58:592-597), 14.9 Hct + 14.7 + (302.1 Hct + 41.8) (1 - Y)^2.

    The term of deoxygenation grows with B0^1.5: between the square of fast exchange and the linear growth of static dephasing; at 7 T and
    an oxygenation of 0.65 this gives a T2* of 10 ms.
    """
    deoxygenated = (302.1 * haematocrit + 41.8) * (1 - oxygenation) ** 2
    return 14.9 * haematocrit + 14.7 + deoxygenated * math.pow(b0_tesla / _REFERENCE_TESLA, _FIELD_EXPONENT)


@dataclass(frozen=True, slots=True)
class BloodRanges:
    """What blood is drawn from. Raises InputError naming the setting.

    probability: that blood is drawn at all (0: off); oxygenation: of venous blood, 0 ... 1 (0.58 to 0.78 in cerebral veins, Krishnamurthy et al.,
    Magn Reson Med 2014;71:2035-2042: 0.65 +- 0.05); arterial_oxygenation; haematocrit, 0 ... 1; chi_do_ppm: deoxygenated minus oxygenated red cells
    (2.26 to 3.43, see CHI_DO_PPM); r1_per_s; m0: relative to the tissue around; r2star_factor: R2* relative to the fit of `blood_r2star_per_s`.
    """

    probability: float = 0.0
    oxygenation: Range = (0.58, 0.78)
    arterial_oxygenation: Range = (0.95, 1.0)
    haematocrit: Range = (0.36, 0.48)
    chi_do_ppm: Range = (2.26, 3.43)
    r1_per_s: Range = (0.40, 0.60)
    m0: Range = (1.0, 1.15)
    r2star_factor: Range = (0.7, 1.4)

    def __post_init__(self) -> None:
        check_probability("blood.probability", self.probability)
        for name, low, high, unit in (
            ("oxygenation", 0, 1, ""),
            ("arterial_oxygenation", 0, 1, ""),
            ("haematocrit", 0, 1, ""),
            ("chi_do_ppm", 0, 10, "ppm"),
            ("r1_per_s", 0.05, 20, "1/s"),
            ("m0", 0, 10, ""),
            ("r2star_factor", 0, 10, ""),
        ):
            object.__setattr__(self, name, as_range(f"blood.{name}", getattr(self, name), low=low, high=high, unit=unit))
        if self.oxygenation[1] > self.arterial_oxygenation[0]:
            raise InputError(
                f"blood.oxygenation {list(self.oxygenation)} reaches above blood.arterial_oxygenation {list(self.arterial_oxygenation)}; "
                "veins must not hold more oxygen than arteries. Narrow one of them."
            )


@dataclass(frozen=True, slots=True)
class BloodParams:
    """The blood of one phantom (see `BloodRanges`)."""

    oxygenation: float
    arterial_oxygenation: float
    haematocrit: float
    chi_do_ppm: float
    r1_per_s: float
    m0: float
    r2star_factor: float

    def tissue(self, b0_tesla: float, *, arterial: bool = False, m0: float = 1.0) -> Tissue:
        """Venous (or arterial) blood at a field strength; m0: of the tissue around."""
        oxygenation = self.arterial_oxygenation if arterial else self.oxygenation
        return Tissue(
            chi_ppm=blood_chi_ppm(oxygenation, self.haematocrit, self.chi_do_ppm),
            r1_per_s=self.r1_per_s,
            r2star_per_s=self.r2star_factor * blood_r2star_per_s(oxygenation, self.haematocrit, b0_tesla),
            m0=self.m0 * m0,
            label=LABELS["blood"],
        )


def draw_blood(ranges: BloodRanges, rng: np.random.Generator) -> BloodParams | None:
    """Draw the blood of a phantom, or None (off)."""
    values = {name: draw_uniform(rng, getattr(ranges, name)) for name in BloodParams.__dataclass_fields__}
    return BloodParams(**values) if rng.random() < ranges.probability else None
