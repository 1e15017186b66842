"""What a network is fed: the field and a closed-form inversion of it, cut to the mask's bounding box."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.networks.data_term import Physics
from qsmdl.phantom.drawing.ranges import as_range
from qsmdl.physics.dipole import Dipole
from qsmdl.physics.relaxation import fit_r2star
from qsmdl.physics.unring import unring
from qsmdl.scan import FieldMap, Geometry, Scan
from qsmdl.solvers.crop_phase import Uncropped, find_crop_phase, without_crop_phase
from qsmdl.solvers.direct import l2
from qsmdl.solvers.fine_scales import WORTH_IT, fine_correction, fine_damping
from qsmdl.solvers.large_scales import explain_large_scales
from qsmdl.solvers.tv import nltv, noise_scaled_regularisation
from qsmdl.units import rad_per_ppm

_PADDING = 2.0
"""Of the field of a start."""
_VERSION = 1
"""Of the maps that `Prior` computes: to be raised where they change, so that kept ones are computed anew."""
_LARGE_SCALES_VERSION = 2
"""The same, of those with `large_scales`."""
_FINE_SCALES_VERSION = 1
"""The same, of those with `fine_scales`."""
_CROP_PHASE_VERSION = 1
"""The same, of the phase of `crop_phase`."""

Keep = Callable[[str, Callable[[], Tensor]], Tensor]
"""Called with a name and what computes something of a volume; returns what it computed, now or before (`io.fixed_set.kept_maps`)."""
Start = Literal["l2", "tv", "noise"]
_R2STAR_SCALE_PER_S = 50.0
N_ECHOES = 8
_LONE_ECHO_S = 0.004
_LEAST_AGREEMENT = 0.5


@dataclass(frozen=True)
class Prior:
    """What a network is fed beside field, mask and weight; the first map is what it corrects.

    start: "l2", closed-form inversions of the field (`solvers.direct.l2`), one for each regularisation. Weakly and strongly regularised maps differ
    where the dipole kernel is small; together they tell the network what is signal, noise and streak. "tv", the map of the nonlinear total variation
    (`solvers.tv.nltv`, its defaults) without its ringing (`physics.unring`), the ringing that was removed, the field that the map leaves unexplained,
    and the closed-form inversions of that rest: a network that adds nothing is then as good as the classical method. "noise": no inversion but a
    noisy susceptibility and its noise level, from which denoisers learn (`noisy_maps`); the field is not looked at. regularisations: of the closed
    forms, per voxel, without a unit: the weight of the squared differences between neighbours. In mm^2 they are this times the squared voxel size, so
    that they suppress the same part of k-space, in cycles per voxel, at every resolution; a network knows voxels, not millimetres. noise_scaled,
    large_scales, fine_scales: of "tv", its regularisation grows with the field's noise (`solvers.tv.noise_scaled_regularisation`), its large scales
    explain the field (`solvers.large_scales`), and its fine ones do (`solvers.fine_scales`, where noise does not hide what is missing; with
    large_scales). crop_phase: everything is of the field and the echoes without the phase of the crop (`solvers.crop_phase`; `corrected`). noise_ppm:
    of "noise", the range of levels, drawn evenly on a logarithmic scale. magnitude: feed `magnitude_maps`, too. echoes: hand all echoes to the data
    steps inside a network (`echo_maps`).
    """

    regularisations: tuple[float, ...] = (0.012, 0.003, 0.05)
    start: Start = "l2"
    magnitude: bool = False
    echoes: bool = False
    noise_ppm: tuple[float, float] = (0.002, 0.05)
    noise_scaled: bool = False
    large_scales: bool = False
    fine_scales: bool = False
    crop_phase: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "regularisations", tuple(self.regularisations))
        if not self.regularisations or not all(0 < float(r) < math.inf for r in self.regularisations):
            raise InputError(f"The prior's regularisations are {self.regularisations}; at least one is needed, and all must be positive.")
        if self.start not in get_args(Start):
            raise InputError(f"The prior's start is {self.start!r}; it must be one of {', '.join(get_args(Start))}.")
        if self.start != "tv" and (self.noise_scaled or self.large_scales or self.fine_scales):
            raise InputError(f"The prior's start is {self.start!r}; noise_scaled, large_scales and fine_scales are of the start 'tv'. Turn them off.")
        if self.fine_scales and not self.large_scales:
            raise InputError("The prior's fine_scales is true, but its large_scales, which come first, are false. Set both to true.")
        if self.start == "noise" and self.crop_phase:
            raise InputError("The prior's start is 'noise', for which no field is looked at. Set crop_phase to false.")
        object.__setattr__(self, "noise_ppm", as_range("noise_ppm", self.noise_ppm, low=1e-6, high=1.0))

    @property
    def digest(self) -> str:
        """A hash of what decides on the maps of a call."""
        settings: dict[str, Any] = {"start": self.start, "regularisations": self.regularisations, "version": _VERSION}
        settings |= {"noise_scaled": True} if self.noise_scaled else {}
        settings |= {"large_scales": _LARGE_SCALES_VERSION} if self.large_scales else {}
        settings |= {"fine_scales": _FINE_SCALES_VERSION} if self.fine_scales else {}
        settings |= {"crop_phase": _CROP_PHASE_VERSION} if self.crop_phase else {}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def is_slow(self) -> bool:
        """Whether its maps are worth being kept beside the volumes of a fixed set."""
        return self.start == "tv" or self.crop_phase

    def corrected(self, field: FieldMap, scan: Scan | None) -> Uncropped:
        """Field and scan as a call and the network want them: as they are, or with `crop_phase` corrected (or a doubt why not)."""
        return without_crop_phase(field, scan) if self.crop_phase else Uncropped(field, scan)

    @property
    def n_maps(self) -> int:
        """Number of maps that a call returns, or `noisy_maps`."""
        if self.start == "noise":
            return 2
        return len(self.regularisations) + (3 if self.start == "tv" else 0)

    def __call__(self, field: FieldMap) -> Tensor:
        """Susceptibility (of the third map of "tv": field) in ppm [prior, x, y, z], 0 outside the mask."""
        if self.start == "noise":
            raise InputError("A denoiser is fed a noisy susceptibility, not a field: use its weights with method=pnp.")
        if self.start == "l2":
            return torch.stack(self._closed_forms(field))
        raw = nltv(field, regularisation=noise_scaled_regularisation(field)).chi_ppm if self.noise_scaled else nltv(field).chi_ppm
        start = unring(raw) * field.mask
        ringing = raw - start
        if self.large_scales:
            found = explain_large_scales(start, field, ringing_ppm=ringing)
            start = found.chi_ppm
            if self.fine_scales and not found.doubts and fine_damping(field) <= WORTH_IT:
                whole = start + ringing + fine_correction(start + ringing, field)
                start = unring(whole) * field.mask
                ringing = whole - start
        rest = (field.field_ppm - Dipole.of(field.geometry, _PADDING).to(raw.device)(start + ringing)) * field.mask
        return torch.stack([start, ringing, rest, *self._closed_forms(dataclasses.replace(field, field_ppm=rest))])

    def _closed_forms(self, field: FieldMap) -> list[Tensor]:
        size_mm = math.prod(field.geometry.voxel_size_mm) ** (1 / 3)
        return [l2(field, regularisation=r * size_mm**2).chi_ppm for r in self.regularisations]


def noise_level_map(mask: Tensor, level_ppm: float) -> Tensor:
    """What tells a denoiser the standard deviation of the noise: constant in the mask [..., x, y, z], in ppm."""
    return mask.float() * level_ppm


def noisy_maps(chi_ppm: Tensor, mask: Tensor, prior: Prior, seed: int | None = None) -> Tensor:
    """A susceptibility [1, x, y, z] with white noise and the noise's level, [2, x, y, z] and 0 outside the mask.

    seed: of level and noise; None: a level in the middle of the range, and noise of a fixed seed, for validation.
    """
    low, high = (math.log(level) for level in prior.noise_ppm)
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    share = 0.5 if seed is None else float(torch.rand((), generator=generator))
    level = math.exp(low + share * (high - low))
    noise = torch.randn(chi_ppm.shape, generator=generator).to(chi_ppm)
    return torch.cat([(chi_ppm + level * noise) * mask, noise_level_map(mask, level)])


def magnitude_maps(scan: Scan) -> Tensor:
    """First and last echo's magnitude over the first's 90th percentile in the mask, and R2* in units of 50 / s, [3, x, y, z] and 0 outside the mask.

    With one echo R2* is 0.
    """
    inside = scan.magnitude[0][scan.mask]
    # At most about two million voxels: torch refuses quantiles of more than 16 million.
    reference = torch.quantile(inside[:: max(1, len(inside) // 10**6)], 0.9).clamp(min=torch.finfo(inside.dtype).tiny)
    rate = fit_r2star(scan)[0] if len(scan.echo_times_s) > 1 else torch.zeros_like(scan.magnitude[0])
    return torch.stack([scan.magnitude[0] / reference, scan.magnitude[-1] / reference, rate / _R2STAR_SCALE_PER_S]) * scan.mask


def echo_maps(scan: Scan | None, field: FieldMap, *, with_offset: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """c_j in rad/ppm [echo], the share of each echo in the information and its phase beyond the field map, both [echo, x, y, z] and 0 outside the
    mask (`networks.data_term.Physics`), for `N_ECHOES` echoes, those that are missing with a share of 0; of scans with more, those that tell least
    are left out.

    Without a scan, with a phase at TE = 0 (with_offset), or where the echoes do not follow the field map (mean cosine below 0.5), the map stands for
    one echo at 4 ms.
    """
    geometry = field.geometry
    rates = field.field_ppm.new_full((N_ECHOES,), rad_per_ppm(geometry.b0_tesla, _LONE_ECHO_S))
    shares, phases = field.field_ppm.new_zeros((2, N_ECHOES, *geometry.shape))
    found = None if scan is None or with_offset else _echoes(scan, field)
    if found is None:
        shares[0] = field.mask
    else:
        n = len(found[0])
        rates[:n], shares[:n], phases[:n] = found
    return rates, shares, phases


def _echoes(scan: Scan, field: FieldMap) -> tuple[Tensor, Tensor, Tensor] | None:
    c = field.field_ppm.new_tensor([rad_per_ppm(field.geometry.b0_tesla, te) for te in scan.echo_times_s])
    information = (c[:, None, None, None] * scan.magnitude * scan.mask).square()
    kept = information.sum((1, 2, 3)).argsort(descending=True)[:N_ECHOES].sort().values
    c, information = c[kept], information[kept]
    beyond = torch.remainder(scan.phase_rad[kept] - c[:, None, None, None] * field.field_ppm + math.pi, 2 * math.pi) - math.pi
    beyond *= field.mask
    total = information.sum(0)
    share = information / total.clamp(min=torch.finfo(total.dtype).tiny) * field.mask
    agreement = float((share * beyond.cos()).sum(0)[field.mask].mean())
    return (c, share, beyond) if agreement > _LEAST_AGREEMENT else None


def kept_crop_phase(field: FieldMap, scan: Scan, keep: Keep) -> Tensor:
    """`solvers.crop_phase.find_crop_phase` of a scan, computed or kept from before; 0 where it cannot be told."""

    def compute() -> Tensor:
        found = find_crop_phase(field, scan).phase_rad
        return torch.zeros_like(scan.phase_rad) if found is None else found

    return keep(f"crop_phase_{_CROP_PHASE_VERSION}", compute)


@dataclass(frozen=True, eq=False)
class NetworkInputs:
    """Arguments of `PpmAdapter`, all [1, 1, x, y, z] (prior: [1, n, x, y, z]; magnitude: [1, 3, x, y, z], None where it is not fed or not known;
    physics: how it was measured) on the box `box` of the whole grid, and the geometry of that box.
    """

    field_ppm: Tensor
    prior_ppm: Tensor
    mask: Tensor
    weight: Tensor
    box: tuple[slice, slice, slice]
    geometry: Geometry
    magnitude: Tensor | None = None
    physics: Physics | None = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """In the order of `PpmAdapter.forward`."""
        return self.field_ppm, self.prior_ppm, self.mask, self.weight, self.magnitude, self.physics

    def ringing_ppm(self, prior: Prior) -> Tensor | None:
        """The ringing that was removed from the start, in ppm on the box, [1, 1, x, y, z]; None for a start from which none was."""
        return self.prior_ppm[:, 1:2] if prior.start == "tv" else None


def bounding_box(mask: Tensor, margin: int = 0) -> tuple[slice, slice, slice]:
    """The box around the voxels of a mask [x, y, z], grown by a margin inside the grid."""
    slices = []
    for axis in range(3):
        inside = mask.any(dim=tuple(a for a in range(3) if a != axis)).nonzero().flatten()
        slices.append(slice(max(int(inside[0]) - margin, 0), min(int(inside[-1]) + 1 + margin, mask.shape[axis])))
    return slices[0], slices[1], slices[2]


def prepare_inputs(field: FieldMap, prior: Prior, scan: Scan | None = None, *, margin: int = 4) -> NetworkInputs:
    """Field, prior and weight inside the mask, cut to its bounding box: what lies outside is 0 and would only cost memory. The prior sees the whole
    grid. scan: for a prior with magnitude; without one the network does without.
    """
    if field.kind != "local":
        raise InputError("The networks invert local fields, but this one is 'total': remove the background field first.")
    box = bounding_box(field.mask, margin)
    mask = field.mask[box]
    values, weight = ((v[box] * mask).float()[None, None] for v in (field.field_ppm, field.weight))
    geometry = field.geometry.cropped(box)
    magnitude = magnitude_maps(scan)[:, *box].float()[None] if prior.magnitude and scan is not None else None
    maps = prior(field)[:, *box].float()[None]
    return NetworkInputs(values, maps, mask[None, None], weight, box, geometry, magnitude, _physics(field, scan, prior, box, geometry))


def _physics(field: FieldMap, scan: Scan | None, prior: Prior, box: tuple[slice, slice, slice], geometry: Geometry) -> Physics:
    size, direction = (field.field_ppm.new_tensor(v, dtype=torch.float32)[None] for v in (geometry.voxel_size_mm, geometry.b0_direction))
    if not prior.echoes:
        return Physics(size, direction)
    rates, shares, phases = echo_maps(scan, field)
    return Physics(size, direction, rates.float()[None], shares[:, *box].float()[None], phases[:, *box].float()[None])


def ringing_of(inputs: NetworkInputs, prior: Prior, field: FieldMap) -> Tensor | None:
    """The ringing that was removed from the start, in ppm on the whole grid [x, y, z]; None for a start from which none was."""
    ringing = inputs.ringing_ppm(prior)
    return None if ringing is None else paste(ringing, inputs, field)


def paste(chi_ppm: Tensor, inputs: NetworkInputs, field: FieldMap) -> Tensor:
    """A network's output [1, 1, x, y, z] back on the whole grid [x, y, z], 0 outside the mask."""
    whole = torch.zeros(field.geometry.shape, dtype=chi_ppm.dtype, device=chi_ppm.device)
    whole[inputs.box] = chi_ppm[0, 0]
    return whole * field.mask
