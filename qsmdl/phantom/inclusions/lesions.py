"""Lesions as drawn parameters: calcifications, haemorrhages, microbleeds and iron-laden nuclei. `blobs` renders them.

Ranges are this project's own choice around what others train and score with: iQSM's haemorrhages of 0.4 to 1.2 ppm and calcifications of -0.2 to
-0.3 ppm (Gao et al., NeuroImage 2022;259:119410), QSMInvNet's sources of 2 and -2 ppm, the calcification that the QSM challenge 2.0 looks for down to
-1.5 ppm (Magn Reson Med 2021;86:1241-1255) and QSM-CI down to -3.5 ppm. Microbleeds are those of Greenberg et al. (Lancet Neurol 2009;8:165-174): up
to 5 mm, seldom up to 10 mm, across as they appear, less in fact.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from qsmdl.errors import InputError
from qsmdl.phantom.drawing.ranges import (
    Range,
    Triple,
    as_range,
    as_triple,
    as_tuples,
    check_probability,
    draw_count,
    draw_log_uniform,
    draw_seed,
    draw_uniform,
)
from qsmdl.phantom.tissue.contrast import Contrast

LesionKind = Literal["calcification", "haemorrhage", "microbleed"]
Site = Literal["anywhere", "deep", "cortex", "csf"]
"""Where a lesion may lie: anywhere in the mask; in deep nuclei (labels 1 to 7); in grey matter; in CSF (choroid plexus, falx, dura)."""
N_NUCLEI_LABELS = 7
IRON_R2STAR_PER_PPM = 800.0
"""1/s of R2* that come with 1 ppm of iron at 7 T: own choice, about the inverse of r2star_slope in the deep nuclei (`contrast`)."""


@dataclass(frozen=True, slots=True)
class BlobRanges:
    """What lesions of one kind are drawn from.

    probability: that a phantom has any (0: off); count; radius_mm (log-uniform): of a ball of the main lobe's volume; lobes: balls that make up one
    lesion; stretch: largest ratio of its axes to those of a ball; roughness: rms of the surface's irregularity over the radius; chi_ppm; mild_share:
    how many have mild_chi_ppm instead; r1_per_s, r2star_per_s; m0: proton density left, over that of the tissue around; rim_share: how many have a
    rim of rim_mm with rim_factor times the chi of the core (hemosiderin); sites: drawn from with equal chances.
    """

    probability: float = 0.0
    count: Range = (1, 1)
    radius_mm: Range = (1.0, 6.0)
    lobes: Range = (1, 3)
    stretch: Range = (1.0, 1.6)
    roughness: Range = (0.0, 0.15)
    chi_ppm: Range = (-3.5, -0.5)
    mild_share: float = 0.0
    mild_chi_ppm: Range = (-0.3, -0.2)
    r1_per_s: Range = (0.5, 1.2)
    r2star_per_s: Range = (150.0, 500.0)
    m0: Range = (0.0, 0.3)
    rim_share: float = 0.0
    rim_mm: Range = (0.5, 2.0)
    rim_factor: Range = (1.2, 2.0)
    sites: tuple[Site, ...] = ("anywhere",)

    def __post_init__(self) -> None:
        for name in ("probability", "mild_share", "rim_share"):
            check_probability(name, getattr(self, name))
        for name, low, high, unit in (
            ("count", 1, 100, ""),
            ("radius_mm", 0.1, 50, "mm"),
            ("lobes", 1, 12, ""),
            ("stretch", 1, 4, ""),
            ("roughness", 0, 0.4, ""),
            ("chi_ppm", -20, 20, "ppm"),
            ("mild_chi_ppm", -20, 20, "ppm"),
            ("r1_per_s", 0.05, 20, "1/s"),
            ("r2star_per_s", 0, 5000, "1/s"),
            ("m0", 0, 2, ""),
            ("rim_mm", 0, 20, "mm"),
            ("rim_factor", 0, 10, ""),
        ):
            object.__setattr__(self, name, as_range(name, getattr(self, name), low=low, high=high, unit=unit))
        object.__setattr__(self, "sites", tuple(self.sites))
        if not self.sites or set(self.sites) - set(get_args(Site)):
            raise InputError(f"sites is {list(self.sites)}; it needs one or more of {', '.join(get_args(Site))}.")


@dataclass(frozen=True, slots=True)
class IronRanges:
    """Iron-laden nuclei. probability: that a phantom has them (0: off); factor: chi of each deep nucleus (labels 1 to 7) over its ordinary value."""

    probability: float = 0.0
    factor: Range = (1.0, 2.0)

    def __post_init__(self) -> None:
        check_probability("probability", self.probability)
        object.__setattr__(self, "factor", as_range("factor", self.factor, low=0, high=5))


def _calcifications() -> BlobRanges:
    return BlobRanges(count=(1, 3), mild_share=0.25, r2star_per_s=(100.0, 300.0), sites=("anywhere", "deep", "cortex", "csf"))


def _haemorrhages() -> BlobRanges:
    return BlobRanges(
        count=(1, 2), radius_mm=(3.0, 15.0), lobes=(2, 6), roughness=(0.05, 0.2), chi_ppm=(0.3, 2.0), r2star_per_s=(200.0, 600.0), rim_share=0.4
    )


def _microbleeds() -> BlobRanges:
    return BlobRanges(
        count=(1, 20), radius_mm=(0.5, 1.5), lobes=(1, 1), stretch=(1.0, 1.3), roughness=(0.0, 0.1), chi_ppm=(0.3, 2.0), r2star_per_s=(200.0, 600.0),
        sites=("anywhere", "deep", "cortex"),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class LesionRanges:
    """What the lesions of a phantom are drawn from: one switch for each kind, all off by default."""

    calcification: BlobRanges = field(default_factory=_calcifications)
    haemorrhage: BlobRanges = field(default_factory=_haemorrhages)
    microbleed: BlobRanges = field(default_factory=_microbleeds)
    iron: IronRanges = field(default_factory=IronRanges)


@dataclass(frozen=True, slots=True)
class Blob:
    """One lesion: a union of balls, stretched, turned and roughened.

    place: three numbers 0 ... 1 (`Region.locate`); seed: of the surface; lobes: (x, y, z, radius) in mm around the place, before the stretch;
    stretch: factors along its own axes with a product of 1; rotation_deg; roughness: rms over the main radius; m0: over that of the tissue around;
    rim_mm: 0 for none.
    """

    kind: LesionKind
    place: Triple
    site: Site
    seed: int
    lobes: tuple[tuple[float, float, float, float], ...]
    stretch: Triple
    rotation_deg: Triple
    roughness: float
    chi_ppm: float
    r1_per_s: float
    r2star_per_s: float
    m0: float
    rim_mm: float = 0.0
    rim_chi_ppm: float = 0.0


@dataclass(frozen=True, slots=True)
class LesionParams:
    """The lesions of one phantom; iron_factor: seven numbers for labels 1 to 7, or none."""

    blobs: tuple[Blob, ...] = ()
    iron_factor: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, tuples and dicts."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "LesionParams":
        """The parameters that `as_dict` wrote (lists, as JSON makes them, become tuples again)."""
        blobs = [{name: as_tuples(value) for name, value in blob.items()} for blob in values["blobs"]]
        return LesionParams(tuple(Blob(**blob) for blob in blobs), as_tuples(values["iron_factor"]))


def _draw_lobes(rng: np.random.Generator, radius_mm: float, n: int) -> tuple[tuple[float, float, float, float], ...]:
    """The main ball and others that stick out of it."""
    lobes = [(0.0, 0.0, 0.0, radius_mm)]
    for _ in range(n - 1):
        radius = radius_mm * rng.uniform(0.4, 0.8)
        direction = rng.normal(size=3)
        x, y, z = direction / np.linalg.norm(direction) * rng.uniform(0.6, 1.0) * radius_mm
        lobes.append((float(x), float(y), float(z), float(radius)))
    return tuple(lobes)


def _draw_blob(kind: LesionKind, ranges: BlobRanges, rng: np.random.Generator) -> Blob:
    stretch = np.exp(rng.uniform(-1, 1, 3) * np.log(draw_uniform(rng, ranges.stretch)) / 2)
    chi = draw_uniform(rng, ranges.mild_chi_ppm if rng.random() < ranges.mild_share else ranges.chi_ppm)
    has_rim = rng.random() < ranges.rim_share
    return Blob(
        kind=kind,
        place=as_triple(rng.uniform(size=3)),
        site=ranges.sites[int(rng.integers(len(ranges.sites)))],
        seed=draw_seed(rng),
        lobes=_draw_lobes(rng, draw_log_uniform(rng, ranges.radius_mm), draw_count(rng, ranges.lobes)),
        stretch=as_triple(stretch / stretch.prod() ** (1 / 3)),
        rotation_deg=as_triple(rng.uniform(-180, 180, 3)),
        roughness=draw_uniform(rng, ranges.roughness),
        chi_ppm=chi,
        r1_per_s=draw_uniform(rng, ranges.r1_per_s),
        r2star_per_s=draw_uniform(rng, ranges.r2star_per_s),
        m0=draw_uniform(rng, ranges.m0),
        rim_mm=draw_uniform(rng, ranges.rim_mm) if has_rim else 0.0,
        rim_chi_ppm=chi * draw_uniform(rng, ranges.rim_factor) if has_rim else 0.0,
    )


def draw_lesions(ranges: LesionRanges, rng: np.random.Generator) -> LesionParams | None:
    """Draw the lesions of a phantom, or None where there are none. Each kind has random numbers of its own: switching one off leaves the others."""
    blobs: list[Blob] = []
    streams = [np.random.default_rng(int(seed)) for seed in rng.integers(2**63, size=4)]
    for kind, stream in zip(get_args(LesionKind), streams, strict=False):
        kind_ranges: BlobRanges = getattr(ranges, kind)
        if stream.random() < kind_ranges.probability:
            blobs += [_draw_blob(kind, kind_ranges, stream) for _ in range(draw_count(stream, kind_ranges.count))]
    laden = streams[-1].random() < ranges.iron.probability
    factor = tuple(draw_uniform(streams[-1], ranges.iron.factor) for _ in range(N_NUCLEI_LABELS)) if laden else ()
    return LesionParams(tuple(blobs), factor) if blobs or laden else None


def laden_with_iron(contrast: Contrast, factor: tuple[float, ...]) -> Contrast:
    """Tissue tables whose deep nuclei (labels 1 to 7) have chi times a factor each, and the R2* that comes with the added iron.

    Raises InputError for other than seven factors.
    """
    if len(factor) != N_NUCLEI_LABELS:
        raise InputError(f"iron_factor has {len(factor)} entries; it needs {N_NUCLEI_LABELS}, one for each deep nucleus (labels 1 to 7).")
    chi, r2star = list(contrast.chi_ppm), list(contrast.r2star_per_s)
    for label, times in enumerate(factor, start=1):
        added = (times - 1) * chi[label]
        chi[label] += added
        # Only iron brings R2*: a diamagnetic table value scales without it.
        r2star[label] = max(0.0, r2star[label] + IRON_R2STAR_PER_PPM * added) if chi[label] > 0 else r2star[label]
    return replace(contrast, chi_ppm=tuple(chi), r2star_per_s=tuple(r2star))
