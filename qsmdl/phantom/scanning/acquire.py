"""Scan a phantom as the QSM challenge 2.0 did: dipole field, complex multi-echo signal, k-space crop, noise (Marques et al., MRM 2021;86:526-542)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.phantom.scanning.background import Background, render_background
from qsmdl.phantom.scanning.downsample import cell_average, coarse_geometry, coarse_labels, coarse_mask, nearest_labels
from qsmdl.phantom.scanning.effects import Effects
from qsmdl.phantom.scanning.masking import drop_low_signal, erode, punch
from qsmdl.phantom.scanning.offset import render_offset
from qsmdl.phantom.scanning.phase_errors import add_flow, add_slab_noise, difference_wrap_error_ppm, drop_signal, leftover_turns
from qsmdl.phantom.scanning.waves import polar_parts, waves
from qsmdl.phantom.tissue.field_strength import at_field_strength
from qsmdl.physics.box import Box, mask_box, slabs
from qsmdl.physics.fieldmap import phase_difference_field
from qsmdl.physics.fourier import crop_kspace_of_box
from qsmdl.physics.signal import add_noise, steady_state
from qsmdl.physics.split_dipole import split_dipole_field
from qsmdl.physics.unring import unring
from qsmdl.scan import Geometry, Phantom, Scan, Truth
from qsmdl.units import rad_per_ppm

TruthKind = Literal["unrung", "crop", "cell"]
SUPPORT_VOXELS = 2
"""How far signal and noise reach beyond the brain mask."""
NO_EFFECTS = Effects()


@dataclass(frozen=True, slots=True)
class Acquisition:
    """A gradient-echo protocol; the defaults are those of the QSM challenge 2.0.

    shape: of the scan, over the phantom's field of view; None: the phantom's shape divided by factor (320/205 turns 0.64 mm into 1 mm); peak_snr:
    largest magnitude of the first echo in the whole head / noise standard deviation per channel, math.inf for no noise; phase_offset_rad: phase at
    TE = 0 (one that varies over the head: `Effects.offset`); field_padding: zero-padding of the dipole convolution; relaxation_follows_field: whether
    the phantom's rates are those of 7 T and scaled to its field strength (`field_strength`), or taken as they are.
    """

    echo_times_s: tuple[float, ...] = (0.004, 0.012, 0.020, 0.028)
    repetition_time_s: float = 0.05
    flip_angle_deg: float = 15.0
    peak_snr: float = 100.0
    shape: tuple[int, int, int] | None = None
    factor: float = 320 / 205
    phase_offset_rad: float = 0.0
    field_padding: float = 2.0
    relaxation_follows_field: bool = False

    def __post_init__(self) -> None:
        times = tuple(float(t) for t in self.echo_times_s)
        object.__setattr__(self, "echo_times_s", times)
        if not times or any(not 0 < t < 1 for t in times) or any(b <= a for a, b in pairwise(times)):
            raise InputError(f"echo_times_s is {times}; echo times must ascend and lie between 0 and 1 s. Were they given in ms?")
        if not times[-1] < self.repetition_time_s < 10:
            raise InputError(f"repetition_time_s is {self.repetition_time_s}; it must exceed the last echo time {times[-1]} s and stay below 10 s.")
        if not 0 < self.flip_angle_deg <= 90:
            raise InputError(f"flip_angle_deg is {self.flip_angle_deg}; it must lie above 0 and up to 90 degrees.")
        if not self.peak_snr > 0:
            raise InputError(f"peak_snr is {self.peak_snr}; it must be positive (math.inf for no noise).")
        if not (math.isfinite(self.phase_offset_rad) and 1 <= self.factor < 100 and 1 <= self.field_padding <= 4):
            raise InputError(
                f"phase_offset_rad {self.phase_offset_rad} must be finite, factor {self.factor} at least 1 (and below 100) "
                f"and field_padding {self.field_padding} between 1 and 4."
            )
        if self.shape is not None:
            object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    def scan_shape(self, geometry: Geometry) -> tuple[int, int, int]:
        """Shape of the scan of a phantom. Raises InputError where it would be finer than the phantom."""
        if self.shape is None:
            x, y, z = (max(1, round(n / self.factor)) for n in geometry.shape)
            return x, y, z
        if len(self.shape) != 3 or any(not 1 <= m <= n for m, n in zip(self.shape, geometry.shape, strict=True)):
            raise InputError(
                f"shape {self.shape} of the scan is finer than the phantom's {geometry.shape} or not three axes. Render the phantom on a finer grid."
            )
        return self.shape


def _support(mask: Tensor) -> Tensor:
    """The mask grown by a cube of SUPPORT_VOXELS."""
    grown = mask.clone()
    for axis, n in enumerate(mask.shape):
        line = grown.clone()
        for step in range(1, min(SUPPORT_VOXELS, n - 1) + 1):
            grown.narrow(axis, step, n - step).logical_or_(line.narrow(axis, 0, n - step))
            grown.narrow(axis, 0, n - step).logical_or_(line.narrow(axis, step, n - step))
    return grown


def _field(phantom: Phantom, box: Box, padding: float) -> Tensor:
    """Field in ppm of the brain's susceptibility, in its box: neither sources nor signal lie outside, so the padding may start there."""
    return split_dipole_field(phantom.chi_ppm[box], phantom.geometry.voxel_size_mm, phantom.geometry.b0_direction, padding=padding)


