"""The plain numbers that make one head different from the next."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from qsmdl.errors import InputError
from qsmdl.phantom.contrast import Contrast, ContrastName, draw_contrast

Triple = tuple[float, float, float]
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
        plain = {name: _as_tuple(value) for name, value in values.items() if name != "contrast"}
        return HeadParams(contrast=Contrast(**values["contrast"]), **plain)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list | tuple) else value


def _triple(values: np.ndarray) -> Triple:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _draw_calcification(rng: np.random.Generator) -> tuple[Triple, Triple]:
    """Beside the falx, above the corpus callosum: centre and semi-axes in template millimetres, a few mm to 1 cm long."""
    centre = np.array([rng.choice((-1, 1)) * rng.uniform(0.5, 3.0), rng.uniform(-45, 40), rng.uniform(34, 56)])
    radius = rng.uniform(1.7, 2.6)
    radii = radius * np.array([rng.uniform(0.7, 0.9), rng.uniform(1.0, 1.6), rng.uniform(0.9, 1.3)])
    return _triple(centre), _triple(radii)


def draw_head(seed: int, *, contrast: ContrastName, calcification: bool | None = None, variation: float = 1.0) -> HeadParams:
    """Draw a head.

    contrast: "sim1" (ordinary), "sim2" (larger white/grey contrast) or "random" (training); calcification: True, False, or None for the contrast's
    own habit (sim1 never, sim2 always, random in 40 %); variation: how far anatomy strays from the template, 1 as between adults, 0 not at all.
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
        **_draw_anatomy(anatomy, variation),
    )


def _draw_anatomy(rng: np.random.Generator, variation: float) -> dict[str, Any]:
    def around(middle: float, spread: float) -> float:
        return float(middle + variation * spread * rng.uniform(-1, 1))

    return {
        "scale": (around(0.915, 0.04), around(0.935, 0.04), around(0.915, 0.04)),
        "rotation_deg": (around(0, 5), around(0, 3), around(0, 4)),
        "offset_mm": (around(0, 2), around(0, 2), around(0, 2)),
        "warp_mm": around(1.0, 0.4),
        "gyral_wavelength_mm": around(26.0, 3.0),
        "sulcal_depth_mm": around(16.0, 3.0),
        "sulcal_width_mm": around(0.42, 0.17),
        "cortex_mm": around(2.5, 0.3),
        "ventricle_scale": around(1.0, 0.3),
        "nucleus_scale": tuple(around(1.0, 0.1) for _ in range(N_NUCLEI)),
        "nucleus_shift_mm": tuple((around(0, 0.8), around(0, 1.2), around(0, 1.2)) for _ in range(N_NUCLEI)),
        "n_cortical_veins": int(rng.integers(22, 42)),
        "n_deep_veins": int(rng.integers(30, 60)),
        "vein_radius_mm": around(0.85, 0.15),
        "texture_mix": around(0.5, 0.2),
        "texture_correlation": around(0.45, 0.25),
    }
