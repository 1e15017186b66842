"""The smooth surfaces of the brain: hemispheres, corpus callosum with diencephalon, cerebellum, brain stem, and the brain mask around them.

Template coordinates resemble MNI space (mm; x right, y anterior, z superior; origin at the anterior commissure). A head's template coordinates are
an affine map of its head millimetres plus a smooth deformation, so that no two heads, and no two sides of one head, have the same surface.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qsmdl.phantom.anatomy.params import HeadParams
from qsmdl.phantom.drawing.sampling import Axes, Lattice, seeded, smooth_noise
from qsmdl.phantom.drawing.shapes import column, ellipsoid_depth, rotation_matrix, smooth_intersection, smooth_union, tube_depth
from qsmdl.physics.box import Box, mask_box

TEMPLATE_ORIGIN_MM = (0.0, 10.0, -4.0)
"""Where the template's origin lies in head millimetres: the field of view's middle is a little behind and above the anterior commissure."""
LATTICE = Lattice.of(2.0)
"""Smooth surfaces are kept at 2 mm: their radii of curvature are several times larger."""
FISSURE_MM = 0.7
"""Half the width of the interhemispheric fissure."""


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """The map from head millimetres to template coordinates: affine plus a deformation kept on the lattice."""

    linear: Tensor
    offset_mm: Tensor
    deformation_mm: Tensor

    def affine(self, position_mm: Tensor) -> Tensor:
        """Template coordinates [3, ...] of head positions [3, ...] before the deformation."""
        local = position_mm - self.offset_mm.reshape(3, *([1] * (position_mm.ndim - 1)))
        turned: Tensor = torch.tensordot(self.linear, local, dims=1)
        return turned

    def template(self, axes: Axes) -> Tensor:
        """Template coordinates [3, x, y, z] of the grid spanned by three axes in head millimetres."""
        position = LATTICE.read(self.deformation_mm, axes)
        x, y, z = (axis - middle for axis, middle in zip(axes, self.offset_mm, strict=True))
        for component, (a, b, c) in zip(position, self.linear, strict=True):
            component.add_((a * x[:, None] + b * y)[:, :, None]).add_(c * z)
        return position

    def head(self, template_mm: Tensor) -> Tensor:
        """Head positions [..., 3] of template points [..., 3], by fixed-point iteration (the deformation is a gentle contraction)."""
        inverse = torch.linalg.inv(self.linear)
        position: Tensor = template_mm @ inverse.T + self.offset_mm
        for _ in range(6):
            bent = LATTICE.read_points(self.deformation_mm, position).movedim(0, -1)
            position = (template_mm - bent) @ inverse.T + self.offset_mm
        return position


def make_frame(params: HeadParams) -> Frame:
    """The frame of a head: size, rotation, offset and the smooth deformation of its seed."""
    turn = rotation_matrix(params.rotation_deg).T
    linear = torch.diag(1 / torch.tensor(params.scale)) @ turn
    offset = torch.tensor(params.offset_mm) + torch.tensor(TEMPLATE_ORIGIN_MM)
    coarse = [smooth_noise(LATTICE, seeded(params.seed, 10 + i), 28.0) * params.warp_mm for i in range(3)]
    fine = [smooth_noise(LATTICE, seeded(params.seed, 20 + i), 9.0) * (0.18 * params.warp_mm) for i in range(3)]
    return Frame(linear, offset, torch.stack(coarse) + torch.stack(fine))


def lattice_box(chosen: Tensor, axes: Axes) -> Box:
    """A box of the grid of three axes that holds what some samples of the lattice (boolean) stand for, and two samples more on each side."""
    spans: list[slice] = []
    for axis, lattice, ends in zip(axes, LATTICE.axes, mask_box(chosen, margin=2), strict=True):
        first, last = lattice[ends.start].item(), lattice[ends.stop - 1].item()
        spans.append(slice(int(torch.searchsorted(axis, first)), int(torch.searchsorted(axis, last, right=True))))
    return spans[0], spans[1], spans[2]


@dataclass(frozen=True, eq=False, slots=True)
class Envelope:
    """Depths in mm on the lattice, positive inside: brain (the mask), hemisphere (pial hull with the fissure open), core (corpus callosum and
    diencephalon), cerebellum, stem; template [3, x, y, z]: template coordinates of the lattice.
    """

    frame: Frame
    template: Tensor
    brain: Tensor
    hemisphere: Tensor
    core: Tensor
    cerebellum: Tensor
    stem: Tensor


def tentorium_mm(position_mm: Tensor) -> Tensor:
    """Height of the roof over the cerebellum: highest at the midline in front, falling backwards and sideways."""
    x, y, _ = position_mm
    height: Tensor = -7 + 0.30 * (y + 45).clamp(-60, 20) - 0.006 * x.square().clamp(max=2500)
    return height


def _cerebrum(position_mm: Tensor) -> Tensor:
    folded = torch.cat((position_mm[:1].abs(), position_mm[1:]))
    x, y, z = folded
    main = ellipsoid_depth(folded, (0.0, -17.0, 14.0), (66.0, 87.0, 59.0), exponent=2.35)
    behind = torch.sigmoid((-y - 38) / 4)
    floor = behind * tentorium_mm(folded) + (1 - behind) * (-19 + 0.10 * (y - 20).clamp_min(0) + 4 * torch.exp(-((x / 10) ** 2)))
    main = smooth_intersection(main, z - floor, 10.0)
    lobe = tube_depth(folded, ((35, 13, -29), (39, -4, -29), (43, -28, -23), (43, -52, -14)), (15, 20, 20, 16))
    lobe = smooth_intersection(lobe, x - 14, 5.0)
    lobe = smooth_intersection(lobe, z - torch.where(y < -40, floor, torch.full_like(floor, -60)), 4.0)
    return smooth_union(main, lobe, 5.0)


def _core(position_mm: Tensor) -> Tensor:
    flattened = position_mm * column((0.28, 1.0, 1.0), position_mm)
    points = ((0, 19, -6), (0, 28, 1), (0, 31, 9), (0, 22, 20), (0, 4, 26), (0, -20, 26), (0, -36, 19), (0, -41, 10), (0, -36, 5))
    callosum = tube_depth(flattened, points, (1.5, 3.5, 4.5, 3.4, 3.0, 3.0, 3.6, 4.8, 3.0))
    middle = ellipsoid_depth(position_mm, (0.0, -4.0, 8.0), (20.0, 31.0, 18.0))
    thalamic = ellipsoid_depth(position_mm, (0.0, -16.0, 2.0), (24.0, 19.0, 15.0))
    return torch.maximum(callosum, smooth_union(middle, thalamic, 6.0))


def _cerebellum(position_mm: Tensor) -> Tensor:
    folded = torch.cat((position_mm[:1].abs(), position_mm[1:]))
    lobe = ellipsoid_depth(folded, (24.0, -62.0, -37.0), (29.0, 27.0, 20.0), rotation_deg=(0.0, 8.0, -8.0))
    vermis = ellipsoid_depth(position_mm, (0.0, -62.0, -31.0), (15.0, 24.0, 21.0))
    solid = smooth_union(lobe, vermis, 6.0)
    return smooth_intersection(solid, tentorium_mm(position_mm) - 2.5 - position_mm[2], 4.0)


def _stem(position_mm: Tensor) -> Tensor:
    widened = position_mm * column((0.85, 1.0, 1.0), position_mm)
    midbrain = tube_depth(widened, ((0, -19, 0), (0, -22, -12), (0, -25, -22)), (14.0, 11.5, 11.0))
    pons = ellipsoid_depth(position_mm, (0.0, -25.0, -32.0), (19.0, 12.5, 14.0))
    medulla = tube_depth(widened, ((0, -31, -40), (0, -36, -55), (0, -41, -72), (0, -44, -95)), (9.0, 8.0, 6.5, 6.0))
    peduncle = tube_depth(torch.cat((position_mm[:1].abs(), position_mm[1:])), ((10, -28, -32), (20, -46, -36)), (7.0, 6.0))
    return smooth_union(smooth_union(midbrain, pons, 4.0), torch.maximum(medulla, peduncle), 5.0)


def make_envelope(params: HeadParams) -> Envelope:
    """All smooth brain surfaces of a head on the 2 mm lattice."""
    frame = make_frame(params)
    template = frame.affine(torch.stack(torch.meshgrid(*LATTICE.axes, indexing="ij"))).add_(frame.deformation_mm)
    cerebrum, cerebellum, stem, core = _cerebrum(template), _cerebellum(template), _stem(template), _core(template)
    fissure = torch.maximum(template[0].abs() - FISSURE_MM - 0.012 * (template[1] - 20).clamp_min(0), core)
    hemisphere = smooth_intersection(cerebrum, fissure, 1.5)
    brain = smooth_union(smooth_union(cerebrum, cerebellum, 8.0), stem, 8.0)
    # The space before the brain stem and between the lobes is cistern: part of a brain extraction.
    cistern = ellipsoid_depth(template, (0.0, -4.0, -19.0), (23.0, 17.0, 11.0))
    cistern = torch.maximum(cistern, ellipsoid_depth(template, (0.0, -38.0, -14.0), (26.0, 16.0, 15.0)))
    rim = 0.8 + 0.3 * smooth_noise(LATTICE, seeded(params.seed, 30), 10.0) + 0.6 * ((template[2] - 20) / 50).clamp(0, 1)
    brain = smooth_union(brain, cistern, 5.0) + rim.clamp_min(0.4)
    # A brain extraction ends where the cord leaves the field of view.
    brain = smooth_intersection(brain, template[2] + 80, 2.0)
    return Envelope(frame, template, brain, hemisphere, core, cerebellum, stem)
