"""Tissue tables: susceptibility, relaxation and proton density of each label at 7 T, and how they vary from head to head.

Susceptibilities of the deep nuclei and of blood are those of the head model of Marques et al. (Magn Reson Med 2021;86:526-542), and the slopes
in the nuclei lie within its own; the other values, rates and densities typical of 7 T among them, and how heads vary are this project's own choice.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from qsmdl.errors import InputError
from qsmdl.scan import LABELS

ContrastName = Literal["sim1", "sim2", "random"]
N_LABELS = 17
"""Length of a table: one value per label, 0 unused."""
Table = tuple[float, ...]

_CHI_PPM = {
    "caudate": 0.044, "globus_pallidus": 0.1305, "putamen": 0.038, "red_nucleus": 0.100, "dentate_nucleus": 0.152, "substantia_nigra": 0.111,
    "thalamus": 0.020, "white_matter": -0.025, "grey_matter": 0.017, "csf": 0.015, "blood": 0.190, "calcification": -2.5,
}  # fmt: skip
_SIM1_CHI_PPM = {"white_matter": -0.006, "grey_matter": 0.0085, "csf": 0.004}
_R1_PER_S = {
    "caudate": 0.58, "globus_pallidus": 0.80, "putamen": 0.60, "red_nucleus": 0.72, "dentate_nucleus": 0.66, "substantia_nigra": 0.70,
    "thalamus": 0.66, "white_matter": 0.80, "grey_matter": 0.52, "csf": 0.25, "blood": 0.45, "fat": 2.8, "bone": 1.0, "air": 0.5,
    "muscle": 0.55, "calcification": 0.9,
}  # fmt: skip
_R2STAR_PER_S = {
    "caudate": 52.0, "globus_pallidus": 110.0, "putamen": 60.0, "red_nucleus": 85.0, "dentate_nucleus": 95.0, "substantia_nigra": 98.0,
    "thalamus": 42.0, "white_matter": 38.0, "grey_matter": 30.0, "csf": 7.0, "blood": 70.0, "fat": 40.0, "bone": 300.0, "air": 10.0,
    "muscle": 45.0, "calcification": 180.0,
}  # fmt: skip
_M0 = {
    "caudate": 0.80, "globus_pallidus": 0.72, "putamen": 0.80, "red_nucleus": 0.74, "dentate_nucleus": 0.75, "substantia_nigra": 0.75,
    "thalamus": 0.76, "white_matter": 0.70, "grey_matter": 0.82, "csf": 1.0, "blood": 0.80, "fat": 1.05, "bone": 0.06, "air": 0.0,
    "muscle": 0.75, "calcification": 0.25,
}  # fmt: skip
# Texture: ppm per (1/s) of R2* and of R1, and the relative spread of both rates.
_R2STAR_SLOPE = {
    "caudate": 0.0011, "globus_pallidus": 0.0013, "putamen": 0.0011, "red_nucleus": 0.0012, "dentate_nucleus": 0.0012, "substantia_nigra": 0.0012,
    "thalamus": 0.0008, "white_matter": 0.0006, "grey_matter": 0.0009, "csf": 0.0, "blood": 0.0003, "calcification": 0.002,
}  # fmt: skip
_R1_SLOPE = {
    "caudate": -0.03, "globus_pallidus": -0.05, "putamen": -0.03, "red_nucleus": -0.04, "dentate_nucleus": -0.05, "substantia_nigra": -0.05,
    "thalamus": -0.03, "white_matter": -0.06, "grey_matter": -0.03, "csf": 0.0, "blood": 0.0, "calcification": -0.05,
}  # fmt: skip
_R2STAR_SPREAD = {
    "caudate": 0.13, "globus_pallidus": 0.20, "putamen": 0.15, "red_nucleus": 0.15, "dentate_nucleus": 0.18, "substantia_nigra": 0.18,
    "thalamus": 0.08, "white_matter": 0.10, "grey_matter": 0.14, "csf": 0.05, "blood": 0.08, "calcification": 0.10, "muscle": 0.15, "fat": 0.15,
    "bone": 0.2, }  # fmt: skip
_R1_SPREAD = dict.fromkeys(LABELS, 0.05) | {"csf": 0.02, "blood": 0.03, "air": 0.0}


def table(values: dict[str, float]) -> Table:
    """A per-label table of plain numbers from named values; labels not named get 0."""
    row = np.zeros(N_LABELS)
    for name, value in values.items():
        row[LABELS[name]] = value
    return tuple(float(v) for v in row)


@dataclass(frozen=True, slots=True)
class Contrast:
    """What each label looks like: tables of 17 values (index = label).

    chi_ppm; r1_per_s; r2star_per_s; m0 (arbitrary units); r2star_slope and r1_slope: ppm per 1/s of deviation from the tissue's mean rate;
    r2star_spread and r1_spread: standard deviation of the rates within the tissue, relative to the mean.
    """

    chi_ppm: Table
    r1_per_s: Table
    r2star_per_s: Table
    m0: Table
    r2star_slope: Table
    r1_slope: Table
    r2star_spread: Table
    r1_spread: Table

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            values = tuple(float(v) for v in getattr(self, name))
            if len(values) != N_LABELS or not np.isfinite(values).all():
                raise InputError(f"{name} is {values}; a tissue table needs {N_LABELS} finite numbers, one per label with 0 unused.")
            if name not in ("chi_ppm", "r2star_slope", "r1_slope") and min(values) < 0:
                raise InputError(f"{name} holds {min(values)}; relaxation rates, spreads and densities must not be negative.")
            object.__setattr__(self, name, values)


def base_contrast(name: str) -> Contrast:
    """The tables of "sim1" (ordinary contrast) or "sim2" (larger white/grey contrast) without variation between heads."""
    if name not in ("sim1", "sim2"):
        raise InputError(f"contrast {name!r} has no base table; choose 'sim1' or 'sim2'.")
    chi = _CHI_PPM | (_SIM1_CHI_PPM if name == "sim1" else {})
    tables = (chi, _R1_PER_S, _R2STAR_PER_S, _M0, _R2STAR_SLOPE, _R1_SLOPE, _R2STAR_SPREAD, _R1_SPREAD)
    return Contrast(*(table(values) for values in tables))


def _vary(values: Table, rng: np.random.Generator, spread: float) -> Table:
    return tuple(float(v) for v in np.asarray(values) * (1 + spread * rng.uniform(-1, 1, N_LABELS)))


_SPREAD = 0.12
_BETWEEN = (-0.2, 1.2)
_OWN_FACTOR = (0.4, 1.6)
_OVERALL_FACTOR = (0.5, 2.0)
_CALCIFICATION_PPM = (-3.5, -0.5)


def _mixed_chi(rng: np.random.Generator) -> Table:
    """Domain randomisation: between and beyond both contrasts, each tissue wide around its value, with an overall scale (own choice)."""
    between = rng.uniform(*_BETWEEN)
    sim1, sim2 = (np.asarray(base_contrast(name).chi_ppm) for name in ("sim1", "sim2"))
    chi = (1 - between) * sim1 + between * sim2
    chi = chi * rng.uniform(*_OWN_FACTOR, N_LABELS) * np.exp(rng.uniform(*np.log(_OVERALL_FACTOR)))
    chi[LABELS["calcification"]] = rng.uniform(*_CALCIFICATION_PPM)
    return tuple(float(v) for v in chi)


def chi_bounds_ppm(name: ContrastName) -> tuple[Table, Table]:
    """The lowest and highest chi of each label that `draw_contrast` can draw, in ppm. Raises InputError for an unknown name."""
    if name != "random":
        chi = np.asarray(base_contrast(name).chi_ppm)
        ends = [chi * (1 + sign * _SPREAD) for sign in (-1, 1)]
    else:
        sim1, sim2 = (np.asarray(base_contrast(other).chi_ppm) for other in ("sim1", "sim2"))
        mixed = [(1 - b) * sim1 + b * sim2 for b in _BETWEEN]
        ends = [chi * own * overall for chi in mixed for own in _OWN_FACTOR for overall in _OVERALL_FACTOR]
        for chi, end in zip(ends, _CALCIFICATION_PPM * len(ends), strict=False):
            chi[LABELS["calcification"]] = end
    return tuple(float(v) for v in np.min(ends, axis=0)), tuple(float(v) for v in np.max(ends, axis=0))


def draw_contrast(rng: np.random.Generator, name: ContrastName) -> Contrast:
    """Tables of one head.

    sim1, sim2: the base values, each varied by up to 12 % (chi) or 8 % (rates); random: every tissue's chi varied by 60 %, all scaled by 0.5 ... 2.
    Raises InputError for any other name.
    """
    if name not in get_args(ContrastName):
        raise InputError(f"contrast is {name!r}; it must be one of {', '.join(map(repr, get_args(ContrastName)))}.")
    base = base_contrast("sim2" if name == "sim2" else "sim1")
    wide = name == "random"
    chi = _mixed_chi(rng) if wide else _vary(base.chi_ppm, rng, _SPREAD)
    rate = 0.25 if wide else 0.08
    return Contrast(
        chi_ppm=chi,
        r1_per_s=_vary(base.r1_per_s, rng, rate),
        r2star_per_s=_vary(base.r2star_per_s, rng, rate),
        m0=_vary(base.m0, rng, 0.04),
        r2star_slope=_vary(base.r2star_slope, rng, 1.0 if wide else 0.3),
        r1_slope=_vary(base.r1_slope, rng, 1.0 if wide else 0.3),
        r2star_spread=_vary(base.r2star_spread, rng, 0.5 if wide else 0.2),
        r1_spread=_vary(base.r1_spread, rng, 0.5 if wide else 0.2),
    )
