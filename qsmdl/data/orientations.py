"""One head at several orientations to B0."""

import dataclasses
import math
from collections.abc import Sequence

from qsmdl.data.recipe import Recipe, VolumeParams, render_phantom, scan_phantom
from qsmdl.errors import InputError
from qsmdl.scan import Scan

_TILT_DEG = 30.0
MAX_ORIENTATIONS = 5


def check_orientations(n_orientations: int) -> None:
    """Raises InputError for other than 1 to 5 orientations."""
    if not 1 <= n_orientations <= MAX_ORIENTATIONS:
        raise InputError(f"n_orientations is {n_orientations}; it must lie between 1 and {MAX_ORIENTATIONS}.")


def orientations_of(params: VolumeParams, n_orientations: int) -> list[VolumeParams]:
    """One head at several orientations to B0: as drawn, then turned by 30 degrees to either side and back and forth, as far as a head goes in a
    receive coil (Liu et al., COSMOS, Magn Reson Med 2009). Directions are in the axes of the head; every scan has noise of its own.

    Raises InputError for other than 1 to 5 orientations.
    """
    check_orientations(n_orientations)
    sine, cosine = math.sin(math.radians(_TILT_DEG)), math.cos(math.radians(_TILT_DEG))
    tilts = [(sine, 0.0, cosine), (0.0, sine, cosine), (-sine, 0.0, cosine), (0.0, -sine, cosine)]
    others = [
        dataclasses.replace(params, b0_direction=tilt, noise_seed=params.noise_seed + number, name=f"orientation_{number + 1}")
        for number, tilt in enumerate(tilts[: n_orientations - 1], start=1)
    ]
    return [params, *others]


def render_orientations(recipe: Recipe, turns: Sequence[VolumeParams]) -> list[Scan]:
    """The scans of one head at the orientations of `orientations_of`; the head is rendered once."""
    if not turns:
        return []
    phantom = render_phantom(recipe, turns[0])
    geometries = [dataclasses.replace(phantom.geometry, b0_direction=turn.b0_direction) for turn in turns]
    heads = [dataclasses.replace(phantom, geometry=geometry) for geometry in geometries]
    return [scan_phantom(recipe, turn, head)[0] for turn, head in zip(turns, heads, strict=True)]
