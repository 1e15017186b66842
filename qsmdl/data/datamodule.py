"""The Lightning DataModule: a stream for training, fixed phantoms for validation."""

import dataclasses
import math
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from qsmdl.data.inputs import N_ECHOES, Prior, bounding_box
from qsmdl.data.recipe import Recipe, draw_volume, effects_of, render_volume, volume_seed
from qsmdl.data.sources import VolumeSet, generator_source, n_volumes_drawn
from qsmdl.data.stream import PhantomStream, check_local_fields, training_volume
from qsmdl.errors import InputError
from qsmdl.phantom.anatomy.label_atlas import LabelAtlas
from qsmdl.phantom.tissue.contrast import ContrastName
from qsmdl.scan import Batch

PREFETCH_BYTES = 2**29
"""Of batches waiting in each loader worker's queue."""
PREFETCHED = 32
"""Batches in that queue where volumes give fewer: their sizes, and the times they take, differ by a factor of ten, and the queue evens that out."""


class ValidationPhantoms(Dataset[Batch]):
    """Whole simulated volumes, cut to the mask's bounding box, fixed by the seed; drawn from a stream of their own. Each is rendered once.

    recipe: may have an engine, of any kinds of samples; heads alternate between the contrasts of Sim1 and Sim2, label maps keep their own. atlases:
    label maps that the recipe's engine draws from. Raises InputError for a recipe that hands out total fields.
    """

    def __init__(self, recipe: Recipe, prior: Prior, *, n_volumes: int, seed: int, atlases: tuple[LabelAtlas, ...] = ()) -> None:
        check_local_fields(recipe)
        self.recipe, self.prior, self.n_volumes, self.seed, self.atlases = recipe, prior, n_volumes, seed, atlases
        self._volumes: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return self.n_volumes

    def __getitem__(self, index: int) -> Batch:
        if index >= self.n_volumes:
            raise IndexError(index)
        if index not in self._volumes:
            contrast: ContrastName = "sim1" if index % 2 == 0 else "sim2"
            params = draw_volume(self.recipe, volume_seed("validation", self.seed, index), contrast=contrast, atlases=self.atlases)
            scan, truth = render_volume(self.recipe, params, self.atlases)
            box = bounding_box(scan.mask)
            whole = training_volume(scan, truth, self.prior, effects_of(params), peak_snr=params.peak_snr)
            volumes = {name: v[:, *box].contiguous() if v.ndim == 4 else v for name, v in whole.items()}
            volumes["voxel_size_mm"] = volumes["field_ppm"].new_tensor(params.voxel_size_mm)
            volumes["b0_direction"] = volumes["field_ppm"].new_tensor(params.b0_direction)
            self._volumes[index] = volumes
        return self._volumes[index]  # type: ignore[return-value]


