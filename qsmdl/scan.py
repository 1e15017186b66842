"""The nouns of the package: frozen, validated on entry, without algorithms.

One type for each station on the way from a phantom to a scored map. Arrays are torch tensors with axes x, y, z (echoes lead); vectors are (x, y, z).
"""

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.outcome import Choice as Choice
from qsmdl.outcome import Outcome as Outcome

LABELS = {
    "caudate": 1,
    "globus_pallidus": 2,
    "putamen": 3,
    "red_nucleus": 4,
    "dentate_nucleus": 5,
    "substantia_nigra": 6,
    "thalamus": 7,
    "white_matter": 8,
    "grey_matter": 9,
    "csf": 10,
    "blood": 11,
    "fat": 12,
    "bone": 13,
    "air": 14,
    "muscle": 15,
    "calcification": 16,
}
"""Segmentation labels of the RC2 release (QSM Challenge 2.0 Organization Committee, Magn Reson Med 2021)."""
DEEP_GREY_MATTER = tuple(LABELS[name] for name in ("caudate", "globus_pallidus", "putamen", "red_nucleus", "dentate_nucleus", "substantia_nigra"))
"""The regions that the challenge counts as deep grey matter."""

FieldKind = Literal["local", "total"]


@dataclass(frozen=True, eq=False, slots=True)
class Geometry:
    """Where the voxels are: grid, voxel size, B0 in voxel axes, and the affine of the file they came from.

    shape: (x, y, z); voxel_size_mm: (x, y, z); b0_direction: unit vector in voxel axes; affine: 4 x 4 or None.
    """

    shape: tuple[int, int, int]
    voxel_size_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    b0_direction: tuple[float, float, float] = (0.0, 0.0, 1.0)
    b0_tesla: float = 7.0
    affine: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, kind in (("shape", int), ("voxel_size_mm", float), ("b0_direction", float)):
            values = tuple(kind(v) for v in getattr(self, name))
            if len(values) != 3:
                raise InputError(f"{name} has {len(values)} entries {values}, but needs three, in the order x, y, z.")
            object.__setattr__(self, name, values)
        if min(self.shape) < 1:
            raise InputError(f"shape {self.shape} has an axis without voxels; every axis needs at least one.")
        if not all(math.isfinite(v) and v > 0 for v in self.voxel_size_mm):
            raise InputError(f"voxel_size_mm is {self.voxel_size_mm}; every entry must be positive and finite. Check the header or params.json.")
        norm = math.sqrt(sum(v * v for v in self.b0_direction))
        if not abs(norm - 1) < 1e-3:
            raise InputError(
                f"b0_direction is {self.b0_direction} with length {norm:.4g}, but must be a unit vector in voxel axes. Divide it by its length."
            )
        if not (math.isfinite(self.b0_tesla) and self.b0_tesla > 0):
            raise InputError(f"b0_tesla is {self.b0_tesla}; the field strength must be positive, in tesla.")

    def __repr__(self) -> str:
        size = " x ".join(str(n) for n in self.shape)
        voxel = " x ".join(f"{v:g}" for v in self.voxel_size_mm)
        return f"Geometry({size} voxels of {voxel} mm, B0 {self.b0_tesla:g} T along {self.b0_direction})"

    @property
    def field_of_view_mm(self) -> tuple[float, float, float]:
        """Edge lengths of the grid in mm."""
        x, y, z = (n * v for n, v in zip(self.shape, self.voxel_size_mm, strict=True))
        return x, y, z

    def cropped(self, box: tuple[slice, slice, slice]) -> "Geometry":
        """The geometry of a box of voxels, with the affine's origin moved along."""
        affine = self.affine
        if affine is not None:
            affine = affine.copy()
            affine[:3, 3] += affine[:3, :3] @ np.array([s.start for s in box], dtype=float)
        shape = tuple(s.stop - s.start for s in box)
        return replace(self, shape=shape, affine=affine)


