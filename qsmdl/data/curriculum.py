"""Training volumes that begin easy: what volume number i is drawn from is a function of the settings and i (curriculum learning: Bengio et al., ICML
2009). So it does not depend on when, by which process or how often a volume is read.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qsmdl.data.engine import Engine
from qsmdl.errors import InputError
from qsmdl.phantom.drawing.ranges import Range, as_range, check_probability
from qsmdl.phantom.inclusions.lesions import LesionRanges
from qsmdl.validation import from_settings


@dataclass(frozen=True)
class Curriculum:
    """How the ranges of a recipe widen from volume number 0 to number `until`, from which on they are the recipe's own.

    peak_snr: range of volume 0, within the recipe's; its ends move to those of the recipe, evenly on a logarithmic scale; None: the recipe's from the
    first volume on. lesions: of volume 0, what the probability of each kind of lesion (and of iron) is multiplied with; it grows evenly to 1.
    """

    until: int
    peak_snr: Range | None = None
    lesions: float = 1.0

    def __post_init__(self) -> None:
        if self.until < 1:
            raise InputError(f"until is {self.until}; it must be the number of the first volume that the whole recipe is drawn for, at least 1.")
        if self.peak_snr is not None:
            object.__setattr__(self, "peak_snr", as_range("peak_snr", self.peak_snr, low=1.0, high=1e9))
        object.__setattr__(self, "lesions", check_probability("lesions", self.lesions))
        if self.peak_snr is None and self.lesions == 1:
            raise InputError("peak_snr is null and lesions 1, so nothing would change until then. Give one of them, or set until to 0.")

    @staticmethod
    def of(settings: Mapping[str, Any] | None) -> "Curriculum | None":
        """From plain settings, of a configuration or a card; None for None, and for an `until` of 0 without anything to change.

        Raises InputError naming the setting.
        """
        if settings is None or settings == {"until": 0, "peak_snr": None, "lesions": 1.0}:
            return None
        return from_settings("curriculum", Curriculum, settings)

    def check(self, peak_snr: Range, engine: Engine | None) -> None:
        """Raises InputError where a recipe of this range of peak SNR and this engine has nothing to widen to."""
        if self.peak_snr is not None and not peak_snr[0] <= self.peak_snr[0] <= self.peak_snr[1] <= peak_snr[1]:
            raise InputError(
                f"curriculum.peak_snr is {list(self.peak_snr)}, but the recipe's is {list(peak_snr)}; it must lie within, or training would end "
                "narrower than it began. Narrow it, or widen acquisition's peak_snr."
            )
        if self.lesions == 1:
            return
        if engine is None:
            raise InputError(
                f"curriculum.lesions is {self.lesions:g}, but the first generator (phantom=head, sim1, sim2) draws no lesions. Set it to 1, or train "
                "with phantom=engine."
            )
        if not any(getattr(engine.lesions, field.name).probability > 0 for field in dataclasses.fields(LesionRanges)):
            raise InputError(
                f"curriculum.lesions is {self.lesions:g}, but phantom.engine.lesions are all off. Set it to 1, or give one a probability above 0."
            )

    def peak_snr_of(self, number: int, final: Range) -> Range:
        """The range of a volume's number. final: the recipe's."""
        if self.peak_snr is None or number >= self.until:
            return final
        share = number / self.until
        low, high = (math.exp((1 - share) * math.log(begin) + share * math.log(end)) for begin, end in zip(self.peak_snr, final, strict=True))
        # Rounding must not reach beyond the recipe's.
        return max(low, final[0]), min(max(low, high), final[1])

    def engine_of(self, number: int, engine: Engine) -> Engine:
        """The engine that a volume's number is drawn from. engine: the recipe's."""
        if number >= self.until:
            return engine
        factor = self.lesions + (1 - self.lesions) * number / self.until
        kinds = {field.name: getattr(engine.lesions, field.name) for field in dataclasses.fields(LesionRanges)}
        scaled = {name: dataclasses.replace(kind, probability=factor * kind.probability) for name, kind in kinds.items()}
        protocol = dataclasses.replace(engine.protocol, peak_snr=self.peak_snr_of(number, engine.protocol.peak_snr))
        return dataclasses.replace(engine, protocol=protocol, lesions=LesionRanges(**scaled))
