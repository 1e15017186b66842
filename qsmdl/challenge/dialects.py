"""The dialects of the metrics: three answers to what "dNRMSE" and its companions mean, none of which compares with another.

Every number of a `Row`, table or file carries its dialect. The modules `rc2`, `qsm_ci` and `corrected` hold the definitions and their reasons.
"""

from collections.abc import Callable
from typing import NamedTuple

from qsmdl.challenge import corrected, qsm_ci, rc2
from qsmdl.challenge.volumes import Scores, Volumes
from qsmdl.errors import InputError
from qsmdl.validation import did_you_mean


class Dialect(NamedTuple):
    """summary: what it is in a line; differs: how it departs from "rc2"; official and further: what computes the metrics."""

    summary: str
    differs: str
    official: Callable[[Volumes], Scores]
    further: Callable[[Volumes], Scores]


_TABLE: dict[str, Dialect] = {
    "rc2": Dialect(
        "as the challenge's released code computes",
        "multiplies by the regression's slope where it should divide, counts label 0 as deep grey matter, measures blood and nuclei beyond the mask",
        rc2.official,
        rc2.further,
    ),
    "qsm-ci": Dialect(
        "as qsm_ci.qsm_eval of the package qsm-ci 0.6 computes",
        "divides by the slope; labels 1 to 6; maps are 0 outside the mask; calcification to -3.5 ppm, its true moment from label 16; other windows",
        qsm_ci.official,
        qsm_ci.further,
    ),
    "corrected": Dialect(
        "as the names and rules of the challenge's paper say",
        "fits the truth to the map; all regions inside the mask; labels 1 to 6; additional metrics inside the mask, on demeaned maps and all axes",
        corrected.official,
        corrected.further,
    ),
}
DIALECTS: tuple[str, ...] = tuple(_TABLE)
"""The names, the challenge's own first; it is the default everywhere."""


def find_dialect(name: str) -> Dialect:
    """The dialect of a name. Raises InputError naming the three where there is none."""
    if name not in _TABLE:
        raise InputError(f"dialect is {name!r}; it must be one of {', '.join(DIALECTS)}{did_you_mean(name, DIALECTS)}")
    return _TABLE[name]


def why_they_differ(names: tuple[str, ...] = DIALECTS) -> str:
    """One line on what sets each of the dialects apart, to stand under every table that shows more than one."""
    return "Why they differ: " + ". ".join(f"{name} {find_dialect(name).differs}" for name in names) + "."
