"""The plain numbers that make one head different from the next."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from qsmdl.errors import InputError
from qsmdl.phantom.drawing.ranges import Range, Triple, as_range, as_triple, as_tuples
from qsmdl.phantom.tissue.contrast import Contrast, ContrastName, draw_contrast

N_NUCLEI = 14
"""Seven structures (labels 1 to 7), left then right."""
CALCIFICATION_CHANCE = 0.4
"""How often a head of random contrast has a calcification."""


@dataclass(frozen=True, slots=True)
class HeadParams:
    """Everything that `render_head` needs: plain numbers, in head millimetres and degrees.

    seed: of the random fields (folding, warps, texture, vessel tree); contrast: tissue tables; scale, rotation_deg, offset_mm: of the whole head;
    warp_mm: rms of the smooth deformation; gyral_wavelength_mm, sulcal_depth_mm, sulcal_width_mm (half width), cortex_mm (thickness);
    ventricle_scale; nucleus_scale and nucleus_shift_mm: 14 numbers and 14 x 3 numbers (labels 1-7 left, then right); n_cortical_veins, n_deep_veins,
    vein_radius_mm; texture_mix: share of fine detail in the texture; texture_correlation: of R1 with R2* detail; blur_mm: standard deviation of the
    smoothing at tissue borders; calcification_centre_mm and calcification_radii_mm: centre and semi-axes (all 0: none) in template millimetres.
    """

    seed: int
    contrast: Contrast
    scale: Triple = (0.915, 0.935, 0.915)
    rotation_deg: Triple = (0.0, 0.0, 0.0)
    offset_mm: Triple = (0.0, 0.0, 0.0)
    warp_mm: float = 1.0
    gyral_wavelength_mm: float = 26.0
    sulcal_depth_mm: float = 15.0
    sulcal_width_mm: float = 0.42
    cortex_mm: float = 2.6
    ventricle_scale: float = 1.0
    nucleus_scale: tuple[float, ...] = (1.0,) * N_NUCLEI
    nucleus_shift_mm: tuple[Triple, ...] = ((0.0, 0.0, 0.0),) * N_NUCLEI
    n_cortical_veins: int = 30
    n_deep_veins: int = 40
    vein_radius_mm: float = 0.85
    texture_mix: float = 0.5
    texture_correlation: float = 0.5
    blur_mm: float = 0.33
    calcification_centre_mm: Triple = (0.0, 0.0, 0.0)
    calcification_radii_mm: Triple = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must be 0 or more.")
        if len(self.nucleus_scale) != N_NUCLEI or len(self.nucleus_shift_mm) != N_NUCLEI:
            raise InputError(f"nucleus_scale and nucleus_shift_mm need {N_NUCLEI} entries each: labels 1-7 on the left, then on the right.")
        positive = ("gyral_wavelength_mm", "sulcal_depth_mm", "sulcal_width_mm", "cortex_mm", "ventricle_scale", "vein_radius_mm")
        for name in positive:
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be positive.")
        if min(self.scale) <= 0.5 or max(self.scale) >= 1.5:
            raise InputError(f"scale is {self.scale}; every entry must lie between 0.5 and 1.5, or the head leaves its field of view.")
        if min(self.calcification_radii_mm) < 0 or not 0 <= self.texture_correlation <= 1 or not 0 <= self.texture_mix <= 1:
            raise InputError("calcification_radii_mm must not be negative; texture_correlation and texture_mix must lie between 0 and 1.")

    @property
    def has_calcification(self) -> bool:
        """Whether the head holds a calcification."""
        return min(self.calcification_radii_mm) > 0

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, tuples and dicts, as kept in `Phantom.params`."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "HeadParams":
        """The parameters that `as_dict` wrote (lists, as JSON makes them, become tuples again)."""
        known = {f.name for f in fields(HeadParams)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"head parameters hold unknown names {unknown}; known are {sorted(known)}.")
        plain = {name: as_tuples(value) for name, value in values.items() if name != "contrast"}
        return HeadParams(contrast=Contrast(**values["contrast"]), **plain)


def _draw_calcification(rng: np.random.Generator) -> tuple[Triple, Triple]:
    """Beside the falx, above the corpus callosum: centre and semi-axes in template millimetres, a few mm to 1 cm long."""
    centre = np.array([rng.choice((-1, 1)) * rng.uniform(0.5, 3.0), rng.uniform(-45, 40), rng.uniform(34, 56)])
    radius = rng.uniform(1.7, 2.6)
    radii = radius * np.array([rng.uniform(0.7, 0.9), rng.uniform(1.0, 1.6), rng.uniform(0.9, 1.3)])
    return as_triple(centre), as_triple(radii)


@dataclass(frozen=True, slots=True)
class AnatomyRanges:
    """What the anatomy of heads is drawn from, each quantity uniformly; the defaults are adults, `configs/phantom/engine.yaml` goes beyond.

    scale: of the head along x, y and z (1: fills the field of view); rotation_deg: about x, y and z, each up to this; offset_mm: along x, y and z,
    each up to this; warp_mm: rms of the smooth deformation (scale 28 mm); gyral_wavelength_mm; sulcal_depth_mm; sulcal_width_mm: half width;
    cortex_mm: thickness; ventricle_scale; nucleus_scale: of each deep nucleus by itself; nucleus_shift_mm: along x, y and z, each up to this;
    n_cortical_veins, n_deep_veins; vein_radius_mm: of cortical veins at the sinus; texture_mix: share of fine detail; texture_correlation: of the
    details of R1 and R2*.
    """

    scale_x: Range = (0.875, 0.955)
    scale_y: Range = (0.895, 0.975)
    scale_z: Range = (0.875, 0.955)
    rotation_deg: Triple = (5.0, 3.0, 4.0)
    offset_mm: Triple = (2.0, 2.0, 2.0)
    warp_mm: Range = (0.6, 1.4)
    gyral_wavelength_mm: Range = (23.0, 29.0)
    sulcal_depth_mm: Range = (13.0, 19.0)
    sulcal_width_mm: Range = (0.25, 0.59)
    cortex_mm: Range = (2.2, 2.8)
    ventricle_scale: Range = (0.7, 1.3)
    nucleus_scale: Range = (0.9, 1.1)
    nucleus_shift_mm: Triple = (0.8, 1.2, 1.2)
    n_cortical_veins: Range = (22, 41)
    n_deep_veins: Range = (30, 59)
    vein_radius_mm: Range = (0.7, 1.0)
    texture_mix: Range = (0.3, 0.7)
    texture_correlation: Range = (0.2, 0.7)

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            object.__setattr__(self, name, as_range(name, getattr(self, name), low=low, high=high))
        for name, most in {"rotation_deg": 45.0, "offset_mm": 15.0, "nucleus_shift_mm": 4.0}.items():
            values = tuple(float(v) for v in getattr(self, name))
            if len(values) != 3 or any(not 0 <= v <= most for v in values):
                raise InputError(f"{name} is {list(values)}; it needs three numbers between 0 and {most:g}, how far x, y and z may stray.")
            object.__setattr__(self, name, values)


_LIMITS = {
    **dict.fromkeys(("scale_x", "scale_y", "scale_z"), (0.6, 1.0)), "warp_mm": (0.0, 2.5), "gyral_wavelength_mm": (12.0, 60.0),
    "sulcal_depth_mm": (1.0, 30.0), "sulcal_width_mm": (0.05, 3.0), "cortex_mm": (0.5, 8.0), "ventricle_scale": (0.2, 2.5),
    "nucleus_scale": (0.5, 1.5), "n_cortical_veins": (1, 500), "n_deep_veins": (1, 500), "vein_radius_mm": (0.1, 3.0), "texture_mix": (0.0, 1.0),
    "texture_correlation": (0.0, 1.0),
}  # fmt: skip
"""Beyond these, structures run into each other or leave the field of view."""


def draw_head(
    seed: int, *, contrast: ContrastName, calcification: bool | None = None, variation: float = 1.0, ranges: AnatomyRanges | None = None
) -> HeadParams:
    """Draw a head.

    contrast: "sim1" (ordinary), "sim2" (larger white/grey contrast) or "random" (training); calcification: True, False, or None for the contrast's
    own habit (sim1 never, sim2 always, random in 40 %); variation: how far anatomy strays from the middle of its ranges, 1 to their ends, 0 not at
    all; ranges: of the anatomy, None for adults.
    Same seed, same head: the anatomy of a seed does not depend on the contrast. Raises InputError for an unknown contrast, a negative seed or a
    variation outside 0 ... 1.5.
    """
    if not 0 <= variation <= 1.5:
        raise InputError(f"variation is {variation}; it must lie between 0 and 1.5, or structures run into each other.")
    if seed < 0:
        raise InputError(f"seed is {seed}; it must be 0 or more.")
    anatomy, tissue, lesion = (np.random.default_rng([seed, stream]) for stream in (1, 2, 3))
    tables = draw_contrast(tissue, contrast)
    habit = {"sim1": False, "sim2": True, "random": bool(lesion.uniform() < CALCIFICATION_CHANCE)}[contrast]
    centre, radii = _draw_calcification(lesion)
    present = habit if calcification is None else calcification
    return HeadParams(
        seed=seed,
        contrast=tables,
        calcification_centre_mm=centre,
        calcification_radii_mm=radii if present else (0.0, 0.0, 0.0),
        **_draw_anatomy(ranges or AnatomyRanges(), anatomy, variation),
    )


def _draw_anatomy(ranges: AnatomyRanges, rng: np.random.Generator, variation: float) -> dict[str, Any]:
    def within(ends: Range) -> float:
        middle, spread = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
        return float(middle + variation * spread * rng.uniform(-1, 1))

    def up_to(most: Triple) -> Triple:
        x, y, z = (within((-v, v)) for v in most)
        return x, y, z

    def count(ends: Range) -> int:
        return int(rng.integers(round(ends[0]), round(ends[1]) + 1))

    return {
        "scale": (within(ranges.scale_x), within(ranges.scale_y), within(ranges.scale_z)),
        "rotation_deg": up_to(ranges.rotation_deg),
        "offset_mm": up_to(ranges.offset_mm),
        "warp_mm": within(ranges.warp_mm),
        "gyral_wavelength_mm": within(ranges.gyral_wavelength_mm),
        "sulcal_depth_mm": within(ranges.sulcal_depth_mm),
        "sulcal_width_mm": within(ranges.sulcal_width_mm),
        "cortex_mm": within(ranges.cortex_mm),
        "ventricle_scale": within(ranges.ventricle_scale),
        "nucleus_scale": tuple(within(ranges.nucleus_scale) for _ in range(N_NUCLEI)),
        "nucleus_shift_mm": tuple(up_to(ranges.nucleus_shift_mm) for _ in range(N_NUCLEI)),
        "n_cortical_veins": count(ranges.n_cortical_veins),
        "n_deep_veins": count(ranges.n_deep_veins),
        "vein_radius_mm": within(ranges.vein_radius_mm),
        "texture_mix": within(ranges.texture_mix),
        "texture_correlation": within(ranges.texture_correlation),
    }
