"""Scan a phantom as the QSM challenge 2.0 did: dipole field, complex multi-echo signal, k-space crop, noise (Marques et al., MRM 2021;86:526-542)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.phantom.downsample import Box, cell_average, coarse_geometry, coarse_labels, coarse_mask, mask_box
from qsmdl.physics.dipole import Dipole
from qsmdl.physics.fieldmap import phase_difference_field
from qsmdl.physics.fourier import crop_kspace
from qsmdl.physics.signal import add_noise, echo_signal, steady_state
from qsmdl.physics.unring import unring
from qsmdl.scan import Geometry, Phantom, Scan, Truth

TruthKind = Literal["unrung", "crop", "cell"]
SUPPORT_VOXELS = 2
"""How far signal and noise reach beyond the brain mask."""


@dataclass(frozen=True, slots=True)
class Acquisition:
    """A gradient-echo protocol; the defaults are those of the QSM challenge 2.0.

    shape: of the scan, over the phantom's field of view; None: the phantom's shape divided by factor (320/205 turns 0.64 mm into 1 mm); peak_snr:
    largest magnitude of the first echo in the whole head / noise standard deviation per channel, math.inf for no noise; phase_offset_rad: phase at
    TE = 0; field_padding: zero-padding of the dipole convolution.
    """

    echo_times_s: tuple[float, ...] = (0.004, 0.012, 0.020, 0.028)
    repetition_time_s: float = 0.05
    flip_angle_deg: float = 15.0
    peak_snr: float = 100.0
    shape: tuple[int, int, int] | None = None
    factor: float = 320 / 205
    phase_offset_rad: float = 0.0
    field_padding: float = 2.0

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
    size = 2 * SUPPORT_VOXELS + 1
    grown = torch.nn.functional.max_pool3d(mask[None, None].float(), size, stride=1, padding=SUPPORT_VOXELS)
    return grown[0, 0] > 0


def _field(phantom: Phantom, box: Box, padding: float) -> Tensor:
    """Field in ppm of the brain's susceptibility, in its box: neither sources nor signal lie outside, so the padding may start there."""
    operator = Dipole.of(phantom.geometry.cropped(box), padding).to(phantom.chi_ppm.device)
    field: Tensor = operator(phantom.chi_ppm[box])
    return field


def _peak(phantom: Phantom, acquisition: Acquisition) -> float:
    """Largest magnitude of the first echo in the whole head.

    Scalp fat outshines the brain: measured against the brain alone, a peak SNR of 100 would be twice that of the challenge's data (SNR 42 in white
    matter).
    """
    return float((_at_time_zero(phantom, acquisition) * torch.exp(-acquisition.echo_times_s[0] * phantom.r2star_per_s)).max())


def _at_time_zero(phantom: Phantom, acquisition: Acquisition) -> Tensor:
    return steady_state(phantom.m0, phantom.r1_per_s, repetition_time_s=acquisition.repetition_time_s, flip_angle_deg=acquisition.flip_angle_deg)


def _echoes(phantom: Phantom, acquisition: Acquisition, shape: tuple[int, int, int]) -> Tensor:
    """Noiseless complex echoes [echo, *shape] of the brain; one echo at a time is held on the fine grid."""
    geometry, box = phantom.geometry, mask_box(phantom.mask)
    field = _field(phantom, box, acquisition.field_padding)
    magnitude, decay = (_at_time_zero(phantom, acquisition) * phantom.mask)[box], phantom.r2star_per_s[box]
    whole = torch.zeros(geometry.shape, dtype=torch.complex64, device=field.device)
    echoes = []
    for echo_time_s in acquisition.echo_times_s:
        whole[box] = echo_signal(
            field, magnitude, decay, echo_time_s=echo_time_s, b0_tesla=geometry.b0_tesla, phase_offset_rad=acquisition.phase_offset_rad
        )
        echoes.append(crop_kspace(whole, shape))
    return torch.stack(echoes)