def _brightness(phantom: Phantom, acquisition: Acquisition, box: Box) -> tuple[Tensor, float]:
    """Magnitude [box] of the brain at echo time 0, and the largest magnitude of the first echo in the whole head, seen or not (`Phantom.brightest`).

    Scalp fat outshines the brain: measured against the brain alone, a peak SNR of 100 would be twice that of the challenge's data (SNR 42 in white
    matter).
    """
    first_s, protocol = acquisition.echo_times_s[0], (acquisition.repetition_time_s, acquisition.flip_angle_deg)
    whole = slice(None), slice(None), slice(None)
    # Where the surroundings are not rendered their brightness is known, and the rest of the grid is dark.
    seen = whole if phantom.brightest is None else box
    parts = (phantom.m0[seen], phantom.r1_per_s[seen], phantom.r2star_per_s[seen])
    at_time_zero, peaks = torch.empty_like(parts[0], memory_format=torch.contiguous_format), []
    for slab in slabs(at_time_zero.shape, at_time_zero.device):
        m0, r1, r2star = (part[slab] for part in parts)
        at_time_zero[slab] = steady_state(m0, r1, repetition_time_s=protocol[0], flip_angle_deg=protocol[1])
        peaks.append(torch.mul(r2star, -first_s).exp_().mul_(at_time_zero[slab]).max())
    peak = float(torch.stack(peaks).max())
    if phantom.brightest is not None:
        m0, r1, r2star = (torch.tensor(value) for value in phantom.brightest)
        unseen = steady_state(m0, r1, repetition_time_s=protocol[0], flip_angle_deg=protocol[1])
        return at_time_zero.mul_(phantom.mask[box]), max(peak, float(unseen * torch.exp(-first_s * r2star)))
    return at_time_zero[box] * phantom.mask[box], peak


def _echoes(phantom: Phantom, acquisition: Acquisition, shape: tuple[int, int, int], effects: Effects) -> tuple[Tensor, float]:
    """Noiseless complex echoes [echo, *shape] of the brain, and the peak that noise is measured by. One echo at a time is held on the fine grid, and
    only in the brain's box.
    """
    geometry, box = phantom.geometry, mask_box(phantom.mask)
    field = _field(phantom, box, acquisition.field_padding)
    magnitude, peak = _brightness(phantom, acquisition, box)
    background = None if effects.background is None else render_background(effects.background, phantom)
    if background is not None:
        field += background.total(geometry, box)
    if effects.flow is not None:
        add_flow(field, effects.flow, phantom, box)
    if effects.dropouts is not None:
        drop_signal(magnitude, effects.dropouts, phantom, box)
    offset: float | Tensor = acquisition.phase_offset_rad
    if effects.offset is not None:
        offset = render_offset(effects.offset, geometry, box, field.device) + offset
    signal = torch.empty((len(acquisition.echo_times_s), *shape), dtype=torch.complex64, device=field.device)
    echoes = waves(field, magnitude, phantom.r2star_per_s[box], offset, acquisition.echo_times_s, geometry.b0_tesla)
    for echo, wave in zip(signal, echoes, strict=True):
        echo.copy_(crop_kspace_of_box(wave, box, geometry.shape, shape))
    if background is not None:
        _remove_background(signal, background, coarse_geometry(geometry, shape), acquisition)
    return signal, peak


