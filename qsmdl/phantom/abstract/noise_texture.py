"""Texture without anatomy: 1/f^beta noise as susceptibility, and maps of M0, R1 and R2* that share a part of it.

A network that has seen magnitude edges coincide with those of chi trusts them; here the maps are drawn from shared latent fields, so that they tell
something about chi, but never all.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.phantom.abstract.outline import OutlineParams, OutlineRanges, check_field_of_view, draw_outline, plain_labels, render_outline
from qsmdl.phantom.drawing.ranges import Range, Triple, as_range, check_probability, draw_log_uniform, draw_seed, draw_uniform
from qsmdl.phantom.drawing.sampling import Axes, Lattice, band_noise, grid_axes, inner_axes, seeded
from qsmdl.physics.box import mask_box, slabs
from qsmdl.scan import Geometry, Phantom
from qsmdl.validation import check_not_negative

_LIMIT = 3.0
"""Texture is clamped at this many standard deviations."""
_FINEST = 0.4
"""Highest frequency of the noise in cycles per sample of its lattice."""
_STREAM = 210
_CHECKS = (
    ("exponent", 0.0, 6.0, ""),
    ("amplitude_ppm", 1e-6, 1.0, "ppm"),
    ("correlation", 0.0, 1.0, ""),
    ("r1_per_s", 0.01, 10.0, "1/s"),
    ("r2star_per_s", 0.1, 500.0, "1/s"),
    ("m0", 0.001, 10.0, ""),
    # Three standard deviations below the mean must stay above 0.
    ("rate_spread", 0.0, 0.3, ""),
    ("strength", 0.0, 10.0, ""),
)


def check_ranges(ranges: Any) -> None:
    """Turn the settings of a dataclass of ranges that this module knows into tuples. Raises InputError naming the setting."""
    for name, low, high, unit in _CHECKS:
        if hasattr(ranges, name):
            object.__setattr__(ranges, name, as_range(name, getattr(ranges, name), low=low, high=high, unit=unit))
    if not 0.5 <= ranges.spacing_mm <= 5:
        raise InputError(f"spacing_mm is {ranges.spacing_mm}; the texture's grid must be 0.5 to 5 mm fine.")


@dataclass(frozen=True, slots=True)
class TextureNoiseRanges:
    """What texture-only samples are drawn from.

    exponent: beta, the power density at a wave vector k falls as |k|^-beta; amplitude_ppm: standard deviation of chi, log-uniform; correlation:
    absolute correlation of each of R2*, R1 and M0 with chi, its sign being drawn; r1_per_s, r2star_per_s, m0 (arbitrary units): means; rate_spread:
    standard deviation of R2*, R1 and M0 relative to their means; spacing_mm: of the grid that the noise is made on, 0.4 of the finest wavelength;
    outline: of the mask. Raises InputError naming the setting.

    An exponent of 3 has equal power in every octave; 1 is close to white noise, 5 is smooth. A profile along a straight line through a texture of
    exponent beta is 1/f^(beta - 2) noise, so that 3 to 5 are 1/f^1 to 1/f^3 along lines.
    """

    exponent: Range = (1.0, 5.0)
    amplitude_ppm: Range = (0.005, 0.05)
    correlation: Range = (0.2, 0.8)
    r1_per_s: Range = (0.3, 1.5)
    r2star_per_s: Range = (10.0, 80.0)
    m0: Range = (0.4, 1.0)
    rate_spread: Range = (0.05, 0.3)
    spacing_mm: float = 1.2
    outline: OutlineRanges = field(default_factory=OutlineRanges)

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True)
class AddedTextureRanges:
    """What texture on top of another sample's chi is drawn from.

    probability: of having any (0: off); strength: multiplies amplitude_ppm; the other settings as in `TextureNoiseRanges`, rate_spread for the share
    by which R2*, R1 and M0 vary along. Raises InputError naming the setting.
    """

    probability: float = 0.0
    strength: Range = (0.3, 1.0)
    exponent: Range = (1.0, 5.0)
    amplitude_ppm: Range = (0.005, 0.05)
    correlation: Range = (0.2, 0.8)
    rate_spread: Range = (0.0, 0.15)
    spacing_mm: float = 1.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "probability", check_probability("probability", self.probability))
        check_ranges(self)


@dataclass(frozen=True, slots=True)
class TextureFieldParams:
    """The random fields of one texture: plain numbers.

    seed; field_of_view_mm: the box that the noise fills, around the middle; spacing_mm; exponent; amplitude_ppm: standard deviation of chi;
    correlation: of R2*, R1 and M0 with chi, signed; rate_spread: relative standard deviations of R2*, R1 and M0.
    """

    seed: int
    field_of_view_mm: Triple
    exponent: float
    amplitude_ppm: float
    correlation: Triple
    rate_spread: Triple
    spacing_mm: float = 1.2

    def __post_init__(self) -> None:
        for name in ("field_of_view_mm", "correlation", "rate_spread"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        check_field_of_view(self.field_of_view_mm)
        if self.seed < 0 or self.amplitude_ppm < 0 or self.spacing_mm <= 0:
            raise InputError(f"seed {self.seed} and amplitude_ppm {self.amplitude_ppm} must not be negative, spacing_mm {self.spacing_mm} positive.")
        if max(abs(c) for c in self.correlation) > 1 or not all(0 <= s <= 0.3 for s in self.rate_spread):
            raise InputError(f"correlation {self.correlation} must lie between -1 and 1, rate_spread {self.rate_spread} between 0 and 0.3.")


@dataclass(frozen=True, slots=True)
class TextureNoiseParams:
    """One texture-only sample: the fields, the outline of its mask, and the means of R2*, R1 (1/s) and M0."""

    fields: TextureFieldParams
    outline: OutlineParams
    r2star_per_s: float
    r1_per_s: float
    m0: float

    def __post_init__(self) -> None:
        check_not_negative(r2star_per_s=self.r2star_per_s, r1_per_s=self.r1_per_s, m0=self.m0)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, tuples and dicts, as kept in `Phantom.params`."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "TextureNoiseParams":
        """The parameters that `as_dict` wrote, also after JSON turned tuples into lists."""
        plain = {**values, "fields": TextureFieldParams(**values["fields"]), "outline": OutlineParams(**values["outline"])}
        return TextureNoiseParams(**plain)


def _draw_fields(
    ranges: TextureNoiseRanges | AddedTextureRanges, rng: np.random.Generator, field_of_view_mm: Sequence[float], strength: float
) -> TextureFieldParams:
    signed = [draw_uniform(rng, ranges.correlation) * float(rng.choice((-1.0, 1.0))) for _ in range(3)]
    spread = [draw_uniform(rng, ranges.rate_spread) for _ in range(3)]
    return TextureFieldParams(
        seed=draw_seed(rng),
        field_of_view_mm=check_field_of_view(field_of_view_mm),
        exponent=draw_uniform(rng, ranges.exponent),
        amplitude_ppm=strength * draw_log_uniform(rng, ranges.amplitude_ppm),
        correlation=(signed[0], signed[1], signed[2]),
        rate_spread=(spread[0], spread[1], spread[2]),
        spacing_mm=float(ranges.spacing_mm),
    )


def draw_noise_texture(ranges: TextureNoiseRanges, rng: np.random.Generator, field_of_view_mm: Sequence[float]) -> TextureNoiseParams:
    """Draw a texture-only sample for a field of view (x, y, z)."""
    outline = draw_outline(ranges.outline, rng, field_of_view_mm)
    return TextureNoiseParams(
        fields=_draw_fields(ranges, rng, [2 * (abs(c) + r) for c, r in zip(outline.centre_mm, outline.reach_mm, strict=True)], 1.0),
        outline=outline,
        r2star_per_s=draw_log_uniform(rng, ranges.r2star_per_s),
        r1_per_s=draw_log_uniform(rng, ranges.r1_per_s),
        m0=draw_uniform(rng, ranges.m0),
    )


def draw_added_texture(ranges: AddedTextureRanges, rng: np.random.Generator, field_of_view_mm: Sequence[float]) -> TextureFieldParams | None:
    """Draw a texture to put on top of another sample, or None."""
    if not rng.uniform() < ranges.probability:
        return None
    return _draw_fields(ranges, rng, field_of_view_mm, draw_uniform(rng, ranges.strength))


def power_law_noise(lattice: Lattice, generator: torch.Generator, exponent: float) -> Tensor:
    """Gaussian noise of unit variance on a lattice whose power density falls as |k|^-exponent between the lattice's lowest frequency, below which it
    is flat, and 0.4 cycles per sample, above which there is none: that much survives interpolation between the samples.
    """
    lowest, highest = 1 / (max(lattice.shape) * lattice.spacing_mm), _FINEST / lattice.spacing_mm
    return band_noise(lattice, generator, lambda k: k.clamp_min(lowest) ** (-exponent / 2) * (k <= highest))


def noise_lattice(field_of_view_mm: Sequence[float], spacing_mm: float) -> Lattice:
    """A lattice that covers a field of view."""
    x, y, z = (int(scipy.fft.next_fast_len(math.ceil(extent / spacing_mm) + 4, real=True)) for extent in field_of_view_mm)
    return Lattice((x, y, z), spacing_mm)


def texture_fields(params: TextureFieldParams, axes: Axes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit-variance fields [x, y, z] for chi, R2*, R1 and M0 on the grid of three axes (mm), clamped at 3 standard deviations.

    R2* and R1 are made of chi's field and one of their own; M0 of chi's field and the sum of both, as the three share water and iron in tissue.
    """
    lattice = noise_lattice(params.field_of_view_mm, params.spacing_mm)
    noises = [power_law_noise(lattice, seeded(params.seed, _STREAM + i), params.exponent) for i in range(3)]
    shape = [len(axis) for axis in axes]
    chi, r2star, r1, m0 = (axes[0].new_empty(shape) for _ in range(4))
    for slab in slabs(shape, axes[0].device):
        read = lattice.reader((axes[0][slab], axes[1], axes[2]))
        latent, first, second = (read(noise).clamp_(-_LIMIT, _LIMIT) for noise in noises)
        own = (first, second, (first + second).mul_(math.sqrt(0.5)))
        for target, c, other in zip((r2star, r1, m0), params.correlation, own, strict=True):
            target[slab] = (c * latent).add_(other, alpha=math.sqrt(1 - c * c)).clamp_(-_LIMIT, _LIMIT)
        chi[slab] = latent
    return chi, r2star, r1, m0


