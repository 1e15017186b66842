"""The heads of a held-out study (docs/heldout.md): each is determined by its number and the study's seed alone, so a study can grow."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsmdl.challenge.cases import CHALLENGE_CONTRASTS
from qsmdl.data.recipe import Recipe, VolumeParams, draw_volume, volume_seed
from qsmdl.errors import InputError
from qsmdl.phantom.drawing.ranges import unit_vector

STUDY_SEED = 5000
"""Far from the small seeds that everybody tries methods on."""
ANISOTROPIC_EVERY, OBLIQUE_EVERY = 4, 3
STRETCH, TILT_DEG = (1.5, 2.0), (10.0, 30.0)
ANISOTROPIC, OBLIQUE = "anisotropic", "oblique"
_GEOMETRY, _NOISE = 1, 2


def is_anisotropic(number: int) -> bool:
    """One phantom of each four, whose place moves on from one four to the next: it would otherwise always have the same contrast."""
    return number % ANISOTROPIC_EVERY == (number // ANISOTROPIC_EVERY - 1) % ANISOTROPIC_EVERY


def is_oblique(number: int) -> bool:
    """The last phantom of each three."""
    return number % OBLIQUE_EVERY == OBLIQUE_EVERY - 1


@dataclass(frozen=True)
class HeldOutHead:
    """One head of a study. params: as drawn, without a noise level of its own (`at`)."""

    number: int
    recipe: Recipe
    params: VolumeParams

    @property
    def traits(self) -> tuple[str, ...]:
        """What its scans have beside isotropic voxels and B0 along z: "anisotropic", "oblique"."""
        told = ((ANISOTROPIC, is_anisotropic(self.number)), (OBLIQUE, is_oblique(self.number)))
        return tuple(name for name, has in told if has)

    def at(self, peak_snr: float) -> VolumeParams:
        """The head scanned at a peak SNR; noise is of its own at each, whatever other levels there are."""
        words = np.random.SeedSequence([self.params.noise_seed, _NOISE, round(1000 * peak_snr)]).generate_state(1)
        return dataclasses.replace(self.params, peak_snr=float(peak_snr), noise_seed=int(words[0]), name=f"{self.params.name}_snr{peak_snr:g}")

    def drawn_as(self, peak_snr: float) -> dict[str, Any]:
        """Everything that determines its scan at a peak SNR, as plain values."""
        return {"volume": dataclasses.asdict(self.at(peak_snr)), "recipe": self.recipe.digest}


def held_out_head(number: int, *, seed: int = STUDY_SEED, voxel_size_mm: float = 1.0) -> HeldOutHead:
    """Phantom `number`, counted from 0, of the study of a seed, drawn from the "test" stream, which no training sees.

    Even numbers are Sim1, odd ones Sim2. One in four (`is_anisotropic`) has voxels 1.5 to 2 times as long along z as in the plane (voxel_size_mm, in
    mm), one in three (`is_oblique`) B0 at 10 to 30 degrees from z in any direction; the rest are as the challenge's. The head itself depends neither
    on the voxel size nor on these. Raises InputError for a negative number or seed, and for a voxel size that is not positive.
    """
    if not 0 < voxel_size_mm < math.inf:
        raise InputError(f"voxel_size_mm is {voxel_size_mm}; it must be positive. The challenge has 1.")
    drawn_from, contrast = volume_seed("test", seed, number), CHALLENGE_CONTRASTS[number % len(CHALLENGE_CONTRASTS)]
    recipe = Recipe(contrast=contrast, voxel_size_mm=(voxel_size_mm, voxel_size_mm))
    params = draw_volume(recipe, drawn_from, contrast=contrast, name=f"{contrast.capitalize()}_{number:02d}")
    rng = np.random.default_rng([drawn_from, _GEOMETRY])
    # All three are drawn whether they are used or not, so that none depends on another's rule.
    stretch, tilt_deg, azimuth_rad = rng.uniform(*STRETCH), rng.uniform(*TILT_DEG), rng.uniform(0, 2 * math.pi)
    if is_anisotropic(number):
        params = _stretched(recipe, params, float(stretch))
    if is_oblique(number):
        params = dataclasses.replace(params, b0_direction=unit_vector(math.cos(math.radians(tilt_deg)), azimuth_rad))
    return HeldOutHead(number, recipe, params)


def _stretched(recipe: Recipe, params: VolumeParams, stretch: float) -> VolumeParams:
    """The volume with longer voxels along z, over the same field of view."""
    x, y, z = params.voxel_size_mm
    length = z * stretch
    shape = (*params.shape[:2], max(8, round(recipe.field_of_view_mm[2] / length)))
    return dataclasses.replace(params, voxel_size_mm=(x, y, length), shape=shape)


def check_snrs(peak_snrs: Sequence[float]) -> tuple[float, ...]:
    """The peak SNRs of a study in ascending order. Raises InputError: none, one twice, or one that is not positive."""
    if not peak_snrs or len({round(1000 * value) for value in peak_snrs if math.isfinite(value)}) != len(peak_snrs):
        raise InputError(f"The peak SNRs are {list(peak_snrs)}; a study needs at least one, each finite and once.")
    if min(peak_snrs) < 0.001:
        raise InputError(f"The peak SNRs are {list(peak_snrs)}; each must be positive. The challenge had 100 and 1000.")
    return tuple(sorted(float(value) for value in peak_snrs))
