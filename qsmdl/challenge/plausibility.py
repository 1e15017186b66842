"""Whether a map can be what it says: in ppm, with the sign of ppm, and a segmentation with what the metrics need."""

import logging
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

from qsmdl.challenge.regression import demeaned_inside, fit_line
from qsmdl.challenge.volumes import BLOOD, CALCIFICATION, DEEP_GREY_MATTER, TISSUE, Labels, Mask, Vector, Volume
from qsmdl.errors import InputError
from qsmdl.scan import LABELS
from qsmdl.units import hz_per_ppm, rad_per_ppm

logger = logging.getLogger(__name__)

Affine = NDArray[np.floating[Any]]
RC2_ECHO_TIMES_S = (0.004, 0.012, 0.020, 0.028)
_LEAST_CORRELATION, _TOLERANCE, _LARGEST_SPREAD = 0.3, 2.0, 30.0
"""A map is called mistaken only where it resembles the truth, and lies within a factor of two of a known unit: methods under- and overestimate."""
_ORIENTATIONS: Any = orientations  # nibabel carries no types
_CLEARLY = 0.05
"""By how much a correlation must be higher for a map to count as turned."""
_NUCLEI_SURVIVE_MM = 3.0
"""In larger voxels the smallest nuclei may win the majority of none."""
_SIM2 = re.compile(r"sim2(?!\d)", re.IGNORECASE)


def unit_factors(b0_tesla: float = 7.0, echo_times_s: Sequence[float] = RC2_ECHO_TIMES_S) -> dict[str, float]:
    """How many of each unit that maps come in make 1 ppm."""
    hz = hz_per_ppm(b0_tesla)
    phases = {f"rad at an echo time of {t * 1e3:g} ms and {b0_tesla:g} T": rad_per_ppm(b0_tesla, t) for t in echo_times_s}
    return {
        "ppb": 1e3,
        f"Hz at {b0_tesla:g} T": hz,
        f"rad/s at {b0_tesla:g} T": 2 * math.pi * hz,
        **phases,
        "a map in plain numbers (ppm / 1 000 000)": 1e-6,
        "a map in ppm against a truth in ppb": 1e-3,
    }


class Likeness(NamedTuple):
    """How a map relates to the truth inside the mask: slope of its regression on the truth, correlation, ratio of the standard deviations."""

    slope: float
    correlation: float
    spread: float


def compare_to_truth(recon: Volume, truth: Volume, mask: Mask) -> Likeness:
    """The likeness of a map and the truth, both [x, y, z] and finite; (0, 0, 0) where one of them is constant."""
    pair = demeaned_inside(recon, truth, mask)
    if pair is None:
        return Likeness(0.0, 0.0, 0.0)
    r, t = pair
    norm_r, norm_t = float(np.linalg.norm(r)), float(np.linalg.norm(t))
    if norm_r == 0 or norm_t == 0:
        return Likeness(0.0, 0.0, 0.0)
    return Likeness(fit_line(t, r)[0], float(r @ t) / norm_r / norm_t, norm_r / norm_t)


def _known_units(factor: float, b0_tesla: float, echo_times_s: Sequence[float]) -> str:
    """The units within the tolerance of a factor, the nearest two, as words; empty where there are none."""
    factors = unit_factors(b0_tesla, echo_times_s)
    distances = {unit: abs(math.log(factor / known)) for unit, known in factors.items()}
    near = sorted((unit for unit in factors if distances[unit] < math.log(_TOLERANCE)), key=lambda unit: distances[unit])
    return " or ".join(f"{unit} (factor {factors[unit]:.6g})" for unit in near[:2])


