"""Mean and spread of the maps of several members: networks, each run on the scan as seen under several symmetries."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qsmdl.data.inputs import NetworkInputs
from qsmdl.data.symmetry import Symmetry
from qsmdl.errors import InputError

View = Callable[[nn.Module], Tensor]
"""Runs a network on a scan in some way and gives its map [1, 1, x, y, z] in ppm, on the scan's own grid."""


def views_of(inputs: NetworkInputs, symmetries: Sequence[Symmetry]) -> list[View]:
    """One view for each symmetry; the transformed inputs are made whenever a view is used, and not kept."""

    def view(symmetry: Symmetry) -> View:
        return lambda network: symmetry.restore(network(*symmetry(inputs).arguments))

    return [view(symmetry) for symmetry in symmetries]


class RunningMoments:
    """Mean and standard deviation of maps that are seen one after the other and not kept (Welford, Technometrics 1962). Three maps of memory."""

    def __init__(self) -> None:
        self.n = 0
        self._mean = self._squares = torch.zeros(())

    def add(self, values: Tensor) -> None:
        """One more map, of the shape of those before."""
        self.n += 1
        if self.n == 1:
            self._mean, self._squares = values.clone(), torch.zeros_like(values)
            return
        difference = values - self._mean
        self._mean += difference / self.n
        self._squares += difference * (values - self._mean)

    @property
    def mean(self) -> Tensor:
        """Raises InputError before the first map."""
        if not self.n:
            raise InputError("An ensemble without members has no mean. Give at least one network and one symmetry.")
        return self._mean

    @property
    def std(self) -> Tensor | None:
        """Standard deviation of the members (divided by n - 1); None for fewer than two, which have none."""
        return (self._squares / (self.n - 1)).sqrt() if self.n > 1 else None


@dataclass(frozen=True, eq=False, slots=True)
class Ensemble:
    """mean_ppm, std_ppm [1, 1, x, y, z] (None for one member) and how many members there were."""

    mean_ppm: Tensor
    std_ppm: Tensor | None
    n_members: int


@torch.no_grad()
def run_ensemble(networks: Iterable[nn.Module], views: Sequence[View]) -> Ensemble:
    """Every network under every view. Of the maps only mean and spread are kept; networks may come from a generator that loads one at a time.

    Raises InputError without members.
    """
    moments = RunningMoments()
    for network in networks:
        for view in views:
            moments.add(view(network))
    return Ensemble(moments.mean, moments.std, moments.n)
