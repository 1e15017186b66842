"""What simulated volumes are drawn from, and how one is drawn."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from qsmdl.errors import InputError
from qsmdl.phantom.acquire import Acquisition, TruthKind, acquire
from qsmdl.phantom.contrast import ContrastName
from qsmdl.phantom.head import draw_head, render_head
from qsmdl.scan import Geometry, Phantom, Scan, Truth

Stream = Literal["train", "validation", "test"]
STREAMS: tuple[Stream, ...] = ("train", "validation", "test")
Range = tuple[float, float]


@dataclass(frozen=True)
class Recipe:
    """Ranges of the simulated volumes; every volume draws one value from each.

    contrast: "sim1", "sim2" or "random" tissue values; voxel_size_mm: range of the (isotropic) voxel size; field_of_view_mm (x, y, z); oversampling:
    fine voxels per voxel along each axis (RC2: 1 / 0.64); peak_snr: range, log-uniform, of the first echo's maximum over the noise; max_tilt_deg:
    largest angle of B0 from the z axis, half of the volumes have none; echo_times_s, repetition_time_s, flip_angle_deg, b0_tesla: the protocol
    (RC2's by default); truth: "unrung" (as the challenge made it), "crop" (with the ringing of the k-space crop) or "cell" (mean over each voxel).
    """

    contrast: ContrastName = "random"
    voxel_size_mm: Range = (1.0, 1.0)
    field_of_view_mm: tuple[float, float, float] = (164.0, 205.0, 205.0)
    oversampling: float = 1.5625
    peak_snr: Range = (30.0, 1500.0)
    max_tilt_deg: float = 0.0
    echo_times_s: tuple[float, ...] = (0.004, 0.012, 0.02, 0.028)
    repetition_time_s: float = 0.05
    flip_angle_deg: float = 15.0
    b0_tesla: float = 7.0
    truth: TruthKind = "unrung"

    def __post_init__(self) -> None:
        for name in ("voxel_size_mm", "field_of_view_mm", "peak_snr", "echo_times_s"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        for name in ("voxel_size_mm", "peak_snr"):
            value = getattr(self, name)
            if len(value) != 2 or not 0 < value[0] <= value[1]:
                raise InputError(f"{name} is {value}; it must be a range [low, high] of positive numbers with low <= high.")
        if not 1 <= self.oversampling <= 4:
            raise InputError(f"oversampling is {self.oversampling}; the fine grid must be 1 to 4 times as fine as the voxels.")
        if not 0 <= self.max_tilt_deg <= 180:
            raise InputError(f"max_tilt_deg is {self.max_tilt_deg}; it must lie between 0 and 180 degrees.")
        if len(self.field_of_view_mm) != 3:
            raise InputError(f"field_of_view_mm is {self.field_of_view_mm}; it needs three entries, in the order x, y, z.")

    @property
    def digest(self) -> str:
        """A hash of all settings: two recipes with the same digest draw the same volumes from the same seeds."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def to_plain(self) -> dict[str, Any]:
        """The settings as plain numbers, for cards."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class VolumeParams:
    """What one simulated volume was drawn as: seeds and numbers, enough to render it again."""

    head_seed: int
    noise_seed: int
    contrast: ContrastName
    shape: tuple[int, int, int]
    voxel_size_mm: tuple[float, float, float]
    b0_direction: tuple[float, float, float]
    peak_snr: float
    name: str = "phantom"


def volume_seed(stream: Stream, seed: int, index: int) -> int:
    """The seed of the index-th volume of a stream; streams never share seeds, so validation and test heads are not trained on."""
    if seed < 0 or index < 0:
        raise InputError(f"seed is {seed} and index {index}; both must be at least 0.")
    return int(np.random.SeedSequence(entropy=seed, spawn_key=(STREAMS.index(stream), index)).generate_state(1, dtype=np.uint32)[0])


def _direction(rng: np.random.Generator, max_tilt_deg: float) -> tuple[float, float, float]:
    if max_tilt_deg == 0 or rng.random() < 0.5:
        return 0.0, 0.0, 1.0
    cosine = rng.uniform(math.cos(math.radians(max_tilt_deg)), 1.0)  # uniform on the cap of the sphere
    azimuth = rng.uniform(0, 2 * math.pi)
    sine = math.sqrt(1 - cosine**2)
    return sine * math.cos(azimuth), sine * math.sin(azimuth), cosine


def draw_volume(recipe: Recipe, seed: int, *, contrast: ContrastName | None = None, name: str = "phantom") -> VolumeParams:
    """Draw one volume of a recipe; `contrast` overrides the recipe's (for a Sim1 and Sim2 pair of one head)."""
    rng = np.random.default_rng(seed)
    size = float(rng.uniform(*recipe.voxel_size_mm))
    x, y, z = (max(8, round(length / size)) for length in recipe.field_of_view_mm)
    low, high = (math.log(v) for v in recipe.peak_snr)
    snr = math.exp(rng.uniform(low, high)) if high > low else recipe.peak_snr[0]
    return VolumeParams(
        head_seed=int(rng.integers(2**31)),
        noise_seed=int(rng.integers(2**31)),
        contrast=contrast or recipe.contrast,
        shape=(x, y, z),
        voxel_size_mm=(size, size, size),
        b0_direction=_direction(rng, recipe.max_tilt_deg),
        peak_snr=snr,
        name=name,
    )


def render_phantom(recipe: Recipe, params: VolumeParams) -> Phantom:
    """The head of a drawn volume on the fine grid."""
    x, y, z = (round(n * recipe.oversampling) for n in params.shape)
    sx, sy, sz = (n * v / f for n, v, f in zip(params.shape, params.voxel_size_mm, (x, y, z), strict=True))
    fine = Geometry((x, y, z), (sx, sy, sz), params.b0_direction, recipe.b0_tesla)
    return render_head(draw_head(params.head_seed, contrast=params.contrast), fine)


def acquisition_of(recipe: Recipe, params: VolumeParams) -> Acquisition:
    """How a drawn volume is scanned."""
    return Acquisition(
        echo_times_s=recipe.echo_times_s,
        repetition_time_s=recipe.repetition_time_s,
        flip_angle_deg=recipe.flip_angle_deg,
        peak_snr=params.peak_snr,
        shape=params.shape,
    )


def render_volume(recipe: Recipe, params: VolumeParams) -> tuple[Scan, Truth]:
    """Simulate a drawn volume: head on the fine grid, acquisition, k-space crop, noise."""
    return scan_phantom(recipe, params, render_phantom(recipe, params))


_TILT_DEG = 30.0
MAX_ORIENTATIONS = 5


def check_orientations(n_orientations: int) -> None:
    """Raises InputError for other than 1 to 5 orientations."""
    if not 1 <= n_orientations <= MAX_ORIENTATIONS:
        raise InputError(f"n_orientations is {n_orientations}; it must lie between 1 and {MAX_ORIENTATIONS}.")


def orientations_of(params: VolumeParams, n_orientations: int) -> list[VolumeParams]:
    """One head at several orientations to B0: as drawn, then turned by 30 degrees to either side and back and forth, as far as a head goes in a
    receive coil (Liu et al., COSMOS, Magn Reson Med 2009). Directions are in the axes of the head; every scan has noise of its own.

    Raises InputError for other than 1 to 5 orientations.
    """
    check_orientations(n_orientations)
    sine, cosine = math.sin(math.radians(_TILT_DEG)), math.cos(math.radians(_TILT_DEG))
    tilts = [(sine, 0.0, cosine), (0.0, sine, cosine), (-sine, 0.0, cosine), (0.0, -sine, cosine)]
    others = [
        dataclasses.replace(params, b0_direction=tilt, noise_seed=params.noise_seed + number, name=f"orientation_{number + 1}")
        for number, tilt in enumerate(tilts[: n_orientations - 1], start=1)
    ]
    return [params, *others]


def render_orientations(recipe: Recipe, turns: Sequence[VolumeParams]) -> list[Scan]:
    """The scans of one head at the orientations of `orientations_of`; the head is rendered once."""
    if not turns:
        return []
    phantom = render_phantom(recipe, turns[0])
    geometries = [dataclasses.replace(phantom.geometry, b0_direction=turn.b0_direction) for turn in turns]
    heads = [dataclasses.replace(phantom, geometry=geometry) for geometry in geometries]
    return [scan_phantom(recipe, turn, head)[0] for turn, head in zip(turns, heads, strict=True)]


def scan_phantom(recipe: Recipe, params: VolumeParams, phantom: Phantom) -> tuple[Scan, Truth]:
    """`render_volume` of a head that `render_phantom` has rendered."""
    acquisition = acquisition_of(recipe, params)
    return acquire(phantom, acquisition, torch.Generator().manual_seed(params.noise_seed), truth=recipe.truth, name=params.name)
