"""Folding: sulci as sheets that cut into the hemispheres at right angles to their hull.

The sheets are the zero surfaces of narrow-band noise that is constant along the hull's normal (it is read at the nearest point of the hull), one
noise for each hemisphere. Cortex lines hull and sheets with one thickness, so crowns, walls and fundi of gyri all carry the same ribbon, and white
matter fills what remains.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qsmdl.phantom.anatomy.envelope import LATTICE, Envelope
from qsmdl.phantom.anatomy.params import HeadParams
from qsmdl.phantom.drawing.sampling import ring_noise, seeded, smooth_noise
from qsmdl.phantom.drawing.shapes import smooth_union

_FUNDUS_SOFTNESS = 0.6  # keeps |gradient| away from 0 where the noise has a saddle, relative to its rms


@dataclass(frozen=True, eq=False, slots=True)
class Folding:
    """On the lattice: signed distances to the sheets of primary and secondary sulci, and how deep each reaches, all in mm."""

    primary_mm: Tensor
    primary_depth_mm: Tensor
    secondary_mm: Tensor
    secondary_depth_mm: Tensor
    sylvian_mm: Tensor


def _sheet_distance(noise: Tensor, wavelength_mm: float) -> Tensor:
    """Signed distance in mm to the zero surface of band noise, to first order."""
    slope = LATTICE.gradient(noise).square().sum(0)
    typical = (2 * math.pi / wavelength_mm) ** 2 * _FUNDUS_SOFTNESS**2
    return noise / (slope + typical * 0.25).sqrt()


def _on_hull(noise_left: Tensor, noise_right: Tensor, foot_mm: Tensor, left: Tensor) -> Tensor:
    return torch.where(left, LATTICE.read_points(noise_left, foot_mm), LATTICE.read_points(noise_right, foot_mm))


def _sylvian(template: Tensor, wobble: Tensor) -> Tensor:
    """Distance in mm from the lateral fissure: an oblique cleft between temporal lobe and operculum that opens on the insula (a T in coronal
    section).
    """
    x, y, z = template[0].abs(), template[1], template[2]
    height = z - (-9 - 0.42 * (y - 8)) + 1.5 * wobble
    cleft = torch.stack((height.abs(), (38 - x).clamp_min(0), (y - 26).clamp_min(0) + (-36 - y).clamp_min(0))).square().sum(0).sqrt()
    bend = x - 38 + 0.006 * (y - 4) ** 2 + 0.8 * wobble
    tall = (height.abs() - 11 + 0.25 * (y - 4).abs()).clamp_min(0)
    insula = torch.stack((bend.abs(), tall, ((y - 2).abs() - 20).clamp_min(0))).square().sum(0).sqrt()
    return torch.minimum(cleft, insula)


def make_folding(params: HeadParams, envelope: Envelope) -> Folding:
    """The sulci of a head, on the 2 mm lattice."""
    seed, wavelength = params.seed, params.gyral_wavelength_mm
    depth = envelope.hemisphere
    normal = LATTICE.gradient(depth)
    normal = normal / normal.square().sum(0).sqrt().clamp_min(1e-3)
    axes = torch.stack(torch.meshgrid(*LATTICE.axes, indexing="ij"))
    wander = torch.stack([smooth_noise(LATTICE, seeded(seed, 40 + i), 12.0) for i in range(3)])
    # 0.9 of the way to the hull: the sheets lean a little, as sulci do.
    foot = (axes - 0.9 * depth.clamp(-5, 24) * normal + 2.0 * wander).movedim(0, -1)
    left = envelope.template[0] < 0
    primary = _on_hull(ring_noise(LATTICE, seeded(seed, 50), wavelength), ring_noise(LATTICE, seeded(seed, 51), wavelength), foot, left)
    fine = 0.55 * wavelength
    secondary = _on_hull(ring_noise(LATTICE, seeded(seed, 52), fine), ring_noise(LATTICE, seeded(seed, 53), fine), foot, left)
    reach = smooth_noise(LATTICE, seeded(seed, 54), 14.0)
    return Folding(
        primary_mm=_sheet_distance(primary, wavelength),
        primary_depth_mm=params.sulcal_depth_mm * (1 + 0.3 * reach).clamp(0.3, 1.5),
        secondary_mm=_sheet_distance(secondary, fine),
        secondary_depth_mm=(3.0 + 3.0 * smooth_noise(LATTICE, seeded(seed, 55), 12.0)).clamp(-2, 7),
        sylvian_mm=_sylvian(envelope.template, wander[0]),
    )


def _to_cleft(sheet_mm: Tensor, beyond_mm: Tensor) -> Tensor:
    """Distance to a sheet that ends at some depth: rounded at its fundus."""
    return torch.hypot(sheet_mm, beyond_mm.clamp_min(0))


def pial_distance(params: HeadParams, folding: Folding, depth_mm: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
    """Distance in mm from the pial surface on a grid: negative in sulcal CSF and outside, then grey matter, then white.

    depth_mm: depth in the hemispheres on that grid; read: reads fields of the lattice on it (`Lattice.reader`).
    """
    sulcus = _to_cleft(read(folding.primary_mm), depth_mm - read(folding.primary_depth_mm))
    shallow = _to_cleft(read(folding.secondary_mm), depth_mm - read(folding.secondary_depth_mm))
    sulcus = torch.minimum(sulcus, shallow)
    sulcus = torch.minimum(sulcus, read(folding.sylvian_mm).sub_(0.3))
    # Sulci gape at the hull and close towards the fundus.
    opening = (1 - depth_mm / 6).clamp_(0, 1).add_(1).mul_(params.sulcal_width_mm)
    return -smooth_union(-depth_mm, opening - sulcus, 1.5)
