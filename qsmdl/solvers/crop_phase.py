"""What cropping k-space does to the phase of a scan beyond cropping its field, found from the scan itself and taken off.

A voxel's signal is the sum of what precesses in and around it, so its phase follows the field where the magnitude is: near the edges of iron-rich
nuclei and veins, where both change within a voxel, the field map is off by several ppb, however little noise there is (docs/crop-phase.md).
"""

import dataclasses
import logging
from typing import NamedTuple
from weakref import WeakKeyDictionary, ref

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


class CropPhase(NamedTuple):
    """phase_rad: [echo, x, y, z], None where it cannot be told; doubts: why not, one sentence or none."""

    phase_rad: Tensor | None
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


def without_crop_phase(field: FieldMap, scan: Scan | None) -> Uncropped:
    """The field map and the scan with the phases that they would have if cropping k-space had cropped the field: `find_crop_phase` taken off.

    Left as they are, with a doubt that is logged, too, where that phase cannot be told.
    """
    found = find_crop_phase(field, scan)
    for doubt in found.doubts:
        logger.warning("%s: %s.", field.name, doubt)
    if scan is None or found.phase_rad is None:
        return Uncropped(field, scan, found.doubts)
    return Uncropped(*take_off(found.phase_rad, field, scan))


_found: WeakKeyDictionary[Scan, tuple[ref[FieldMap], CropPhase]] = WeakKeyDictionary()
"""What was found of a scan with a field map of it, as long as somebody holds the scan: methods that are compared ask one after another."""


def find_crop_phase(field: FieldMap, scan: Scan | None) -> CropPhase:
    """The phase of `crop_phase`, told from a scan and its field map alone; once, when it is asked of the same objects again.

    The susceptibility that this needs is that of nonlinear total variation with both corrections of the final solve, whatever method comes after.
    It cannot be told of a field without its scan, echoes that do not follow the field map (a phase at echo time 0), and a field that no
    susceptibility inside the mask explains.
    """
    if scan is None:
        return CropPhase(None, ("the phase of the crop was not corrected, since that needs the scan's echoes",))
    of_field, found = _found.get(scan, (None, None))
    if found is None or of_field is None or of_field() is not field:
        found = _find(field, scan)
        _found[scan] = ref(field), found
    return found


@torch.no_grad()
def _find(field: FieldMap, scan: Scan) -> CropPhase:
    share, turns = _information(scan)
    agreement = float((share * (scan.phase_rad - turns * field.field_ppm).cos()).sum(0)[scan.mask].mean())
    if agreement < _LEAST_AGREEMENT:
        return CropPhase(None, ("the phase of the crop was not corrected, since the echoes do not follow the field map (is there a phase offset?)",))
    raw = nltv(field, regularisation=noise_scaled_regularisation(field)).chi_ppm
    smooth = unring(raw) * field.mask
    found = explain_large_scales(smooth, field, ringing_ppm=raw - smooth)
    if found.doubts:
        return CropPhase(None, ("the phase of the crop was not corrected, since the field is not that of sources inside the mask",))
    chi = found.chi_ppm + (raw - smooth)
    if fine_damping(field) <= WORTH_IT:
        chi = chi + fine_correction(chi, field)
    return CropPhase(crop_phase(chi, scan))


@torch.no_grad()
def take_off(phase_rad: Tensor, field: FieldMap, scan: Scan) -> tuple[FieldMap, Scan]:
    """A field map and its scan less a phase [echo, x, y, z] in rad, the map as a fit over all echoes without an offset would have it."""
    share, turns = _information(scan)
    values = field.field_ppm - torch.where(field.mask, (share / turns * phase_rad).sum(0), 0.0).to(field.field_ppm)
    return dataclasses.replace(field, field_ppm=values), dataclasses.replace(scan, phase_rad=wrapped(scan.phase_rad - phase_rad))


def _information(scan: Scan) -> tuple[Tensor, Tensor]:
    """The share of each echo in the information on the field, [echo, x, y, z] and 0 outside the mask, and rad/ppm of each echo, [echo, 1, 1, 1]."""
    turns = torch.tensor([rad_per_ppm(scan.geometry.b0_tesla, t) for t in scan.echo_times_s]).to(scan.phase_rad)[:, None, None, None]
    information = (turns * scan.magnitude).square() * scan.mask
    return information / information.sum(0).clamp(min=torch.finfo(information.dtype).tiny), turns