def _remove_background(signal: Tensor, background: Background, geometry: Geometry, acquisition: Acquisition) -> None:
    """Turn the phase of echoes [echo, x, y, z] back by what the removal subtracts from the field, in place; the dephasing stays."""
    removed = background.removed(geometry)
    for echo, echo_time_s in zip(signal, acquisition.echo_times_s, strict=True):
        turn = removed * -rad_per_ppm(geometry.b0_tesla, echo_time_s)
        echo.mul_(torch.polar(torch.ones_like(turn), turn))


def _cropped_chi(chi_ppm: Tensor, shape: Sequence[int]) -> Tensor:
    sources = chi_ppm != 0
    if not bool(sources.any()):
        return torch.zeros(tuple(shape), device=chi_ppm.device)
    box = mask_box(sources)
    return crop_kspace_of_box(chi_ppm[box], box, chi_ppm.shape, shape).real.contiguous()


def check_truth(kind: str) -> None:
    """Raises InputError for an unknown convention of the truth."""
    if kind not in get_args(TruthKind):
        raise InputError(f"truth is {kind!r}; it must be 'unrung' (as in the challenge), 'crop' (faster, rings) or 'cell' (mean over the voxel).")


def make_truth(phantom: Phantom, geometry: Geometry, mask: Tensor, kind: TruthKind = "unrung") -> Truth:
    """The truth of a scan: k-space crop of chi, for "unrung" without its Gibbs ringing (Kellner et al. 2016), or for "cell" the mean of chi over each
    voxel's cell; 0 outside the mask; labels by majority.

    The crop alone keeps the dipole relation to the scan's field; the unrung truth is what the challenge compares with; the cell's mean neither rings
    nor keeps the relation. geometry and mask: of the scan.
    """
    return make_truths(phantom, geometry, mask, (kind,))[kind]


def make_truths(
    phantom: Phantom, geometry: Geometry, mask: Tensor, kinds: Sequence[TruthKind], labels: Tensor | None = None
) -> dict[TruthKind, Truth]:
    """`make_truth` of several kinds, which share labels and crop. labels: on the scan's grid, None for those by majority."""
    for kind in kinds:
        check_truth(kind)
    if labels is None:
        labels = coarse_labels(phantom.labels, geometry.shape)
    crop = _cropped_chi(phantom.chi_ppm, geometry.shape) if set(kinds) - {"cell"} else torch.empty(0)
    truths: dict[TruthKind, Truth] = {}
    for kind in kinds:
        chi = cell_average(phantom.chi_ppm, geometry.shape) if kind == "cell" else crop
        if kind == "unrung":
            chi = unring(crop, box=mask_box(mask))
        truths[kind] = Truth(geometry=geometry, chi_ppm=torch.where(mask, chi, 0.0), labels=labels, mask=mask)
    return truths


def scan_grid(phantom: Phantom, acquisition: Acquisition) -> tuple[Geometry, Tensor]:
    """The geometry and the brain mask [x, y, z] of a phantom's scan; the mask holds the voxels at least half filled by the brain."""
    geometry = coarse_geometry(phantom.geometry, acquisition.scan_shape(phantom.geometry))
    return geometry, coarse_mask(phantom.mask, geometry.shape)


