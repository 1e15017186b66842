"""The switchable effects of an acquisition: what they are drawn from, and what one sample drew."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qsmdl.errors import InputError
from qsmdl.phantom.drawing.ranges import as_tuples
from qsmdl.phantom.scanning.background import BackgroundParams, BackgroundRanges, Source, draw_background
from qsmdl.phantom.scanning.ellipsoids import Ellipsoid
from qsmdl.phantom.scanning.masking import (
    ErosionParams,
    ErosionRanges,
    HoleParams,
    HoleRanges,
    LowSignalParams,
    LowSignalRanges,
    draw_erosion,
    draw_holes,
    draw_low_signal,
)
from qsmdl.phantom.scanning.offset import OffsetParams, OffsetRanges, draw_offset
from qsmdl.phantom.scanning.phase_errors import (
    DropoutParams,
    DropoutRanges,
    FlowParams,
    FlowRanges,
    SlabParams,
    SlabRanges,
    WrapParams,
    WrapRanges,
    draw_dropouts,
    draw_flow,
    draw_slab,
    draw_wraps,
)

_DRAW: dict[str, Any] = {
    "offset": draw_offset,
    "background": draw_background,
    "flow": draw_flow,
    "dropouts": draw_dropouts,
    "slab": draw_slab,
    "wraps": draw_wraps,
    "erosion": draw_erosion,
    "holes": draw_holes,
    "low_signal": draw_low_signal,
}


@dataclass(frozen=True)
class EffectRanges:
    """Ranges and switches of all effects; every switch is off by default."""

    offset: OffsetRanges = field(default_factory=OffsetRanges)
    background: BackgroundRanges = field(default_factory=BackgroundRanges)
    flow: FlowRanges = field(default_factory=FlowRanges)
    dropouts: DropoutRanges = field(default_factory=DropoutRanges)
    slab: SlabRanges = field(default_factory=SlabRanges)
    wraps: WrapRanges = field(default_factory=WrapRanges)
    erosion: ErosionRanges = field(default_factory=ErosionRanges)
    holes: HoleRanges = field(default_factory=HoleRanges)
    low_signal: LowSignalRanges = field(default_factory=LowSignalRanges)


@dataclass(frozen=True, slots=True)
class Effects:
    """The effects of one scan as plain numbers; None where there is none."""

    offset: OffsetParams | None = None
    background: BackgroundParams | None = None
    flow: FlowParams | None = None
    dropouts: DropoutParams | None = None
    slab: SlabParams | None = None
    wraps: WrapParams | None = None
    erosion: ErosionParams | None = None
    holes: HoleParams | None = None
    low_signal: LowSignalParams | None = None

    @property
    def has_background(self) -> bool:
        """Whether the handed-out field is a total one: a background that was not removed."""
        return self.background is not None and self.background.removed == 0

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Effects":
        """The effects that `dataclasses.asdict` turned into plain values (lists, as JSON makes them, become tuples again).

        Raises InputError for unknown names.
        """
        if unknown := sorted(set(values) - set(_PARAMS)):
            raise InputError(f"effects hold unknown names {unknown}; known are {sorted(_PARAMS)}.")
        return Effects(**{name: None if value is None else _PARAMS[name](**_thawed(value)) for name, value in values.items()})


_PARAMS: dict[str, Any] = {
    "offset": OffsetParams,
    "background": BackgroundParams,
    "flow": FlowParams,
    "dropouts": DropoutParams,
    "slab": SlabParams,
    "wraps": WrapParams,
    "erosion": ErosionParams,
    "holes": HoleParams,
    "low_signal": LowSignalParams,
}
_PARTS: dict[str, Any] = {"blobs": Ellipsoid, "sources": Source, "residual_sources": Source}


def _thawed(values: dict[str, Any]) -> dict[str, Any]:
    made = {}
    for name, value in values.items():
        part = _PARTS.get(name)
        made[name] = as_tuples(value) if part is None else tuple(part(**{k: as_tuples(v) for k, v in one.items()}) for one in value)
    return made


def draw_effects(ranges: EffectRanges, rng: np.random.Generator) -> Effects:
    """Draw the effects of one scan. Each effect has random numbers of its own, so a switch changes its effect alone."""
    streams = rng.spawn(len(_DRAW))
    return Effects(**{name: draw(getattr(ranges, name), stream) for (name, draw), stream in zip(_DRAW.items(), streams, strict=True)})