def make_truth(phantom: Phantom, geometry: Geometry, mask: Tensor, kind: TruthKind = "unrung") -> Truth:
    """The truth of a scan: k-space crop of chi, for "unrung" without its Gibbs ringing (Kellner et al. 2016), or for "cell" the mean of chi over each
    voxel's cell; 0 outside the mask; labels by majority.

    The crop alone keeps the dipole relation to the scan's field; the unrung truth is what the challenge compares with; the cell's mean neither rings
    nor keeps the relation. geometry and mask: of the scan.
    """
    return make_truths(phantom, geometry, mask, (kind,))[kind]


def make_truths(phantom: Phantom, geometry: Geometry, mask: Tensor, kinds: Sequence[TruthKind]) -> dict[TruthKind, Truth]:
    """`make_truth` of several kinds, which share labels and crop."""
    for kind in kinds:
        if kind not in get_args(TruthKind):
            raise InputError(f"truth is {kind!r}; it must be 'unrung' (as in the challenge), 'crop' (faster, rings) or 'cell' (mean over the voxel).")
    labels = coarse_labels(phantom.labels, geometry.shape)
    crop = crop_kspace(phantom.chi_ppm, geometry.shape).real.contiguous() if set(kinds) - {"cell"} else torch.empty(0)
    truths: dict[TruthKind, Truth] = {}
    for kind in kinds:
        chi = cell_average(phantom.chi_ppm, geometry.shape) if kind == "cell" else crop
        if kind == "unrung":
            chi = unring(crop)
        truths[kind] = Truth(geometry=geometry, chi_ppm=chi * mask, labels=labels, mask=mask)
    return truths


def scan_grid(phantom: Phantom, acquisition: Acquisition) -> tuple[Geometry, Tensor]:
    """The geometry and the brain mask [x, y, z] of a phantom's scan; the mask holds the voxels at least half filled by the brain."""
    geometry = coarse_geometry(phantom.geometry, acquisition.scan_shape(phantom.geometry))
    return geometry, coarse_mask(phantom.mask, geometry.shape)


@torch.no_grad()
def acquire(
    phantom: Phantom, acquisition: Acquisition, generator: torch.Generator, *, truth: TruthKind = "unrung", name: str = "phantom"
) -> tuple[Scan, Truth]:
    """Scan a phantom.

    The field of the (brain-only) chi and the signal are made on the phantom's grid and the complex signal is cropped in k-space, so dephasing
    within a voxel comes from the crop alone. Noise: complex Gaussian, one standard deviation for all echoes. Voxel 0 of scan and phantom lie at the
    same place; the scan's mask holds the voxels at least half filled by the brain. Scan.frequency_ppm is the weighted mean of phase differences
    (`phase_difference_field`).

    Magnitude and phase are exactly 0 more than two voxels outside the mask: the challenge's releases hold noise in a thin rim only and zeros
    beyond, and methods that look at the whole volume should meet the same here.

    truth: "unrung" (default), "crop" or "cell", see `make_truth`. Same phantom, acquisition, generator state and number of threads: same bits.
    Raises InputError for a scan shape finer than the phantom and for an unknown truth.
    """
    geometry, mask = scan_grid(phantom, acquisition)
    target = make_truth(phantom, geometry, mask, truth)
    signal, peak = _echoes(phantom, acquisition, geometry.shape), _peak(phantom, acquisition)
    sigma = peak / acquisition.peak_snr
    if sigma > 0:
        signal = add_noise(signal, sigma, generator)
    # Not a product with the support: that would leave negative zeros, whose phase is pi.
    signal = torch.where(_support(mask), signal, torch.zeros((), dtype=signal.dtype, device=signal.device))
    scan = Scan(
        geometry=geometry,
        echo_times_s=acquisition.echo_times_s,
        magnitude=signal.abs(),
        phase_rad=signal.angle(),
        mask=mask,
        name=name,
    )
    if len(acquisition.echo_times_s) > 1:
        # The noise is known here, so it need not be estimated from the scan; a noiseless scan gets a token value.
        scan = replace(scan, frequency_ppm=phase_difference_field(scan, sigma=max(sigma, 1e-6 * peak)).field_ppm)
    return scan, target
