"""What cropping k-space does to the phase of a scan beyond cropping its field, found from the scan itself and taken off.

A voxel's signal is the sum of what precesses in and around it, so its phase follows the field where the magnitude is: near the edges of iron-rich
nuclei and veins, where both change within a voxel, the field map is off by several ppb, however little noise there is (docs/crop-phase.md).
"""

import dataclasses
import logging
from typing import NamedTuple

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.physics.box import mask_box
from qsmdl.physics.dipole import Dipole
from qsmdl.physics.fieldmap import wrapped
from qsmdl.physics.fourier import crop_kspace
from qsmdl.physics.unring import unring
from qsmdl.scan import FieldMap, Geometry, Scan
from qsmdl.solvers.fine_scales import WORTH_IT, fine_correction, fine_damping
from qsmdl.solvers.large_scales import explain_large_scales
from qsmdl.solvers.super_resolution import super_resolve
from qsmdl.solvers.tv import nltv, noise_scaled_regularisation
from qsmdl.units import rad_per_ppm

logger = logging.getLogger(__name__)

_MARGIN = 4
_CHI_WEIGHT_PPM = 5e-4
_MAGNITUDE_WEIGHT = 5e-3
"""Of the mean magnitude of the first echo in the mask."""
_LEAST_AGREEMENT = 0.5


class Uncropped(NamedTuple):
    """The field and the scan with corrected phases, or as they were; doubts: why they were left so, one sentence or none."""

    field: FieldMap
    scan: Scan | None
    doubts: tuple[str, ...] = ()


@torch.no_grad()
def crop_phase(chi_ppm: Tensor, scan: Scan, *, factor: int = 2, n_iterations: int = 20, padding: float = 1.25) -> Tensor:
    """The phase in rad [echo, x, y, z], 0 outside the mask, by which the echoes of a scan differ from those of the cropped field.

    chi_ppm: [x, y, z], the susceptibility with the ringing of the crop, 0 outside the mask. It and the magnitude of each echo are brought to a grid
    `factor` times as fine (`solvers.super_resolution`), the signal is made there and its k-space cropped to the scan's grid again. padding: of the
    box of the mask, for the field on the fine grid. Raises InputError for a map of another shape.
    """
    geometry = scan.geometry
    if tuple(chi_ppm.shape) != geometry.shape:
        raise InputError(f"chi_ppm is {tuple(chi_ppm.shape)}, but the scan is {geometry.shape}. Give both on one grid.")
    box = mask_box(scan.mask, _MARGIN)
    inner = geometry.cropped(box)
    x, y, z = (n * factor for n in inner.shape)
    size = inner.voxel_size_mm
    fine = Geometry((x, y, z), (size[0] / factor, size[1] / factor, size[2] / factor), inner.b0_direction, b0_tesla=inner.b0_tesla)

    def finer(values: Tensor, weight: float) -> Tensor:
        return super_resolve(values, weight=weight, factor=factor, voxel_size_mm=size, n_iterations=n_iterations)

    sharp = finer(torch.where(scan.mask, chi_ppm, 0.0)[box].float(), _CHI_WEIGHT_PPM)
    field = Dipole.of(fine, padding).to(sharp.device)(sharp)
    cropped = crop_kspace(field, inner.shape).real
    weight = _MAGNITUDE_WEIGHT * float(scan.magnitude[0][scan.mask].mean())
    phase = torch.zeros_like(scan.phase_rad)
    for echo, time_s in enumerate(scan.echo_times_s):
        turn = rad_per_ppm(geometry.b0_tesla, time_s)
        signal = crop_kspace(torch.polar(finer(scan.magnitude[echo][box].float(), weight).clamp_(min=0), field * turn), inner.shape)
        phase[(echo, *box)] = signal.mul_(torch.polar(torch.ones_like(cropped), cropped * -turn)).angle()
    return phase * scan.mask


@torch.no_grad()
def without_crop_phase(field: FieldMap, scan: Scan | None) -> Uncropped:
    """The field map and the scan with the phases that they would have if cropping k-space had cropped the field (`crop_phase`).

    The susceptibility that this needs is that of nonlinear total variation with both corrections of the final solve, whatever method comes after. The
    field map is corrected as a fit over all echoes without an offset would be. Left as they are, with a doubt, are a field without its scan, echoes
    that do not follow the field map (a phase at echo time 0), and a field that no susceptibility inside the mask explains.
    """
    if scan is None:
        return _left(field, scan, "the phase of the crop was not corrected, since that needs the scan's echoes")
    turns = torch.tensor([rad_per_ppm(scan.geometry.b0_tesla, t) for t in scan.echo_times_s]).to(scan.phase_rad)[:, None, None, None]
    information = (turns * scan.magnitude).square() * scan.mask
    total = information.sum(0).clamp(min=torch.finfo(information.dtype).tiny)
    agreement = float(((information * (scan.phase_rad - turns * field.field_ppm).cos()).sum(0) / total)[scan.mask].mean())
    if agreement < _LEAST_AGREEMENT:
        return _left(field, scan, "the phase of the crop was not corrected, since the echoes do not follow the field map (is there a phase offset?)")
    raw = nltv(field, regularisation=noise_scaled_regularisation(field)).chi_ppm
    smooth = unring(raw) * field.mask
    found = explain_large_scales(smooth, field, ringing_ppm=raw - smooth)
    if found.doubts:
        return _left(field, scan, "the phase of the crop was not corrected, since the field is not that of sources inside the mask")
    chi = found.chi_ppm + (raw - smooth)
    if fine_damping(field) <= WORTH_IT:
        chi = chi + fine_correction(chi, field)
    phase = crop_phase(chi, scan)
    values = field.field_ppm - torch.where(field.mask, (information / turns * phase).sum(0) / total, 0.0).to(field.field_ppm)
    return Uncropped(dataclasses.replace(field, field_ppm=values), dataclasses.replace(scan, phase_rad=wrapped(scan.phase_rad - phase)))


def _left(field: FieldMap, scan: Scan | None, why: str) -> Uncropped:
    logger.warning("%s: %s.", field.name, why)
    return Uncropped(field, scan, (why,))
