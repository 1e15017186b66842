"""What an iterative solver returns: the solution and how it ended."""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from qsmdl.scan import Outcome

X = TypeVar("X")


@dataclass(frozen=True, eq=False, slots=True)
class Solution(Generic[X]):
    """x; n_steps: iterations done; stopped: the reason in words; residual: the solver's own final measure; curve: that measure per step."""

    x: X
    n_steps: int
    stopped: str
    residual: float
    curve: tuple[float, ...] = field(default=(), repr=False)

    @property
    def outcome(self) -> Outcome:
        """The same without the solution, as maps carry it."""
        return Outcome(self.n_steps, self.stopped, self.residual, self.curve)


def in_stages(x: X, *stages: Solution[X]) -> Solution[X]:
    """The result x of several stages: their steps and curves one after the other, the end of the last."""
    last = stages[-1]
    curve = tuple(value for stage in stages for value in stage.curve)
    return Solution(x, sum(stage.n_steps for stage in stages), last.stopped, last.residual, curve)