def _check_shape(name: str, array: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(array.shape) != expected:
        raise InputError(f"{name} has the shape {tuple(array.shape)}, but {expected} was expected. All volumes of one scan must lie on one grid.")


def _check_finite(name: str, array: Tensor, mask: Tensor) -> None:
    """Only voxels inside the mask count: releases may hold anything outside the brain."""
    bad = ~torch.isfinite(array) & mask
    if bool(bad.any()):
        where = tuple(int(i) for i in bad.nonzero()[0])
        raise InputError(
            f"{name} holds {int(bad.sum())} NaN or infinite values inside the mask, the first at index {where}. "
            "Every voxel of the mask needs a finite value: shrink the mask or repair the data."
        )


def _check_mask(mask: Tensor, shape: tuple[int, int, int]) -> None:
    _check_shape("mask", mask, shape)
    if mask.dtype != torch.bool:
        raise InputError(f"mask has the dtype {mask.dtype}, but must be boolean. Use mask > 0.")
    if not bool(mask.any()):
        raise InputError("mask is empty: 0 voxels are inside, at least one is needed. Check that the mask file belongs to this scan.")


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Scan:
    """A multi-echo gradient-echo acquisition.

    echo_times_s: ascending; magnitude [echo, x, y, z] in arbitrary units; phase_rad [echo, x, y, z], wrapped, with phase = +2 pi gamma B0 TE field;
    mask [x, y, z] bool; frequency_ppm [x, y, z], the field map handed out with the scan, or None; name: how tables call it.
    """

    geometry: Geometry
    echo_times_s: tuple[float, ...]
    magnitude: Tensor
    phase_rad: Tensor
    mask: Tensor
    frequency_ppm: Tensor | None = None
    name: str = "scan"

    def __post_init__(self) -> None:
        times = tuple(float(t) for t in self.echo_times_s)
        object.__setattr__(self, "echo_times_s", times)
        if not times or any(not 0 < t < 1 for t in times) or any(b <= a for a, b in itertools.pairwise(times)):
            raise InputError(f"echo_times_s is {times}; echo times must ascend and lie between 0 and 1 s. Were they given in ms?")
        expected = (len(times), *self.geometry.shape)
        _check_mask(self.mask, self.geometry.shape)
        _check_shape("magnitude", self.magnitude, expected)
        _check_shape("phase_rad", self.phase_rad, expected)
        _check_finite("magnitude", self.magnitude, self.mask)
        _check_finite("phase_rad", self.phase_rad, self.mask)
        if self.frequency_ppm is not None:
            _check_shape("frequency_ppm", self.frequency_ppm, self.geometry.shape)
            _check_finite("frequency_ppm", self.frequency_ppm, self.mask)

    def to(self, device: torch.device | str) -> "Scan":
        """The same scan with its tensors on a device."""
        moved = None if self.frequency_ppm is None else self.frequency_ppm.to(device)
        return replace(self, magnitude=self.magnitude.to(device), phase_rad=self.phase_rad.to(device), mask=self.mask.to(device), frequency_ppm=moved)


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class FieldMap:
    """A map of the relative field shift.

    field_ppm [x, y, z], 0 outside the mask; mask [x, y, z] bool; weight [x, y, z], 0 outside the mask and mean 1 inside: the relative confidence
    1/sigma; noise_ppm [x, y, z]: the noise standard deviation sigma of each voxel (positive inside the mask), or None where nobody knows it;
    kind: "local" (sources inside the mask only) or "total".
    """

    geometry: Geometry
    field_ppm: Tensor
    mask: Tensor
    weight: Tensor
    noise_ppm: Tensor | None = None
    kind: FieldKind = "local"
    name: str = "scan"

    def __post_init__(self) -> None:
        shape = self.geometry.shape
        _check_mask(self.mask, shape)
        for name in ("field_ppm", "weight"):
            _check_shape(name, getattr(self, name), shape)
            _check_finite(name, getattr(self, name), self.mask)
        if bool((self.weight < 0).any()) or not bool((self.weight[self.mask] > 0).any()):
            raise InputError("weight must be at least 0 everywhere and positive somewhere inside the mask; pass mask.float() for equal weights.")
        if self.noise_ppm is not None:
            _check_shape("noise_ppm", self.noise_ppm, shape)
            if bool((self.noise_ppm[self.mask] <= 0).any()):
                raise InputError("noise_ppm must be positive inside the mask: a standard deviation of 0 would trust a voxel without limit.")
        if self.kind not in ("local", "total"):
            raise InputError(f"kind is {self.kind!r}; it must be 'local' or 'total'.")

    def to(self, device: torch.device | str) -> "FieldMap":
        """The same field map with its tensors on a device."""
        noise = None if self.noise_ppm is None else self.noise_ppm.to(device)
        return replace(self, field_ppm=self.field_ppm.to(device), mask=self.mask.to(device), weight=self.weight.to(device), noise_ppm=noise)


@dataclass(frozen=True, eq=False, slots=True)
class ChiMap:
    """A susceptibility map. chi_ppm [x, y, z], 0 outside the mask; mask [x, y, z] bool; outcome: how the method ended; uncertainty_ppm [x, y, z]: a
    standard deviation of each voxel, 0 outside the mask, where the method gives one.
    """

    geometry: Geometry
    chi_ppm: Tensor
    mask: Tensor
    outcome: Outcome
    uncertainty_ppm: Tensor | None = None

    def __post_init__(self) -> None:
        _check_mask(self.mask, self.geometry.shape)
        _check_shape("chi_ppm", self.chi_ppm, self.geometry.shape)
        _check_finite("chi_ppm", self.chi_ppm, self.mask)
        if self.uncertainty_ppm is not None:
            _check_shape("uncertainty_ppm", self.uncertainty_ppm, self.geometry.shape)
            _check_finite("uncertainty_ppm", self.uncertainty_ppm, self.mask)
            if bool((self.uncertainty_ppm[self.mask] < 0).any()):
                raise InputError("uncertainty_ppm is negative somewhere inside the mask; a standard deviation must be at least 0.")


@dataclass(frozen=True, eq=False, slots=True)
class Phantom:
    """A rendered head on its (fine) grid.

    chi_ppm, m0 (arbitrary units), r1_per_s, r2star_per_s: [x, y, z] float; labels [x, y, z] uint8 (`LABELS`, 0 nowhere);
    mask [x, y, z] bool: the brain; params: plain numbers that drew it, enough to render it again; brightest: M0, R1 and R2* of a tissue that is
    imaged but not rendered and may outshine all others (the scalp's fat), None where there is none.
    """

    geometry: Geometry
    chi_ppm: Tensor
    m0: Tensor
    r1_per_s: Tensor
    r2star_per_s: Tensor
    labels: Tensor
    mask: Tensor
    params: dict[str, Any] = field(default_factory=dict)
    brightest: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        _check_mask(self.mask, self.geometry.shape)
        for name in ("chi_ppm", "m0", "r1_per_s", "r2star_per_s", "labels"):
            _check_shape(name, getattr(self, name), self.geometry.shape)


@dataclass(frozen=True, eq=False, slots=True)
class Truth:
    """What scoring compares with: chi_ppm [x, y, z], labels [x, y, z] uint8 and the mask, on the scan's grid; mask_source: which mask that is;
    brain_mask: the scan's own, where another is scored in (None: the same).
    """

    geometry: Geometry
    chi_ppm: Tensor
    labels: Tensor
    mask: Tensor
    mask_source: str = "MaskBrainExtracted"
    brain_mask: Tensor | None = None

    def __post_init__(self) -> None:
        _check_mask(self.mask, self.geometry.shape)
        _check_shape("chi_ppm", self.chi_ppm, self.geometry.shape)
        _check_shape("labels", self.labels, self.geometry.shape)
        _check_finite("chi_ppm", self.chi_ppm, self.mask)


class Batch(TypedDict):
    """Training patches. Volumes are [batch, 1, x, y, z]; field and chi in ppm, mask bool, weight relative (mean 1 in the mask of the whole volume).
    deep_grey: bool, which voxels of the mask are deep grey matter; prior_ppm: [batch, n, x, y, z]; magnitude: [batch, 3, x, y, z] (`data.inputs`),
    where it is fed; voxel_size_mm, b0_direction: [batch, 3]; the echoes (`networks.data_term.Physics`), where they are: echo_share, echo_phase_rad
    [batch, echo, x, y, z], rad_per_ppm [batch, echo].
    """

    field_ppm: Tensor
    prior_ppm: Tensor
    chi_ppm: Tensor
    mask: Tensor
    deep_grey: NotRequired[Tensor]
    weight: Tensor
    voxel_size_mm: Tensor
    b0_direction: Tensor
    magnitude: NotRequired[Tensor]
    rad_per_ppm: NotRequired[Tensor]
    echo_share: NotRequired[Tensor]
    echo_phase_rad: NotRequired[Tensor]
