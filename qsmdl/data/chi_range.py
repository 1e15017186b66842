"""The susceptibilities that simulated volumes are drawn from, as one range for a network's card."""

from collections.abc import Iterable, Sequence

import numpy as np

from qsmdl.data.engine import Engine
from qsmdl.phantom.drawing.ranges import Range
from qsmdl.phantom.inclusions.lesions import N_NUCLEI_LABELS, BlobRanges
from qsmdl.phantom.tissue.blood import BloodRanges, blood_chi_ppm
from qsmdl.phantom.tissue.contrast import ContrastName, chi_bounds_ppm
from qsmdl.scan import LABELS

_SPREADS = 2.0
"""Standard deviations that count as drawn, of what is drawn from a normal distribution."""


def _hull(ranges: Iterable[Sequence[float]]) -> Range:
    ends = [end for one in ranges for end in one]
    return float(min(ends)), float(max(ends))


def _lesion(blob: BlobRanges) -> Range:
    factor = max(1.0, blob.rim_factor[1]) if blob.rim_share else 1.0
    return _hull([[factor * v for v in blob.chi_ppm], blob.mild_chi_ppm if blob.mild_share else blob.chi_ppm])


def _blood(blood: BloodRanges) -> Range:
    oxygenations = (*blood.oxygenation, *blood.arterial_oxygenation)
    return _hull([[blood_chi_ppm(y, h, chi) for y in oxygenations for h in blood.haematocrit for chi in blood.chi_do_ppm]])


def _head(contrast: ContrastName, engine: Engine) -> Range:
    """Of a head of the engine: tissues, with iron, without the first generator's calcification."""
    low, high = (np.array(bound) for bound in chi_bounds_ppm(contrast))
    iron = engine.lesions.iron.factor[1] if engine.lesions.iron.probability else 1.0
    for bound in (low, high):
        bound[1 : N_NUCLEI_LABELS + 1] *= max(1.0, iron)
        bound[LABELS["calcification"]] = 0.0
    found = _hull([low.tolist(), high.tolist()])
    return _hull([found, [-v for v in found]]) if engine.sign_flip else found


def chi_range_ppm(contrast: ContrastName, engine: Engine | None) -> Range:
    """The lowest and highest susceptibility (ppm) that tissues, blood, lesions, bodies and textures are drawn with, by the first generator (engine
    None) or the engine; 0, the reference, is always within.

    Of what is drawn from a normal distribution, two standard deviations count; the texture within tissues does not, nor do the user's label maps,
    whose tables the recipe does not hold.
    """
    if engine is None:
        return _hull([[0.0], *chi_bounds_ppm(contrast)])
    kinds = {kind for kind, share in engine.kinds.items() if share > 0}
    found: list[Sequence[float]] = [[0.0]]
    if "head" in kinds:
        found.append(_head(contrast, engine))
    for kind, spread in (("shapes", engine.shapes.chi_spread_ppm[1]), ("texture", engine.texture.amplitude_ppm[1])):
        if kind in kinds:
            found.append([-_SPREADS * spread, _SPREADS * spread])
    if engine.blood.probability:
        found.append(_blood(engine.blood))
    lesions = engine.lesions
    found += [_lesion(blob) for blob in (lesions.calcification, lesions.haemorrhage, lesions.microbleed) if blob.probability]
    return _hull(found)
