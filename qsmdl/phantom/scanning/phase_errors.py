"""What goes wrong in measured phases: flow, voxels without signal, noisy slabs, and wraps that unwrapping leaves."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.phantom.drawing.placing import Region
from qsmdl.phantom.drawing.ranges import Range, draw_log_uniform, draw_seed, draw_uniform
from qsmdl.phantom.drawing.sampling import grid_axes, seeded
from qsmdl.phantom.drawing.shapes import edge_share
from qsmdl.phantom.scanning.ellipsoids import Ellipsoid, EllipsoidRanges, ellipsoid_share
from qsmdl.phantom.scanning.switches import Limits, Switch
from qsmdl.physics.box import Box
from qsmdl.physics.fieldmap import fit_line
from qsmdl.physics.noise import phase_information
from qsmdl.scan import LABELS, FieldMap, Geometry, Phantom, Scan
from qsmdl.units import rad_per_ppm


@dataclass(frozen=True)
class FlowRanges(Switch):
    """Phase of flowing blood, linear in the echo time. rate_rad_per_s: its standard deviation over the vessels; scale_mm: how far along and between
    vessels it changes.

    Venous blood at 10 cm/s without flow compensation gains about 1 rad in 20 ms (Xu et al., Magn Reson Med 2014;72:438).
    """

    SETTING: ClassVar[str] = "flow"
    LIMITS: ClassVar[Limits] = {"rate_rad_per_s": (0.0, 500.0, "rad/s"), "scale_mm": (5.0, 200.0, "mm")}

    rate_rad_per_s: Range = (5.0, 80.0)
    scale_mm: Range = (20.0, 60.0)


@dataclass(frozen=True)
class DropoutRanges(EllipsoidRanges):
    """Ellipsoids without signal, as beside air, metal and bleedings. remainder: share of the signal left."""

    SETTING: ClassVar[str] = "dropouts"
    LIMITS: ClassVar[Limits] = {**EllipsoidRanges.LIMITS, "remainder": (0.0, 1.0, "")}

    count: Range = (1, 5)
    remainder: Range = (0.0, 0.1)


@dataclass(frozen=True)
class SlabRanges(Switch):
    """A slab of slices with more noise, as motion or interference leave. thickness_mm; factor: noise of the slab relative to the rest."""

    SETTING: ClassVar[str] = "slab"
    LIMITS: ClassVar[Limits] = {"thickness_mm": (0.5, 200.0, "mm"), "factor": (1.0, 100.0, "")}

    thickness_mm: Range = (3.0, 25.0)
    factor: Range = (1.5, 6.0)


@dataclass(frozen=True)
class WrapRanges(EllipsoidRanges):
    """Whole turns of phase that unwrapping leaves in small regions of single echoes.

    Path-following and Laplacian unwrapping fail beside veins and at the surface (Robinson et al., NMR Biomed 2017).
    """

    SETTING: ClassVar[str] = "wraps"

    radius_mm: Range = (1.0, 5.0)


@dataclass(frozen=True, slots=True)
class FlowParams:
    """rate_rad_per_s: standard deviation of the phase rate; scale_mm; seed of its variation."""

    rate_rad_per_s: float
    scale_mm: float
    seed: int


@dataclass(frozen=True, slots=True)
class DropoutParams:
    """Ellipsoids and the share of the signal left in each."""

    blobs: tuple[Ellipsoid, ...]
    remainder: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SlabParams:
    """axis 0, 1 or 2; centre: place along the mask's extent, 0 ... 1; thickness_mm; factor on the noise's standard deviation; seed of the added
    noise.
    """

    axis: int
    centre: float
    thickness_mm: float
    factor: float
    seed: int


@dataclass(frozen=True, slots=True)
class WrapParams:
    """Ellipsoids, the echo of each as a number in 0 ... 1 (the share of the echoes before it), and its turns (1 or -1)."""

    blobs: tuple[Ellipsoid, ...]
    echo: tuple[float, ...]
    turns: tuple[int, ...]


def draw_flow(ranges: FlowRanges, rng: np.random.Generator) -> FlowParams | None:
    """The flow of one sample, or None."""
    if not ranges.happens(rng):
        return None
    return FlowParams(draw_uniform(rng, ranges.rate_rad_per_s), draw_uniform(rng, ranges.scale_mm), draw_seed(rng))


def draw_dropouts(ranges: DropoutRanges, rng: np.random.Generator) -> DropoutParams | None:
    """The voxels without signal of one sample, or None."""
    if not ranges.happens(rng):
        return None
    blobs = ranges.draw(rng)
    return DropoutParams(blobs, tuple(draw_uniform(rng, ranges.remainder) for _ in blobs))


def draw_slab(ranges: SlabRanges, rng: np.random.Generator) -> SlabParams | None:
    """The noisy slab of one sample, or None."""
    if not ranges.happens(rng):
        return None
    axis, centre = int(rng.integers(3)), float(rng.random())
    return SlabParams(axis, centre, draw_uniform(rng, ranges.thickness_mm), draw_log_uniform(rng, ranges.factor), draw_seed(rng))


def draw_wraps(ranges: WrapRanges, rng: np.random.Generator) -> WrapParams | None:
    """The leftover wraps of one sample, or None."""
    if not ranges.happens(rng):
        return None
    blobs = ranges.draw(rng)
    return WrapParams(blobs, tuple(float(rng.random()) for _ in blobs), tuple(int(rng.choice((-1, 1))) for _ in blobs))


def plane_waves(points_mm: Tensor, scale_mm: float, generator: torch.Generator, n_waves: int = 24) -> Tensor:
    """A smooth random field of unit variance at points [n, 3]: waves of random directions and phases about scale_mm long."""
    waves = torch.randn(n_waves, 3, generator=generator, device=generator.device).div_(scale_mm * math.sqrt(3)).to(points_mm)
    start = torch.rand(n_waves, generator=generator, device=generator.device).to(points_mm)
    return ((points_mm @ waves.T + start) * (2 * math.pi)).cos_().sum(1) * math.sqrt(2 / n_waves)


def add_flow(field_ppm: Tensor, params: FlowParams, phantom: Phantom, box: Box) -> None:
    """Add to the field of a box, in place, the apparent field of flowing blood: its phase grows linearly with the echo time too."""
    geometry = phantom.geometry
    where = ((phantom.labels[box] == LABELS["blood"]) & phantom.mask[box]).nonzero()
    axes = grid_axes(geometry, field_ppm.device)
    points = torch.stack([axis[span][index] for axis, span, index in zip(axes, box, where.T, strict=True)], -1)
    speed = plane_waves(points, params.scale_mm, seeded(params.seed, 1))
    x, y, z = where.T
    field_ppm[x, y, z] += speed * (params.rate_rad_per_s / rad_per_ppm(geometry.b0_tesla, 1.0))


def drop_signal(magnitude: Tensor, params: DropoutParams, phantom: Phantom, box: Box) -> None:
    """Take the signal of ellipsoids out of the magnitude of a box at echo time 0, in place."""
    region = Region.of(phantom.mask, grid_axes(phantom.geometry, phantom.mask.device))
    for blob, remainder in zip(params.blobs, params.remainder, strict=True):
        where, share = ellipsoid_share(blob, region)
        # The blob's box in the coordinates of the magnitude's box, cut to it.
        starts = [max(w.start, b.start) for w, b in zip(where, box, strict=True)]
        stops = [max(min(w.stop, b.stop), s) for w, b, s in zip(where, box, starts, strict=True)]
        inner = tuple(slice(s - b.start, e - b.start) for s, e, b in zip(starts, stops, box, strict=True))
        part = share[tuple(slice(s - w.start, e - w.start) for s, e, w in zip(starts, stops, where, strict=True))]
        magnitude[inner] *= 1 - (1 - remainder) * part


def slab_noise_factor(params: SlabParams, mask: Tensor, geometry: Geometry) -> Tensor:
    """Standard deviation of the noise relative to that outside the slab, shaped to combine with [x, y, z]: factor inside, 1 outside, with edges one
    voxel wide. The slab's centre lies within the mask's extent.
    """
    others = [a for a in range(3) if a != params.axis]
    hit = mask.amax(others).nonzero()
    size, n = geometry.voxel_size_mm[params.axis], geometry.shape[params.axis]
    low, high = ((float(hit[i]) + edge) * size - n * size / 2 for i, edge in ((0, -0.5), (-1, 0.5)))
    middle = low + params.centre * (high - low)
    distance = (grid_axes(geometry, mask.device)[params.axis] - middle).abs_()
    share = edge_share(0.5 * params.thickness_mm - distance, size)
    return (1 + (params.factor - 1) * share).reshape([-1 if a == params.axis else 1 for a in range(3)])


def add_slab_noise(signal: Tensor, sigma: float, params: SlabParams, mask: Tensor, geometry: Geometry) -> Tensor:
    """Echoes [echo, x, y, z] that hold noise of sigma per channel, with more of it in the slab, so that its total there is factor times sigma."""
    extra = (slab_noise_factor(params, mask, geometry).square() - 1).sqrt_() * sigma
    generator = seeded(params.seed, 2, signal.device)
    parts = torch.randn((2, *signal.shape), generator=generator, dtype=signal.real.dtype, device=generator.device).to(signal.device)
    return signal + extra * torch.complex(parts[0], parts[1])


def leftover_turns(params: WrapParams, mask: Tensor, geometry: Geometry, n_echoes: int) -> Tensor:
    """Whole turns [echo, x, y, z] that unwrapping leaves."""
    turns = torch.zeros(n_echoes, *geometry.shape, device=mask.device)
    region = Region.of(mask, grid_axes(geometry, mask.device))
    for blob, echo, sign in zip(params.blobs, params.echo, params.turns, strict=True):
        box, share = ellipsoid_share(blob, region)
        turns[min(int(echo * n_echoes), n_echoes - 1), *box] += sign * (share >= 0.5)
    return turns * mask


def leave_wraps(field: FieldMap, scan: Scan, params: WrapParams, *, offset: bool = False) -> FieldMap:
    """A field fitted to a scan (`fit_field` with the same `offset`) as it would be with leftover wraps: the fit is linear in the phases, so the error
    is the fit of the turns. The scan's phases are wrapped and cannot show them. Raises InputError for a field on another grid.
    """
    if field.geometry.shape != scan.geometry.shape:
        raise InputError(f"the field has the shape {field.geometry.shape}, the scan {scan.geometry.shape}; wraps need both on one grid.")
    turns = leftover_turns(params, scan.mask, scan.geometry, len(scan.echo_times_s))
    error = torch.zeros_like(field.field_ppm)
    error[field.mask] = wrap_error_ppm(scan, turns[:, field.mask], field.mask, offset)
    return replace(field, field_ppm=field.field_ppm + error)


def wrap_error_ppm(scan: Scan, turns: Tensor, mask: Tensor, offset: bool) -> Tensor:
    """Error in ppm [voxel] of a field fitted to phases that hold whole turns [echo, voxel] too many in the voxels of a mask."""
    information = phase_information(scan.magnitude[:, mask])
    slope = fit_line(2 * math.pi * turns, information, scan.echo_times_s, offset=offset).slope_rad_per_s
    return slope / rad_per_ppm(scan.geometry.b0_tesla, 1.0)


def difference_wrap_error_ppm(scan: Scan, turns: Tensor) -> Tensor:
    """The same [x, y, z] for the weighted mean of phase differences (`phase_difference_field`), with turns [echo, x, y, z]; 0 outside the mask."""
    information = phase_information(scan.magnitude[:, scan.mask])
    times = torch.tensor(scan.echo_times_s, device=information.device)
    gap = (times[1:] - times[0])[:, None]
    weight = information[:1] * information[1:] / (information[:1] + information[1:]) * gap.square()
    jump = 2 * math.pi * (turns[1:, scan.mask] - turns[:1, scan.mask])
    error = torch.zeros(scan.geometry.shape, device=information.device)
    error[scan.mask] = (weight * jump / gap).sum(0) / weight.sum(0) / rad_per_ppm(scan.geometry.b0_tesla, 1.0)
    return error