def check_units(
    recon: Volume,
    truth: Volume,
    mask: Mask,
    *,
    source: str = "The map",
    b0_tesla: float = 7.0,
    echo_times_s: Sequence[float] = RC2_ECHO_TIMES_S,
) -> None:
    """Raises InputError where a map (finite, [x, y, z]; the truth in ppm) is the truth in another unit, its negative, or no map in ppm at all.

    The factor is the slope of the regression of the map on the truth inside the mask, where their correlation exceeds 0.3; it is taken for a unit
    within a factor of two of one. A map that resembles the truth less, a field map say, is refused where it varies 30 times as much as the truth.
    `source`: what the message calls the map. Raises InputError too for a field strength that is not positive.
    """
    if not (math.isfinite(b0_tesla) and b0_tesla > 0):
        raise InputError(f"b0_tesla is {b0_tesla}; the field strength must be positive, in tesla.")
    slope, correlation, spread = compare_to_truth(recon, truth, mask)
    found = f"the slope of its regression on the truth is {slope:.4g}, the correlation {correlation:.2f}"
    known = _known_units(abs(slope), b0_tesla, echo_times_s) if abs(correlation) > _LEAST_CORRELATION else ""
    if known:
        raise InputError(f"{source} is not in ppm: {found}, which suggests {known}. Divide the map by the factor, so that it is in ppm.")
    if correlation < -_LEAST_CORRELATION:
        raise InputError(
            f"{source} has the opposite sign of the truth: {found}. Paramagnetic tissue (iron, veins) must be positive: multiply the map by -1, "
            "or invert the phase it was made from."
        )
    if spread > _LARGEST_SPREAD:
        known = _known_units(spread, b0_tesla, echo_times_s)
        raise InputError(
            f"{source} is no susceptibility map in ppm: it varies {spread:.4g} times as much as the truth, and {found}. "
            + (f"The nearest unit is {known}. " if known else "")
            + "Check that it is the map and not a field map in Hz, convert it to ppm, and check that the method did not diverge."
        )


def check_orientation(recon: Volume, truth: Volume, mask: Mask, affines: tuple[Affine, Affine], *, source: str = "The map") -> None:
    """Scoring compares voxels in the order of the files, whatever their affines (4 x 4, of the map and of the truth) say about left and right.

    Raises InputError where they say that axes run differently and a map turned accordingly resembles the truth more; where it does not, the map's
    affine was lost or made up on the way, as happens to many, and a warning says so. Volumes [x, y, z] and finite; `source`: what messages call
    the map.
    """
    if not all(np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 0 for affine in affines):
        return
    own, wanted = (_ORIENTATIONS.io_orientation(affine) for affine in affines)
    if np.array_equal(own, wanted):
        return
    codes, wanted_codes = ("".join(_ORIENTATIONS.ornt2axcodes(one)) for one in (own, wanted))
    axes = f"its affine says that its axes run to {codes}, the truth's to {wanted_codes}"
    turned = _ORIENTATIONS.apply_orientation(recon, _ORIENTATIONS.ornt_transform(own, wanted))
    likeness = compare_to_truth(recon, truth, mask).correlation
    turned_likeness = compare_to_truth(turned, truth, mask).correlation if turned.shape == truth.shape else -1.0
    if turned_likeness > likeness + _CLEARLY:
        raise InputError(
            f"{source} lies on another grid: {axes}, and turned so it correlates with the truth by {turned_likeness:.2f} instead of {likeness:.2f}. "
            "Write the map with its axes in the order and direction of the truth's."
        )
    logger.warning("%s: %s, but turning it would not make it resemble the truth more; voxels are compared in the order of the files.", source, axes)


def _missing(present: set[int], voxel_size_mm: Vector) -> list[int]:
    """Labels that a segmentation should have: the nuclei, blood, and some of the tissue; in coarse voxels single nuclei may drown."""
    nuclei = [label for label in DEEP_GREY_MATTER if label not in present]
    if max(voxel_size_mm) > _NUCLEI_SURVIVE_MM and len(nuclei) < len(DEEP_GREY_MATTER):
        nuclei = []
    return [*nuclei, *(() if BLOOD in present else (BLOOD,)), *(() if present & set(TISSUE) else TISSUE)]


def check_labels(
    labels: Labels, mask: Mask, *, source: str = "The segmentation", scan: str | None = None, voxel_size_mm: Vector = (1.0, 1.0, 1.0)
) -> None:
    """Raises InputError where a segmentation lacks labels that the official metrics need: the six nuclei (in voxels above 3 mm one of them will do),
    blood, some of the tissue, and, for a scan whose name begins with Sim2, the calcification.

    labels [x, y, z] whole numbers, mask [x, y, z] bool; `source`: what the message calls the segmentation.
    """
    present = set(np.unique(labels[mask]).tolist())
    names = {label: name.replace("_", " ") for name, label in LABELS.items()}
    missing = _missing(present, voxel_size_mm)
    if missing:
        raise InputError(
            f"{source} holds no {', '.join(f'{names[m]} ({m})' for m in missing)} inside the mask, so not all official metrics are defined "
            f"(labels found: {sorted(present)}). Use the challenge's labels; where some are meant to be absent, `qsmdl score --allow-missing-labels` "
            "scores the rest."
        )
    if scan is not None and _SIM2.match(scan) and CALCIFICATION not in present:
        raise InputError(
            f"{source} is said to belong to {scan}, but holds no calcification (label {CALCIFICATION}), which every Sim2 has. "
            "Check that it is not the segmentation of Sim1."
        )