class PhantomData(lightning.LightningDataModule):
    """Streams patches of simulated heads.

    recipe: what volumes are drawn from; validation_recipe: the same for the fixed validation phantoms (heads alternate Sim1 and Sim2); prior:
    the closed-form inversion fed along; n_workers: loader processes, each rendering its own volumes (0: in the trainer's process); seed: of the
    whole stream; atlases: the user's label maps, for recipes that draw them; cache: training volumes that were rendered before, read in place of
    rendering. The stream continues after `trainer.global_step` batches, which is what makes a resumed run see the batches that an uninterrupted one
    would; processes that train together render volumes of their own. render_on: None, or the device ("cpu", "cuda", "cuda:1") that training
    volumes are rendered on, in a thread of the trainer's process, one ahead of what is needed; validation volumes are rendered on the CPU, so that
    all machines validate on the same. Not yet run on a GPU. Raises InputError for a device that is not there, and for loader processes beside it.
    """

    def __init__(
        self,
        recipe: Recipe,
        validation_recipe: Recipe,
        prior: Prior,
        *,
        patch_size: tuple[int, int, int] = (48, 48, 48),
        batch_size: int = 2,
        batches_per_volume: int = 16,
        n_workers: int = 1,
        n_validation_volumes: int = 2,
        p_drop_weight: float = 0.1,
        p_deep_grey: float = 0.0,
        seed: int = 0,
        atlases: tuple[LabelAtlas, ...] = (),
        cache: VolumeSet | None = None,
        render_on: str | None = None,
    ) -> None:
        super().__init__()
        if n_workers < 0 or n_validation_volumes < 1:
            raise InputError(f"n_workers is {n_workers} and n_validation_volumes {n_validation_volumes}; at least 0 and 1 are needed.")
        self.render_on = None if render_on is None else _device(render_on)
        if render_on is not None and n_workers:
            raise InputError(
                f"data.render_on is {render_on!r}, but data.n_workers is {n_workers}; loader processes render on the CPU. Set data.n_workers=0, or "
                "data.render_on=null."
            )
        self.recipe, self.prior, self.n_workers, self.seed, self.atlases, self.cache = recipe, prior, n_workers, seed, atlases, cache
        self.patch_size, self.batch_size, self.batches_per_volume = patch_size, batch_size, batches_per_volume
        self.p_drop_weight, self.p_deep_grey = p_drop_weight, p_deep_grey
        self.validation = ValidationPhantoms(validation_recipe, prior, n_volumes=n_validation_volumes, seed=seed, atlases=atlases)

    def sources(self, n_batches: int) -> list[dict[str, Any]]:
        """What all processes have read after so many training batches of each, as entries of a training record: stream and validation phantoms."""
        n_volumes = n_volumes_drawn(
            n_batches,
            n_lanes=max(self.n_workers, 1),
            batches_per_volume=self.batches_per_volume,
            world_size=self.trainer.world_size if self.trainer else 1,
        )
        validation = self.validation
        return [
            generator_source(self.recipe, stream="train", seed=self.seed, n_volumes=n_volumes, fixed_set=self.cache),
            generator_source(validation.recipe, stream="validation", seed=validation.seed, n_volumes=validation.n_volumes, use="validation"),
        ]

    def stream(self, *, start_batch: int = 0, rank: int = 0, world_size: int = 1) -> PhantomStream:
        """The training batches of a process, the rank-th of so many that train together."""
        return PhantomStream(
            self.recipe,
            self.prior,
            patch_size=self.patch_size,
            batch_size=self.batch_size,
            batches_per_volume=self.batches_per_volume,
            n_lanes=max(self.n_workers, 1),
            seed=self.seed,
            start_batch=start_batch,
            p_drop_weight=self.p_drop_weight,
            p_deep_grey=self.p_deep_grey,
            rank=rank,
            world_size=world_size,
            atlases=self.atlases,
            cache=self.cache,
            render_on=self._device_of_rank(),
        )

    def describe_batch(self, index: int, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
        """What a training batch is drawn from: stream, seed, its number and rank, and the volumes that it may be cut from with what they were drawn
        as, in plain values.
        """
        numbers = self.stream(rank=rank, world_size=world_size).numbers_of(index)
        seeds = {number: volume_seed("train", self.seed, number) for number in numbers}
        drawn = {number: draw_volume(self.recipe.at(number), seed, atlases=self.atlases) for number, seed in seeds.items()}
        volumes = [{"number": number, "seed": seeds[number], "drawn": dataclasses.asdict(drawn[number])} for number in numbers]
        return {"stream": "train", "seed": self.seed, "batch": index, "rank": rank, "n_processes": world_size, "volumes": volumes}

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches from the step the trainer stands at."""
        place = (self.trainer.global_step, self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 0, 1)
        stream = self.stream(start_batch=place[0], rank=place[1], world_size=place[2])
        # The stream seeds itself by batch number, so workers need no seeds of their own; each computes with one thread (torch's default for workers).
        return DataLoader(
            stream,
            batch_size=None,
            num_workers=self.n_workers,
            prefetch_factor=self._n_prefetched if self.n_workers else None,
            persistent_workers=self.n_workers > 0,
        )

    def _device_of_rank(self) -> torch.device | None:
        """Where this process renders: "cuda" alone is the GPU that it trains on, or that of its rank on the machine where it trains on the CPU."""
        device = self.render_on
        if device is None or device.type == "cpu":
            return device
        n_processes, local_rank, root = (
            (self.trainer.world_size, self.trainer.local_rank, self.trainer.strategy.root_device) if self.trainer else (1, 0, device)
        )
        if str(device) != device.type:
            if n_processes > 1:
                raise InputError(f"data.render_on is {device}, but {n_processes} processes train; with data.render_on=cuda each has its own GPU.")
            return device
        return root if str(root).startswith("cuda:") else torch.device("cuda", local_rank % torch.cuda.device_count())

    @property
    def _n_prefetched(self) -> int:
        """Batches that a worker cuts ahead: all of a volume, so that the trainer lives on them while the next is rendered, and at least PREFETCHED;
        within PREFETCH_BYTES.
        """
        n_channels = self.prior.n_maps + 4 + 3 * self.prior.magnitude + 2 * N_ECHOES * self.prior.echoes  # field, chi, mask, weight
        n_bytes = 4 * n_channels * self.batch_size * math.prod(self.patch_size)
        return max(2, min(max(self.batches_per_volume, PREFETCHED), PREFETCH_BYTES // n_bytes))

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation phantoms, one whole volume a batch; rendered in the trainer's process and kept."""
        return DataLoader(self.validation, batch_size=1, num_workers=0, shuffle=False)


def _device(name: str) -> torch.device:
    """A device by its name. Raises InputError for one that is not there."""
    kind, _, index = str(name).partition(":")
    if kind not in ("cpu", "cuda") or (index and not (kind == "cuda" and index.isdecimal())):
        raise InputError(f"data.render_on is {name!r}; it must be null, cpu, cuda or one GPU by its number, as cuda:0.")
    if kind == "cuda" and not int(index or 0) < torch.cuda.device_count():
        raise InputError(f"data.render_on is {name!r}, but {torch.cuda.device_count()} GPUs were found. Set data.render_on=null, or see trainer=gpu.")
    return torch.device(name)
