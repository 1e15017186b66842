"""The phantom engine: what its samples are drawn from, and one draw."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from qsmdl.errors import InputError
from qsmdl.phantom.abstract.geometric import ShapeParams, ShapeRanges, draw_shapes
from qsmdl.phantom.abstract.noise_texture import (
    AddedTextureRanges,
    TextureFieldParams,
    TextureNoiseParams,
    TextureNoiseRanges,
    draw_added_texture,
    draw_noise_texture,
)
from qsmdl.phantom.anatomy.label_atlas import LabelAtlas
from qsmdl.phantom.anatomy.label_maps import LabelMapParams, LabelMapRanges, draw_label_map
from qsmdl.phantom.anatomy.params import AnatomyRanges, HeadParams, draw_head
from qsmdl.phantom.anatomy.veins import VeinStyle, VeinStyleRanges, draw_vein_style
from qsmdl.phantom.drawing.ranges import check_probability
from qsmdl.phantom.inclusions.lesions import LesionParams, LesionRanges, draw_lesions, laden_with_iron
from qsmdl.phantom.inclusions.trees import VesselParams, VesselRanges, draw_vessels
from qsmdl.phantom.scanning.effects import EffectRanges, Effects, draw_effects
from qsmdl.phantom.scanning.protocol import ProtocolParams, ProtocolRanges, draw_protocol
from qsmdl.phantom.tissue.blood import BloodParams, BloodRanges, draw_blood
from qsmdl.phantom.tissue.contrast import Contrast, ContrastName
from qsmdl.phantom.tissue.field_strength import TABLE_TESLA
from qsmdl.scan import LABELS
from qsmdl.validation import from_settings

Kind = Literal["head", "shapes", "texture", "label_map"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Anatomy = HeadParams | ShapeParams | TextureNoiseParams | LabelMapParams


@dataclass(frozen=True)
class Engine:
    """Everything that samples are drawn from. Every effect has one switch, the probability in its own ranges.

    kinds: share of each kind of sample, "head" (procedural), "shapes" (geometry only), "texture" (noise only), "label_map" (the user's label maps);
    partial_volume: whether borders are shares of voxels instead of hard labels softened; sign_flip: share of the heads and label maps whose tissue
    susceptibilities change their sign; max_voxels: scans with more voxels get a smaller field of view (heads and label maps shrink with it).
    """

    kinds: Mapping[str, float] = field(default_factory=lambda: {"head": 1.0})
    partial_volume: bool = True
    sign_flip: float = 0.0
    max_voxels: float = 7e6
    anatomy: AnatomyRanges = field(default_factory=AnatomyRanges)
    veins: VeinStyleRanges = field(default_factory=VeinStyleRanges)
    blood: BloodRanges = field(default_factory=BloodRanges)
    vessels: VesselRanges = field(default_factory=VesselRanges)
    lesions: LesionRanges = field(default_factory=LesionRanges)
    added_texture: AddedTextureRanges = field(default_factory=AddedTextureRanges)
    shapes: ShapeRanges = field(default_factory=ShapeRanges)
    texture: TextureNoiseRanges = field(default_factory=TextureNoiseRanges)
    label_maps: LabelMapRanges = field(default_factory=LabelMapRanges)
    protocol: ProtocolRanges = field(default_factory=ProtocolRanges)
    effects: EffectRanges = field(default_factory=EffectRanges)

    def __post_init__(self) -> None:
        shares = {name: float(share) for name, share in self.kinds.items()}
        if unknown := sorted(set(shares) - set(KINDS)):
            raise InputError(f"kinds holds {unknown}; the kinds of samples are {', '.join(KINDS)}.")
        if min(shares.values(), default=0.0) < 0 or not sum(shares.values()) > 0:
            raise InputError(f"kinds is {shares}; shares must not be negative, and one must be positive.")
        object.__setattr__(self, "kinds", shares)
        check_probability("sign_flip", self.sign_flip)
        if not self.max_voxels >= 1000:
            raise InputError(f"max_voxels is {self.max_voxels}; a scan needs at least 1000.")

    @staticmethod
    def from_settings(settings: Mapping[str, Any]) -> "Engine":
        """The engine of plain nested values, as in a configuration or a card. Raises InputError naming the setting."""
        return from_settings("engine", Engine, settings)


@dataclass(frozen=True)
class Sample:
    """One draw of the engine: plain numbers, enough to render it again."""

    kind: Kind
    anatomy: Anatomy
    protocol: ProtocolParams
    effects: Effects
    partial_volume: bool = True
    veins: VeinStyle | None = None
    vessels: VesselParams | None = None
    lesions: LesionParams | None = None
    added_texture: TextureFieldParams | None = None
    field_of_view_mm: tuple[float, float, float] = (164.0, 205.0, 205.0)
    label_map: int = 0
    """Which of the user's label maps."""


def draw_sample(
    engine: Engine,
    seed: int,
    field_of_view_mm: tuple[float, float, float],
    *,
    contrast: ContrastName = "random",
    atlases: tuple[LabelAtlas, ...] = (),
) -> Sample:
    """Draw one sample. Each part has random numbers of its own, so that a switch changes its part alone.

    Raises InputError where a label map is drawn but none is given.
    """
    parts = [np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(10)]
    kinds = [kind for kind in KINDS if engine.kinds.get(kind, 0.0) > 0]
    shares = np.array([engine.kinds[kind] for kind in kinds])
    kind = kinds[int(parts[0].choice(len(kinds), p=shares / shares.sum()))]
    protocol = draw_protocol(engine.protocol, parts[1])
    field_of_view_mm = _affordable(engine, protocol, field_of_view_mm)
    lesions, blood = draw_lesions(engine.lesions, parts[2]), draw_blood(engine.blood, parts[3])
    chosen = int(parts[4].integers(len(atlases))) if atlases else 0
    flipped = bool(parts[5].random() < engine.sign_flip)
    anatomy = _draw_anatomy(engine, kind, parts[6], field_of_view_mm, contrast, atlases[chosen] if atlases else None)
    if isinstance(anatomy, HeadParams):
        anatomy = dataclasses.replace(anatomy, contrast=_retold(anatomy.contrast, lesions, blood, flipped, reference_tesla(protocol)))
    elif isinstance(anatomy, LabelMapParams) and flipped:
        anatomy = dataclasses.replace(anatomy, rows=tuple(dataclasses.replace(row, chi_ppm=-row.chi_ppm) for row in anatomy.rows))
    return Sample(
        kind=kind,
        anatomy=anatomy,
        protocol=protocol,
        effects=_seen_with(draw_effects(engine.effects, parts[7]), protocol),
        partial_volume=engine.partial_volume,
        veins=draw_vein_style(engine.veins, parts[8]) if kind == "head" else None,
        # Heads have a venous tree of their own.
        vessels=draw_vessels(engine.vessels, parts[8]) if kind in ("shapes", "label_map") else None,
        lesions=lesions,
        added_texture=draw_added_texture(engine.added_texture, parts[9], field_of_view_mm) if kind != "texture" else None,
        field_of_view_mm=field_of_view_mm,
        label_map=chosen,
    )


def _affordable(engine: Engine, protocol: ProtocolParams, field_of_view_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    """The field of view, shrunk to the engine's number of voxels where it has more."""
    x, y, z = field_of_view_mm
    shrink = min(1.0, (engine.max_voxels * math.prod(protocol.voxel_size_mm) / (x * y * z)) ** (1 / 3))
    return x * shrink, y * shrink, z * shrink


def _seen_with(effects: Effects, protocol: ProtocolParams) -> Effects:
    """The effects that can be told apart with a protocol's echoes: one echo has no phase offset.

    A single phase does not tell an offset from a field, so nothing could be fitted, and pi at 20 ms and 3 T would stay as a field of 0.2 ppm. Whoever
    inverts a single echo has removed the background from it, and offsets, which are smooth, with the background; what that leaves is drawn with the
    background (`residual_rms_ppm`).
    """
    return dataclasses.replace(effects, offset=None) if len(protocol.echo_times_s) == 1 else effects


def reference_tesla(protocol: ProtocolParams) -> float:
    """The field strength that a phantom's rates belong to: 7 T where the acquisition scales them, else that of the scan."""
    return TABLE_TESLA if protocol.relaxation_follows_field else protocol.b0_tesla


def _draw_anatomy(
    engine: Engine,
    kind: Kind,
    rng: np.random.Generator,
    field_of_view_mm: tuple[float, float, float],
    contrast: ContrastName,
    atlas: LabelAtlas | None,
) -> Anatomy:
    if kind == "shapes":
        return draw_shapes(engine.shapes, rng, field_of_view_mm)
    if kind == "texture":
        return draw_noise_texture(engine.texture, rng, field_of_view_mm)
    if kind == "label_map":
        if atlas is None:
            raise InputError("kinds asks for label maps, but none is given. Name them in data.label_maps, or set kinds.label_map to 0.")
        return draw_label_map(engine.label_maps, rng, atlas)
    # The engine's own lesions take the place of the first generator's calcification.
    return draw_head(int(rng.integers(2**31)), contrast=contrast, calcification=False, ranges=engine.anatomy)


def _retold(contrast: Contrast, lesions: LesionParams | None, blood: BloodParams | None, flipped: bool, b0_tesla: float) -> Contrast:
    """The tissue tables of a head with its iron, its blood and its sign."""
    if lesions is not None and lesions.iron_factor:
        contrast = laden_with_iron(contrast, lesions.iron_factor)
    if blood is not None:
        tissue, label = blood.tissue(b0_tesla, m0=contrast.m0[LABELS["white_matter"]]), LABELS["blood"]
        rows = {name: list(getattr(contrast, name)) for name in ("chi_ppm", "r1_per_s", "r2star_per_s", "m0")}
        for name, row in rows.items():
            row[label] = getattr(tissue, name)
        contrast = dataclasses.replace(contrast, **{name: tuple(row) for name, row in rows.items()})
    if flipped:
        names = ("chi_ppm", "r2star_slope", "r1_slope")
        contrast = dataclasses.replace(contrast, **{name: tuple(-v for v in getattr(contrast, name)) for name in names})
    return contrast
