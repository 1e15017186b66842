"""What any method may have done around it: the phases of the scan corrected (`crop_phase`), its regularisation chosen without truth (`select`),
ringing removed from its map (`unring`), and the map brought into line with the field (`strong_sources`, `large_scales`, `fine_scales`, `structures`).
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qsmdl.about import About
from qsmdl.errors import InputError
from qsmdl.physics.unring import unring
from qsmdl.scan import ChiMap, FieldMap
from qsmdl.selecting.rules import check_rule
from qsmdl.selecting.sweep import candidates_between, check_candidates, select_map
from qsmdl.solvers.fine_scales import WORTH_IT, fine_correction, fine_damping
from qsmdl.solvers.large_scales import explain_large_scales
from qsmdl.solvers.strong_sources import strong_source_correction
from qsmdl.solvers.structures import structure_correction
from qsmdl.validation import check_settings

logger = logging.getLogger(__name__)

POST_STEPS = ("crop_phase", "unring", "strong_sources", "large_scales", "fine_scales", "structures", "select", "select_candidates")
"""Settings of every method beside its function's own."""


@dataclass(frozen=True, slots=True)
class PostSteps:
    """crop_phase: correct the phases of the scan for the crop of its k-space (`solvers.crop_phase`), before everything else; unring: remove the
    ringing of a k-space crop from the map (docs/unring.md); strong_sources: correct calcifications and haemorrhages, so that they explain the field
    (`solvers.strong_sources`), after the former; large_scales: then correct the map smoothly (`solvers.large_scales`); fine_scales: correct it at
    fine scales, too (`solvers.fine_scales`), before ringing is removed; structures: correct the means of its structures (`solvers.structures`), last;
    select: the rule that chooses the method's parameter (docs/parameters.md), None to keep the setting; select_candidates: what it chooses from, None
    for a decade on either side of the setting.
    """

    crop_phase: bool = False
    unring: bool = False
    strong_sources: bool = False
    large_scales: bool = False
    fine_scales: bool = False
    structures: bool = False
    select: str | None = None
    select_candidates: tuple[float, ...] | None = None

    @classmethod
    def of(cls, name: str, settings: Mapping[str, Any], about: About) -> "PostSteps":
        """From a method's settings; keys of others are passed over. Raises InputError for values that cannot be, naming the method."""
        told = {key: settings[key] for key in POST_STEPS if key in settings}
        check_settings(name, cls, told)
        for later in ("strong_sources", "fine_scales", "structures"):
            if told.get(later) and not told.get("large_scales"):
                raise InputError(
                    f"{name}.{later} is true, but {name}.large_scales is false, which tells whether the field can be explained. "
                    "Set both to true."
                )
        rule, candidates = told.get("select"), told.get("select_candidates")
        if rule is not None:
            check_rule(rule)
            if not about.parameter:
                raise InputError(f"{name}.select is {rule!r}, but {name} has no parameter that balances data and regularisation. Set it to null.")
        if candidates is not None:
            told["select_candidates"] = check_candidates(candidates)
            if rule is None:
                raise InputError(f"{name}.select_candidates is given, but {name}.select is null. Name a rule, or leave the candidates out.")
        return cls(**told)


def default_candidates(parameter: str, value: Any, low: float = 0.0, high: float = math.inf) -> tuple[float, ...]:
    """A decade on either side of a setting, within bounds. Raises InputError where the setting is no positive number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{parameter} is {value!r}, so there is no decade around it to choose from. Give select_candidates.")
    return candidates_between(max(value / 10, low), min(value * 10, high), whole=isinstance(value, int))


def run_with_steps(run: Callable[..., ChiMap], field: FieldMap, steps: PostSteps, parameter: str, value: Any) -> ChiMap:
    """A map with the steps switched on. run: the method, which takes `parameter` as a keyword in place of its setting `value`."""
    if steps.select is None:
        chi = run()
    else:
        candidates = steps.select_candidates or default_candidates(parameter, value)
        chi = select_map(lambda tried: run(**{parameter: tried}), field, parameter=parameter, rule=steps.select, candidates=candidates)
    found = unrung(chi) if steps.unring else chi
    if not steps.large_scales:
        return found
    ringing = chi.chi_ppm - found.chi_ppm

    def finish(explaining: Tensor, correction: Tensor) -> Tensor:
        corrected = explaining + correction
        return torch.where(chi.mask, unring(corrected + ringing), 0.0) if steps.unring else corrected

    finishing = finish if steps.fine_scales else None
    return _explained(found, field, ringing, finishing, strong_sources=steps.strong_sources, structures=steps.structures)


def consistent(chi: ChiMap, field: FieldMap, ringing_ppm: Tensor | None) -> ChiMap:
    """A network's map after the correction of its strong sources and its large scales and, where the start of the network lost ringing, of its fine
    ones and its structures; with doubts.

    ringing_ppm: [x, y, z], what the start lost, or None. With it the map is the mean of two whose fine scales explain the field: the network's with
    the correction, which rings a little, and what is left of that and of the ringing once ringing is removed anew. What a network knows of ringing
    and what the correction measures err in different places (docs/final-solve.md).
    """
    if ringing_ppm is None:
        return _explained(chi, field, None, strong_sources=True)
    ringing = ringing_ppm

    def mean(explaining: Tensor, correction: Tensor) -> Tensor:
        corrected = explaining + correction
        return torch.where(chi.mask, (corrected + unring(corrected + ringing)) / 2, 0.0)

    return _explained(chi, field, ringing, mean, strong_sources=True, structures=True)


@torch.no_grad()
def _explained(
    chi: ChiMap,
    field: FieldMap,
    ringing_ppm: Tensor | None,
    finish: Callable[[Tensor, Tensor], Tensor] | None = None,
    *,
    strong_sources: bool = False,
    structures: bool = False,
) -> ChiMap:
    """The map after `solvers.large_scales`, with its doubts, which are logged as warnings, too. ringing_ppm: [x, y, z], what was removed from it.

    strong_sources: whether they are corrected before. finish: what is made of that map and the correction of its fine scales (`solvers.fine_scales`);
    not asked where there is much noise. structures: whether their means are corrected at the end. None of them where there are doubts.
    """
    values = chi.chi_ppm
    if strong_sources:
        values = values + strong_source_correction(values, field, ringing_ppm=ringing_ppm)
    found = explain_large_scales(values, field, ringing_ppm=ringing_ppm)
    outcome = dataclasses.replace(chi.outcome, doubts=(*chi.outcome.doubts, *found.doubts))
    for doubt in found.doubts:
        logger.warning("%s: %s.", field.name, doubt)
    if found.doubts:
        return dataclasses.replace(chi, chi_ppm=torch.where(chi.mask, chi.chi_ppm, 0.0), outcome=outcome)
    values = found.chi_ppm
    if finish is not None and fine_damping(field) <= WORTH_IT:
        values = finish(values, fine_correction(values if ringing_ppm is None else values + ringing_ppm, field))
    if structures:
        values = values + structure_correction(values, field, ringing_ppm=ringing_ppm)
    return dataclasses.replace(chi, chi_ppm=values, outcome=outcome)


@torch.no_grad()
def unrung(chi: ChiMap) -> ChiMap:
    """The map without the ringing of a k-space crop: `physics.unring` on the scan's whole grid along x, y and z, as the challenge's truth was made,
    and masked again. Raises InputError for a grid with an axis of less than 8 voxels.
    """
    return dataclasses.replace(chi, chi_ppm=torch.where(chi.mask, unring(chi.chi_ppm), 0.0))
