"""An endless stream of training batches simulated on the fly, the same for the same seed wherever it is picked up."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import lru_cache, partial
from itertools import count

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from qsmdl.data.ahead import Ahead
from qsmdl.data.engine import Engine
from qsmdl.data.inputs import Keep, Prior, echo_maps, kept_crop_phase, magnitude_maps, noisy_maps
from qsmdl.data.recipe import Recipe, Stream, draw_volume, effects_of, render_volume, volume_seed
from qsmdl.data.sources import VolumeSet
from qsmdl.errors import InputError
from qsmdl.phantom.anatomy.label_atlas import LabelAtlas
from qsmdl.phantom.scanning.acquire import NO_EFFECTS
from qsmdl.phantom.scanning.effects import Effects
from qsmdl.phantom.scanning.phase_errors import leave_wraps
from qsmdl.physics.fieldmap import fit_field
from qsmdl.scan import DEEP_GREY_MATTER, Batch, Scan, Truth
from qsmdl.solvers.crop_phase import take_off

Volume = tuple[dict[str, Tensor], tuple[float, ...], tuple[float, ...], Tensor]
"""Maps to cut patches from (and numbers of the whole volume, [n]), voxel size in mm, direction of B0, and the voxels of the mask [n, 3]."""
VOLUMES = ("field_ppm", "prior_ppm", "chi_ppm", "mask", "weight")


def training_volume(
    scan: Scan,
    truth: Truth,
    prior: Prior,
    effects: Effects = NO_EFFECTS,
    *,
    peak_snr: float | None = None,
    keep: Keep | None = None,
) -> dict[str, Tensor]:
    """The maps of a whole simulated scan that patches are cut from, each [1, x, y, z] (prior, magnitude, echoes: [n, x, y, z]; rad_per_ppm: [echo]).

    The field goes through the same estimation as at test time, with an offset where the phase has one; chi has the mean of the prior's first map
    in the mask, since a field tells no constant. effects: of the scan; a background that was
    not removed makes the field a total one, and wraps are what unwrapping leaves in it. peak_snr: of the scan, where it is known; it tells the noise
    of scans whose echoes are too few to show it (one, or two with an offset), and whose air is but a thin rim. keep: asked for what takes long to
    compute, by who may have it already.
    """
    with_offset = effects.offset is not None
    has_residuals = len(scan.echo_times_s) > (2 if with_offset else 1)
    sigma = None if peak_snr is None or has_residuals else float(scan.magnitude[0].max()) * max(1 / peak_snr, 1e-6)
    field = fit_field(scan, offset=with_offset, sigma=sigma, kind="total" if effects.has_background else "local")
    if effects.wraps is not None:
        field = leave_wraps(field, scan, effects.wraps, offset=with_offset)
    keep = keep if keep is not None and prior.is_slow else _computed
    if prior.crop_phase:
        field, scan = take_off(kept_crop_phase(field, scan, keep), field, scan)
    maps = {"field_ppm": field.field_ppm[None], "weight": field.weight[None]}
    if prior.start == "noise":
        maps["chi_ppm"] = _referenced(truth.chi_ppm, None, scan.mask)[None]
        maps["prior_ppm"] = noisy_maps(maps["chi_ppm"], scan.mask[None], prior)
    else:
        maps["prior_ppm"] = keep(prior.digest, lambda: prior(field))
        maps["chi_ppm"] = _referenced(truth.chi_ppm, maps["prior_ppm"][0], scan.mask)[None]
    volumes: dict[str, Tensor] = {name: (values * scan.mask).float() for name, values in maps.items()}
    volumes["mask"] = scan.mask[None]
    volumes["deep_grey"] = (torch.isin(truth.labels, truth.labels.new_tensor(DEEP_GREY_MATTER)) & scan.mask)[None]
    if prior.magnitude:
        volumes["magnitude"] = magnitude_maps(scan).float()
    if prior.echoes:
        volumes["rad_per_ppm"], volumes["echo_share"], volumes["echo_phase_rad"] = echo_maps(scan, field, with_offset=with_offset)
    return volumes


def _computed(name: str, compute: Callable[[], Tensor]) -> Tensor:
    return compute()


def _referenced(chi_ppm: Tensor, start_ppm: Tensor | None, mask: Tensor) -> Tensor:
    """A truth with the mean of the start in the mask (0 without one).

    A field says nothing of a constant of chi, and no score looks at it, but it may be as large as the contrast: a network that is asked for it
    learns to guess it (measured: docs/flagship.md, entry 2).
    """
    wanted = 0.0 if start_ppm is None else start_ppm[mask].mean()
    return (chi_ppm - chi_ppm[mask].mean() + wanted) * mask


def check_local_fields(recipe: Recipe) -> None:
    """Raises InputError for a recipe of which some samples hand out total fields: networks are trained and validated on local ones."""
    background = recipe.engine.effects.background if isinstance(recipe.engine, Engine) else None
    if background is not None and background.probability > 0 and background.removal_probability < 1:
        raise InputError(
            f"effects.background.removal_probability is {background.removal_probability}; networks are trained on local fields, so it must be 1 "
            "in training data."
        )


def cut_patch(volumes: dict[str, Tensor], centre: tuple[int, ...], size: tuple[int, int, int]) -> dict[str, Tensor]:
    """Patches [n, *size] of volumes [n, x, y, z] around a voxel, moved inside the volume; axes shorter than the patch are zero-padded at the end.
    What is no volume stays as it is.
    """
    patches = {}
    for name, volume in volumes.items():
        if volume.ndim != 4:
            patches[name] = volume
            continue
        starts = [min(max(c - p // 2, 0), max(n - p, 0)) for c, p, n in zip(centre, size, volume.shape[1:], strict=True)]
        patch = volume[:, *(slice(s, s + p) for s, p in zip(starts, size, strict=True))]
        missing = [p - n for p, n in zip(size, patch.shape[1:], strict=True)]
        if any(missing):
            patch = torch.nn.functional.pad(patch, [v for m in reversed(missing) for v in (0, m)])
        patches[name] = patch.contiguous()
    return patches


class PhantomStream(IterableDataset[Batch]):
    """Batches of patches from simulated heads; batch number b is a function of the settings, the seed and b alone.

    Fields are computed on whole volumes and then cut: a periodic transform of a patch would wrap its field around. A batch mixes patches from the
    two latest volumes of its lane; each lane (one per loader worker) renders its own volumes and gets a new one every `batches_per_volume` batches.
    patch_size: (x, y, z) voxels; start_batch: where to pick the stream up (after `start_batch` optimiser steps); rank and world_size: of several
    processes that train together, each with lanes of its own; atlases: label maps that the recipe's engine draws from; cache: volumes of this recipe,
    seed and stream that were rendered before: number i modulo their number is read in place of rendering number i.
    render_on: None renders where batches are asked for, when they are; a device renders on it, in a thread of its own that is one volume ahead, and
    patches are cut on it. The anatomy of a seed is the same on all devices but for rounding, the noise is not. Not yet run on a GPU.
    Patches are mirrored along random axes, B0 with them. The weight channel is replaced by the mask, and the magnitude by zeros, each with
    probability `p_drop_weight`, so that a network also runs on field maps that come without them. Patches are centred on voxels of the mask, all
    equally likely, but with the probability `p_deep_grey` on one of the deep grey matter, where a volume has any.
    """

    def __init__(
        self,
        recipe: Recipe,
        prior: Prior,
        *,
        patch_size: tuple[int, int, int],
        batch_size: int,
        batches_per_volume: int,
        n_lanes: int,
        seed: int,
        start_batch: int = 0,
        stream: Stream = "train",
        p_drop_weight: float = 0.1,
        p_deep_grey: float = 0.0,
        rank: int = 0,
        world_size: int = 1,
        atlases: tuple[LabelAtlas, ...] = (),
        cache: VolumeSet | None = None,
        render_on: torch.device | None = None,
    ) -> None:
        super().__init__()
        for name, value in {
            "batch_size": batch_size,
            "batches_per_volume": batches_per_volume,
            "n_lanes": n_lanes,
            "patch_size": min(patch_size),
        }.items():
            if int(value) < 1:
                raise InputError(f"{name} is {value}; it must be at least 1.")
        for name, probability in {"p_drop_weight": p_drop_weight, "p_deep_grey": p_deep_grey}.items():
            if not 0 <= probability <= 1:
                raise InputError(f"{name} is {probability}; a probability lies between 0 and 1.")
        check_local_fields(recipe)
        if not 0 <= rank < world_size:
            raise InputError(f"rank is {rank} of {world_size} processes; it must lie between 0 and {world_size - 1}.")
        self.recipe, self.prior, self.seed, self.stream, self.atlases = recipe, prior, seed, stream, atlases
        self.rank, self.world_size, self.cache, self.render_on = rank, world_size, cache, render_on
        self.patch_size: tuple[int, int, int] = (int(patch_size[0]), int(patch_size[1]), int(patch_size[2]))
        self.batch_size, self.batches_per_volume, self.n_lanes = int(batch_size), int(batches_per_volume), int(n_lanes)
        self.start_batch, self.p_drop_weight, self.p_deep_grey = start_batch, p_drop_weight, p_deep_grey

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        if self.n_lanes % stride:
            raise InputError(f"{stride} loader workers do not divide {self.n_lanes} lanes; each worker renders the volumes of whole lanes.")
        batches = count(self.start_batch + offset, stride)
        if self.render_on is None:
            cached = lru_cache(maxsize=2 * self.n_lanes // stride)(self._volume)
            yield from (self.batch(batch, cached) for batch in batches)
            return
        if worker:
            raise InputError(f"render_on is {self.render_on}, but {stride} loader workers ask for batches; a device is for the process that trains.")
        with closing(Ahead(self._volume, self._numbers(), n_kept=2 * self.n_lanes, device=self.render_on)) as ahead:
            for batch in batches:
                with self.render_on:
                    made = self.batch(batch, ahead)
                yield made

    def _numbers(self) -> Iterator[int]:
        """The volumes that batches from `start_batch` on are cut from, in that order."""
        first = self.start_batch // self.n_lanes // self.batches_per_volume
        for turn in count(max(first - 1, 0)):
            yield from (self._number(lane, turn) for lane in range(self.n_lanes))

    def _number(self, lane: int, turn: int) -> int:
        return lane + self.n_lanes * (self.rank + self.world_size * turn)

    def _volume(self, index: int) -> Volume:
        if self.cache is None:
            return self._made(index)
        device = torch.get_default_device()
        # Volumes that were rendered before lie on disk, and so does what is kept beside them: read on the CPU.
        with torch.device("cpu"):
            volumes, voxel_size_mm, b0_direction, inside = self._made(index % self.cache.n_volumes)
        return {name: v.to(device) for name, v in volumes.items()}, voxel_size_mm, b0_direction, inside.to(device)

    def _made(self, index: int) -> Volume:
        params = draw_volume(self.recipe.at(index), volume_seed(self.stream, self.seed, index), atlases=self.atlases)
        scan, truth = render_volume(self.recipe, params, self.atlases, complete=False) if self.cache is None else self.cache.read(index)
        inside = scan.mask.nonzero()
        if len(inside) == 0:
            raise InputError(f"Volume {index} of the stream {self.stream!r} with seed {self.seed} has an empty mask. Narrow its erosion.")
        volumes = training_volume(scan, truth, self.prior, effects_of(params), peak_snr=params.peak_snr, keep=self._keep(index))
        return volumes, params.voxel_size_mm, params.b0_direction, inside

    def _keep(self, index: int) -> Keep | None:
        """What is computed of a volume of the fixed set, once for all trainings."""
        return None if self.cache is None else partial(self.cache.maps, index)

    def numbers_of(self, index: int) -> tuple[int, ...]:
        """The volumes that the batch of a number may be cut from: the latest of its lane, and the one before."""
        lane, turn = index % self.n_lanes, index // self.n_lanes // self.batches_per_volume
        numbers = [self._number(lane, turn - back) for back in range(2 if turn else 1)]
        return tuple(dict.fromkeys(numbers if self.cache is None else [number % self.cache.n_volumes for number in numbers]))

    def batch(self, index: int, volume: "object" = None) -> Batch:
        """The batch of a number. volume: a (cached) function from volume number to volume."""
        load = volume if callable(volume) else self._volume
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(7, index * self.world_size + self.rank)))
        lane, turn = index % self.n_lanes, index // self.n_lanes // self.batches_per_volume
        samples = []
        for _ in range(self.batch_size):
            back = int(rng.integers(0, 2)) if turn else 0
            samples.append(self._sample(load(self._number(lane, turn - back)), rng))
        return {key: torch.stack([s[key] for s in samples]) for key in samples[0]}  # type: ignore[return-value]

    def _sample(self, volume: Volume, rng: np.random.Generator) -> dict[str, Tensor]:
        volumes, voxel_size_mm, b0_direction, inside = volume
        # no draw where it decides nothing: streams of before stay what they were
        if self.p_deep_grey and rng.random() < self.p_deep_grey and volumes["deep_grey"].any():
            inside = volumes["deep_grey"][0].nonzero()
        centre = inside[int(rng.integers(len(inside)))].tolist()
        patches = cut_patch(volumes, tuple(centre), self.patch_size)
        mirrored = [axis for axis in range(3) if rng.random() < 0.5]
        direction = torch.tensor(b0_direction)
        for axis in mirrored:
            direction[axis] *= -1
        if mirrored:
            axes = [axis + 1 for axis in mirrored]
            patches = {name: patch.flip(axes) if patch.ndim == 4 else patch for name, patch in patches.items()}
        if self.prior.start == "noise":
            patches["prior_ppm"] = noisy_maps(patches["chi_ppm"], patches["mask"], self.prior, int(rng.integers(2**62)))
        if rng.random() < self.p_drop_weight:
            patches["weight"] = patches["mask"].float()
        if "magnitude" in patches and rng.random() < self.p_drop_weight:
            patches["magnitude"] = torch.zeros_like(patches["magnitude"])
        return {**patches, "voxel_size_mm": torch.tensor(voxel_size_mm), "b0_direction": direction}
