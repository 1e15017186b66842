"""What the switchable effects of an acquisition have in common: a probability, checked ranges, and bodies placed in a mask."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qsmdl.errors import InputError
from qsmdl.phantom.drawing.ranges import Range, as_range, check_probability

Limits = dict[str, tuple[float, float, str]]


@dataclass(frozen=True)
class Switch:
    """An effect that a share of the samples has. probability: that share, 0 switches the effect off.

    SETTING: how configurations call the effect; LIMITS: lowest and highest value and the unit of every range. Raises InputError for a value outside.
    """

    SETTING: ClassVar[str] = "effect"
    LIMITS: ClassVar[Limits] = {}

    probability: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "probability", check_probability(f"{self.SETTING}.probability", self.probability))
        for name, (low, high, unit) in self.LIMITS.items():
            object.__setattr__(self, name, as_range(f"{self.SETTING}.{name}", getattr(self, name), low=low, high=high, unit=unit))

    def happens(self, rng: np.random.Generator) -> bool:
        """Whether a sample has the effect."""
        return bool(rng.random() < self.probability)


def checked_count(setting: str, ends: Range) -> None:
    """Raises InputError for a range of counts that are not whole numbers."""
    if any(v != round(v) for v in ends):
        raise InputError(f"{setting} is {list(ends)}; both ends must be whole numbers.")


