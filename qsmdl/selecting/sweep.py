"""Running a method on every candidate and keeping the map that a rule chooses."""

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence

import numpy as np

from qsmdl.errors import InputError
from qsmdl.scan import ChiMap, Choice, FieldMap
from qsmdl.selecting.costs import Examiner
from qsmdl.selecting.rules import N_FEWEST, choose, doubt

logger = logging.getLogger(__name__)

N_PER_DECADE = 4


def candidates_between(low: float, high: float, *, whole: bool = False) -> tuple[float, ...]:
    """A logarithmic grid with both ends, four values a decade and nine at least; whole numbers where the setting is one.

    Raises InputError where the ends are not positive and ascending.
    """
    if not 0 < low < high < math.inf:
        raise InputError(f"The candidates lie between {low} and {high}; both must be positive and finite, and ascend. Give select_candidates.")
    n = max(9, 1 + math.ceil(N_PER_DECADE * math.log10(high / low) - 1e-9))
    grid = np.geomspace(low, high, n)
    if whole:
        return tuple(dict.fromkeys(round(value) for value in grid if round(value) >= 1))
    # Rounded to what a table prints: the map is made with what is printed.
    return tuple(float(f"{value:.3g}") for value in grid)


def check_candidates(candidates: Sequence[float]) -> tuple[float, ...]:
    """The candidates in ascending order. Raises InputError for fewer than five, and for values that are not positive, finite and different."""
    values = tuple(sorted(candidates))
    if len(values) < N_FEWEST or len(set(values)) < len(values) or not all(0 < value < math.inf for value in values):
        raise InputError(f"select_candidates is {list(candidates)}; it must hold at least {N_FEWEST} different positive values.")
    return values


def select_map(
    run: Callable[[float], ChiMap], field: FieldMap, *, parameter: str, rule: str, candidates: Sequence[float]
) -> ChiMap:
    """The map of the candidate that a rule chooses; its outcome says what was chosen, and from what.

    run: parameter value -> map of `field`, called once for each candidate, in ascending order. Raises InputError as `rules.choose` and as the method
    itself for a value it cannot take.
    """
    values = check_candidates(candidates)
    examine, maps, costs = Examiner(field), [], []
    for value in values:
        try:
            maps.append(run(value))
        except InputError as error:
            raise InputError(f"{parameter} = {value:.3g}, a candidate of select: {error} Give select_candidates to try other values.") from error
        costs.append(examine(maps[-1]))
    index, criterion = choose(rule, values, costs)
    choice = Choice(
        parameter=parameter,
        rule=rule,
        value=values[index],
        candidates=values,
        misfit_ppm=tuple(cost.misfit_ppm for cost in costs),
        roughness_ppm_per_mm=tuple(cost.roughness_ppm_per_mm for cost in costs),
        criterion=criterion,
        doubt=doubt(rule, index, criterion),
    )
    if choice.doubt:
        logger.warning("%s chose %s = %.3g on %s, but %s.", rule, parameter, choice.value, field.name, choice.doubt)
    chosen = maps[index]
    return dataclasses.replace(chosen, outcome=dataclasses.replace(chosen.outcome, choice=choice))