@torch.no_grad()
def render_noise_texture(params: TextureNoiseParams, geometry: Geometry) -> Phantom:
    """Render a texture-only sample: chi with mean about 0 inside the mask and 0 outside, labels white matter inside and CSF outside.

    The fields are functions of params and of the position in mm. Raises InputError where no voxel lies inside the mask.
    """
    mask = render_outline(params.outline, geometry)
    chi, r2star, r1, m0 = texture_fields(params.fields, grid_axes(geometry))
    for values, mean, spread in zip((r2star, r1, m0), (params.r2star_per_s, params.r1_per_s, params.m0), params.fields.rate_spread, strict=True):
        values.mul_(spread).add_(1).mul_(mean)
    chi.mul_(params.fields.amplitude_ppm).mul_(mask)
    return Phantom(geometry, chi, m0, r1, r2star, plain_labels(mask), mask, {"kind": "noise_texture", **params.as_dict()})


@torch.no_grad()
def add_texture(phantom: Phantom, params: TextureFieldParams | None) -> Phantom:
    """A phantom with texture on top of its chi, and R2*, R1 and M0 varied along, inside its mask; with None the phantom itself.

    The parameters are kept in `Phantom.params` as "added_texture".
    """
    if params is None:
        return phantom
    box = mask_box(phantom.mask)
    fields = texture_fields(params, inner_axes(grid_axes(phantom.geometry), box))
    maps = [values.clone() for values in (phantom.chi_ppm, phantom.r2star_per_s, phantom.r1_per_s, phantom.m0)]
    inside, (chi, *rates) = phantom.mask[box], (values[box] for values in maps)
    for slab in slabs(inside.shape, inside.device):
        texture, *changes = (field[slab].mul_(inside[slab]) for field in fields)
        chi[slab].add_(texture, alpha=params.amplitude_ppm)
        for rate, change, spread in zip(rates, changes, params.rate_spread, strict=True):
            rate[slab].mul_(change.mul_(spread).add_(1))
    return replace(
        phantom,
        chi_ppm=maps[0],
        r2star_per_s=maps[1],
        r1_per_s=maps[2],
        m0=maps[3],
        params={**phantom.params, "added_texture": asdict(params)},
    )