def _scan_mask(mask: Tensor, geometry: Geometry, signal: Tensor, effects: Effects) -> Tensor:
    """The mask handed out: the brain's, less what the effects cut away."""
    if effects.erosion is not None:
        mask = erode(mask, geometry, effects.erosion)
    if effects.holes is not None:
        mask = punch(mask, geometry, effects.holes)
    if effects.low_signal is not None:
        mask = drop_low_signal(mask, signal[-1].abs(), effects.low_signal)
    return mask


def _noisy(signal: Tensor, sigma: float, generator: torch.Generator, brain: Tensor, geometry: Geometry, effects: Effects) -> Tensor:
    if not sigma > 0:
        return signal
    signal = add_noise(signal, sigma, generator)
    return signal if effects.slab is None else add_slab_noise(signal, sigma, effects.slab, brain, geometry)


@torch.no_grad()
def acquire(
    phantom: Phantom,
    acquisition: Acquisition,
    generator: torch.Generator,
    *,
    truth: TruthKind = "unrung",
    name: str = "phantom",
    effects: Effects = NO_EFFECTS,
    complete: bool = True,
) -> tuple[Scan, Truth]:
    """Scan a phantom.

    The field of the (brain-only) chi and the signal are made on the phantom's grid and the complex signal is cropped in k-space, so dephasing
    within a voxel comes from the crop alone. Noise: complex Gaussian, one standard deviation for all echoes. Voxel 0 of scan and phantom lie at the
    same place; the scan's mask holds the voxels at least half filled by the brain. Scan.frequency_ppm is the weighted mean of phase differences
    (`phase_difference_field`), None for a single echo. complete: False leaves out what training does not look at, the frequency map (a fit unwraps
    again) and labels by majority (those of the nearest voxel of the phantom instead).

    Magnitude and phase are exactly 0 more than two voxels outside the brain: the challenge's releases hold noise in a thin rim only and zeros
    beyond, and methods that look at the whole volume should meet the same here.

    effects: what else happens to field, signal, noise and mask (`draw_effects`). Leftover wraps show in frequency_ppm and in fields passed through
    `phase_errors.leave_wraps`, since phases are wrapped anyway. truth: "unrung" (default), "crop" or "cell", see `make_truth`; it ends at the scan's
    mask. Same phantom, acquisition, effects, generator state and number of threads: same bits. Raises InputError for a scan shape finer than the
    phantom and for an unknown truth.
    """
    check_truth(truth)
    if acquisition.relaxation_follows_field:
        # Without its surroundings a phantom shines in the brain's box alone.
        phantom = at_field_strength(phantom, None if phantom.brightest is None else mask_box(phantom.mask))
    geometry, brain = scan_grid(phantom, acquisition)
    signal, peak = _echoes(phantom, acquisition, geometry.shape, effects)
    sigma = peak / acquisition.peak_snr
    signal = _noisy(signal, sigma, generator, brain, geometry, effects)
    mask = _scan_mask(brain, geometry, signal, effects)
    labels = None if complete else nearest_labels(phantom.labels, geometry.shape)
    target = make_truths(phantom, geometry, mask, (truth,), labels)[truth]
    # Not a product with the support: that would leave negative zeros, whose phase is pi.
    support = _support(brain)
    signal = signal.masked_fill_(support.logical_not(), 0)
    magnitude, phase = polar_parts(signal, mask_box(support))
    scan = Scan(geometry=geometry, echo_times_s=acquisition.echo_times_s, magnitude=magnitude, phase_rad=phase, mask=mask, name=name)
    if complete and len(acquisition.echo_times_s) > 1:
        # The noise is known here, so it need not be estimated from the scan; a noiseless scan gets a token value.
        frequency = phase_difference_field(scan, sigma=max(sigma, 1e-6 * peak)).field_ppm
        if effects.wraps is not None:
            turns = leftover_turns(effects.wraps, mask, geometry, len(acquisition.echo_times_s))
            frequency = frequency + difference_wrap_error_ppm(scan, turns)
        scan = replace(scan, frequency_ppm=frequency)
    return scan, target
