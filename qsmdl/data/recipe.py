"""What simulated volumes are drawn from, and how one is drawn."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from qsmdl.data.chi_range import chi_range_ppm
from qsmdl.data.curriculum import Curriculum
from qsmdl.data.engine import Engine, Sample, draw_sample
from qsmdl.data.rendering import render_sample
from qsmdl.errors import InputError
from qsmdl.phantom.anatomy.head import draw_head, render_head
from qsmdl.phantom.anatomy.label_atlas import LabelAtlas
from qsmdl.phantom.drawing.ranges import Range, draw_direction
from qsmdl.phantom.scanning.acquire import NO_EFFECTS, Acquisition, TruthKind, acquire
from qsmdl.phantom.scanning.effects import Effects
from qsmdl.phantom.scanning.protocol import ProtocolRanges
from qsmdl.phantom.tissue.contrast import ContrastName
from qsmdl.scan import Geometry, Phantom, Scan, Truth

Stream = Literal["train", "validation", "test"]
STREAMS: tuple[Stream, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Recipe:
    """Ranges of the simulated volumes; every volume draws one value from each.

    contrast: "sim1", "sim2" or "random" tissue values; voxel_size_mm: range of the (isotropic) voxel size; field_of_view_mm (x, y, z); oversampling:
    fine voxels per voxel along each axis (RC2: 1 / 0.64); peak_snr: range, log-uniform, of the first echo's maximum over the noise; max_tilt_deg:
    largest angle of B0 from the z axis, half of the volumes have none; echo_times_s, repetition_time_s, flip_angle_deg, b0_tesla: the protocol
    (RC2's by default); truth: "unrung" (as the challenge made it), "crop" (with the ringing of the k-space crop) or "cell" (mean over each voxel).
    engine: None for the first generator, heads with the protocol above; else everything but contrast, field of view, oversampling (of a voxel's
    shortest edge) and truth is drawn from the ranges of the engine, the protocol too.
    curriculum: None, or how the ranges of the first volumes widen to these (`curriculum.Curriculum`).
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
    engine: Engine | Mapping[str, Any] | None = None
    curriculum: Curriculum | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.engine is not None and not isinstance(self.engine, Engine):
            object.__setattr__(self, "engine", Engine.from_settings(self.engine))
        if self.curriculum is not None and not isinstance(self.curriculum, Curriculum):
            object.__setattr__(self, "curriculum", Curriculum.of(self.curriculum))
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
        if isinstance(self.curriculum, Curriculum):
            engine = self.engine if isinstance(self.engine, Engine) else None
            self.curriculum.check(self.peak_snr if engine is None else engine.protocol.peak_snr, engine)

    def at(self, number: int) -> "Recipe":
        """What the volume of a number is drawn from: the recipe itself, or what its curriculum has come to, which has none."""
        course = self.curriculum
        if not isinstance(course, Curriculum):
            return self
        if isinstance(self.engine, Engine):
            return dataclasses.replace(self, curriculum=None, engine=course.engine_of(number, self.engine))
        return dataclasses.replace(self, curriculum=None, peak_snr=course.peak_snr_of(number, self.peak_snr))

    @property
    def digest(self) -> str:
        """A hash of all settings: two recipes with the same digest draw the same volumes from the same seeds."""
        return hashlib.sha256(json.dumps(self.to_plain(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def draws_label_maps(self) -> bool:
        """Whether samples may be of the user's label maps."""
        return isinstance(self.engine, Engine) and self.engine.kinds.get("label_map", 0.0) > 0

    @property
    def protocol_ranges(self) -> ProtocolRanges:
        """What the engine draws protocols from, or the first generator's protocol in those terms. Raises InputError for echoes that are not evenly
        spaced, which those cannot say.
        """
        if isinstance(self.engine, Engine):
            return self.engine.protocol
        times, n = self.echo_times_s, len(self.echo_times_s)
        if any(abs(t - (times[0] + (times[-1] - times[0]) * i / max(n - 1, 1))) > 1e-6 for i, t in enumerate(times)):
            raise InputError(f"echo_times_s is {times}; the engine spaces echoes evenly. Give engine.protocol its own ranges.")
        return ProtocolRanges(
            b0_tesla=(self.b0_tesla, self.b0_tesla),
            n_echoes=(n, n),
            first_echo_s=(times[0], times[0]),
            last_echo_s=(times[-1], times[-1]),
            repetition_time_s=(self.repetition_time_s, self.repetition_time_s),
            flip_angle_deg=(self.flip_angle_deg, self.flip_angle_deg),
            peak_snr=self.peak_snr,
            voxel_size_mm=self.voxel_size_mm,
            tilt_probability=0.5 if self.max_tilt_deg > 0 else 0.0,
            max_tilt_deg=self.max_tilt_deg or 180.0,
        )

    @property
    def envelope(self) -> dict[str, Any]:
        """Within what a network trained on this has seen scans: voxel edges and their ratio, peak SNR, tilt of B0, field strength, number of
        echoes, tissue contrast, and susceptibilities (`chi_range_ppm`). Of a curriculum: in the end.
        """
        protocol = self.protocol_ranges
        stretched = min(protocol.longest_edge_mm, protocol.voxel_size_mm[1] * protocol.anisotropy[1])
        longest = stretched if protocol.anisotropy_probability > 0 else protocol.voxel_size_mm[1]
        fields = protocol.b0_choices_tesla or protocol.b0_tesla
        return {
            "voxel_size_mm": (protocol.voxel_size_mm[0], max(longest, protocol.voxel_size_mm[1])),
            "anisotropy": (1.0, protocol.anisotropy[1] if protocol.anisotropy_probability > 0 else 1.0),
            "peak_snr": protocol.peak_snr,
            "max_tilt_deg": protocol.max_tilt_deg if protocol.tilt_probability > 0 else 0.0,
            "b0_tesla": (min(fields), max(fields)),
            "n_echoes": protocol.n_echoes,
            "contrast": self.contrast,
            "chi_ppm": chi_range_ppm(self.contrast, self.engine if isinstance(self.engine, Engine) else None),
        }

    def to_plain(self) -> dict[str, Any]:
        """The settings as plain numbers, for cards. What is None is not named, so that digests stay what they were before such settings."""
        settings = dataclasses.asdict(self)
        return {name: value for name, value in settings.items() if value is not None or name not in ("engine", "curriculum")}


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
    sample: Sample | None = None
    """What the engine drew, None for the first generator."""


def volume_seed(stream: Stream, seed: int, index: int) -> int:
    """The seed of the index-th volume of a stream; streams never share seeds, so validation and test heads are not trained on."""
    if seed < 0 or index < 0:
        raise InputError(f"seed is {seed} and index {index}; both must be at least 0.")
    return int(np.random.SeedSequence(entropy=seed, spawn_key=(STREAMS.index(stream), index)).generate_state(1, dtype=np.uint32)[0])


def _direction(rng: np.random.Generator, max_tilt_deg: float) -> tuple[float, float, float]:
    if max_tilt_deg == 0 or rng.random() < 0.5:
        return 0.0, 0.0, 1.0
    return draw_direction(rng, max_tilt_deg)


def draw_volume(
    recipe: Recipe, seed: int, *, contrast: ContrastName | None = None, name: str = "phantom", atlases: tuple[LabelAtlas, ...] = ()
) -> VolumeParams:
    """Draw one volume of a recipe; `contrast` overrides the recipe's (for a Sim1 and Sim2 pair of one head). atlases: the user's label maps.

    Raises InputError for a recipe with a curriculum, which is drawn from by number (`Recipe.at`).
    """
    if recipe.curriculum is not None:
        raise InputError("The recipe has a curriculum, so what a volume is drawn from depends on its number. Draw from recipe.at(number).")
    if isinstance(recipe.engine, Engine):
        return _draw_from_engine(recipe, recipe.engine, seed, contrast or recipe.contrast, name, atlases)
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


def _draw_from_engine(
    recipe: Recipe, engine: Engine, seed: int, contrast: ContrastName, name: str, atlases: tuple[LabelAtlas, ...]
) -> VolumeParams:
    sample = draw_sample(engine, seed, recipe.field_of_view_mm, contrast=contrast, atlases=atlases)
    protocol = sample.protocol
    geometry = protocol.geometry(sample.field_of_view_mm)
    return VolumeParams(
        head_seed=seed,
        noise_seed=int(np.random.default_rng([seed, 1]).integers(2**31)),
        contrast=contrast,
        shape=geometry.shape,
        voxel_size_mm=geometry.voxel_size_mm,
        b0_direction=geometry.b0_direction,
        peak_snr=protocol.peak_snr,
        name=name,
        sample=sample,
    )


def fine_geometry(recipe: Recipe, params: VolumeParams) -> Geometry:
    """The grid that a volume is simulated on: voxels of one size, `oversampling` times as fine as the shortest edge of the scan's."""
    shortest = min(params.voxel_size_mm)
    x, y, z = (round(n * recipe.oversampling * v / shortest) for n, v in zip(params.shape, params.voxel_size_mm, strict=True))
    sx, sy, sz = (n * v / f for n, v, f in zip(params.shape, params.voxel_size_mm, (x, y, z), strict=True))
    return Geometry((x, y, z), (sx, sy, sz), params.b0_direction, recipe.b0_tesla if params.sample is None else params.sample.protocol.b0_tesla)


def render_phantom(recipe: Recipe, params: VolumeParams, atlases: Sequence[LabelAtlas] = ()) -> Phantom:
    """The phantom of a drawn volume on the fine grid. atlases: those that it was drawn with."""
    fine = fine_geometry(recipe, params)
    if params.sample is not None:
        return render_sample(params.sample, fine, atlases)
    return render_head(draw_head(params.head_seed, contrast=params.contrast), fine)


def acquisition_of(recipe: Recipe, params: VolumeParams) -> Acquisition:
    """How a drawn volume is scanned."""
    if params.sample is not None:
        return params.sample.protocol.acquisition(params.shape)
    return Acquisition(
        echo_times_s=recipe.echo_times_s,
        repetition_time_s=recipe.repetition_time_s,
        flip_angle_deg=recipe.flip_angle_deg,
        peak_snr=params.peak_snr,
        shape=params.shape,
    )


def effects_of(params: VolumeParams) -> Effects:
    """What happens to the scan of a drawn volume; nothing in the first generator's."""
    return NO_EFFECTS if params.sample is None else params.sample.effects


def render_volume(
    recipe: Recipe, params: VolumeParams, atlases: Sequence[LabelAtlas] = (), *, complete: bool = True
) -> tuple[Scan, Truth]:
    """Simulate a drawn volume: phantom on the fine grid, acquisition, k-space crop, noise. complete: as in `acquire`."""
    return scan_phantom(recipe, params, render_phantom(recipe, params, atlases), complete=complete)


def scan_phantom(recipe: Recipe, params: VolumeParams, phantom: Phantom, *, complete: bool = True) -> tuple[Scan, Truth]:
    """`render_volume` of a phantom that `render_phantom` has rendered."""
    # On the phantom's device: noise is most of what is drawn for a scan. Devices draw different noise from one seed.
    return acquire(
        phantom,
        acquisition_of(recipe, params),
        torch.Generator(phantom.mask.device).manual_seed(params.noise_seed),
        truth=recipe.truth,
        name=params.name,
        effects=effects_of(params),
        complete=complete,
    )
