"""How a reconstruction ended, and what was chosen for it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting that was chosen without truth (`selecting`), and what it was chosen by.

    parameter: the setting's name; rule: how it was chosen; value: what was chosen; candidates: all that were tried, ascending; and for each of them
    misfit_ppm, roughness_ppm_per_mm (`selecting.costs.Costs`) and criterion, what the rule looks at (`selecting.rules`); doubt: a reason not
    to trust the choice, in words ("" where there is none).
    """

    parameter: str
    rule: str
    value: float
    candidates: tuple[float, ...]
    misfit_ppm: tuple[float, ...]
    roughness_ppm_per_mm: tuple[float, ...]
    criterion: tuple[float, ...]
    doubt: str = ""

    def __str__(self) -> str:
        return f"{self.parameter} = {self.value:.3g} ({self.rule})"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reconstruction ended.

    n_steps: iterations done; stopped: the reason in words ("closed form", "tolerance reached", "max steps", ...); residual: the method's own final
    measure; curve: that measure (or the loss) per step, for plots; choice: the setting that was chosen for this map, if one was;
    doubts: reasons not to trust the map, in words.
    """

    n_steps: int
    stopped: str
    residual: float
    curve: tuple[float, ...] = field(default=(), repr=False)
    choice: Choice | None = field(default=None, repr=False)
    doubts: tuple[str, ...] = field(default=(), repr=False)
