"""qsmdl simulate --set: the first volumes of a training's stream, rendered into a folder that trainings read in place of rendering."""

import argparse
import dataclasses
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig

from qsmdl.challenge.guard import check_registered
from qsmdl.cli.build import build_recipe, plain
from qsmdl.cli.cache import drawn_from
from qsmdl.cli.catalogue import config_folder
from qsmdl.cli.label_maps import LabelMaps
from qsmdl.cli.progress import console, stage
from qsmdl.data.inputs import Prior
from qsmdl.data.recipe import Recipe, VolumeParams, acquisition_of, draw_volume, effects_of, render_volume, volume_seed
from qsmdl.data.stream import training_volume
from qsmdl.errors import InputError
from qsmdl.interrupt import EXIT_INTERRUPTED, DeferredInterrupt
from qsmdl.io.fixed_set import begin_set, card_of_volume, check_place, has_maps, has_volume, kept_maps, volume_numbers, volume_path
from qsmdl.io.provenance import folder_source
from qsmdl.io.volume_file import check_free_space, expected_bytes, read_volume_file, write_volume_file
from qsmdl.phantom.anatomy.label_atlas import LabelAtlas
from qsmdl.validation import check_settings

_EVERY_S = 10.0
_UNFINISHED = re.compile(r"\.volume_(\d{5,})\.[0-9a-f]{8}\.safetensors")


@dataclass(frozen=True)
class Filling:
    """A set that is being written. prior: whose maps are computed with each volume, where that takes long; told: what its set.json says."""

    folder: Path
    recipe: Recipe
    seed: int
    atlases: tuple[LabelAtlas, ...]
    prior: Prior
    told: dict[str, Any]

    def draw(self, number: int) -> VolumeParams:
        """What a volume is drawn as: the same as in a training."""
        return draw_volume(self.recipe.at(number), volume_seed("train", self.seed, number), atlases=self.atlases)

    def card(self, number: int, params: VolumeParams) -> dict[str, Any]:
        """What the file of a volume tells."""
        return card_of_volume(self.told, number, dataclasses.asdict(params))

    def is_complete(self, number: int, params: VolumeParams) -> bool:
        """Whether a volume is there, and the prior's maps where they are kept."""
        there = has_volume(self.folder, self.card(number, params))
        return there and (not self.prior.is_slow or has_maps(self.folder, number, self.prior.digest))

    def write(self, number: int) -> tuple[int, int]:
        """Render a volume and write it, unless it is there; and the prior's maps. Returns its number and the size of its file in bytes."""
        params, path = self.draw(number), volume_path(self.folder, number)
        if not has_volume(self.folder, self.card(number, params)):
            scan, truth = render_volume(self.recipe, params, self.atlases, complete=False)
            write_volume_file(path, scan, truth, self.card(number, params))
        if self.prior.is_slow:
            found = read_volume_file(path)
            keep = partial(kept_maps, self.folder, number, found.sha256)
            training_volume(found.scan, found.truth, self.prior, effects_of(params), peak_snr=params.peak_snr, keep=keep)
        return number, path.stat().st_size


def _config(arguments: argparse.Namespace) -> DictConfig:
    try:
        with initialize_config_dir(version_base=None, config_dir=os.fspath(config_folder())):
            return compose("train", overrides=[f"seed={arguments.seed}", *arguments.settings])
    except HydraException as error:
        raise InputError(f"The settings of the training could not be read: {error}") from error


def _check(arguments: argparse.Namespace) -> None:
    for name, value, least in (("--set", arguments.set, 1), ("--first", arguments.first, 0), ("--jobs", arguments.jobs, 1)):
        if value < least:
            raise InputError(f"{name} is {value}; it must be at least {least}.")
    if arguments.phantom is not None or arguments.acquisition is not None:
        raise InputError("--set takes its recipe as train.py does: phantom=NAME acquisition=NAME, without dashes.")
    if arguments.overwrite:
        raise InputError("--overwrite does not go with --set, which keeps whole volumes. Remove the folder to begin anew.")


def _begin(arguments: argparse.Namespace) -> Filling:
    config = _config(arguments)
    recipe = build_recipe(plain(config.phantom), plain(config.acquisition), curriculum=plain(config.data.curriculum))
    label_maps = LabelMaps.of(plain(config.data.label_maps))
    atlases = label_maps.read(recipe)
    if atlases and label_maps.folder is not None:
        _, fingerprints = folder_source(Path(label_maps.folder))
        check_registered(fingerprints, trained="this set")
    told = drawn_from(recipe, config.seed, atlases)
    check_place(arguments.out, told)
    check_settings("data.prior", Prior, plain(config.data.prior))
    return Filling(arguments.out, recipe, config.seed, atlases, Prior(**plain(config.data.prior)), told)


def _missing(filling: Filling, numbers: Sequence[int]) -> list[int]:
    """The volumes that are still to be written; checks that there is room for them."""
    missing, n_bytes = [], 0
    for number in numbers:
        params = filling.draw(number)
        if not filling.is_complete(number, params):
            missing.append(number)
            n_echoes = len(acquisition_of(filling.recipe, params).echo_times_s)
            n_bytes += expected_bytes(params.shape, n_echoes)
            n_kept = filling.prior.n_maps + (n_echoes if filling.prior.crop_phase else 0)
            n_bytes += 4 * math.prod(params.shape) * n_kept if filling.prior.is_slow else 0
    if missing:
        check_free_space(filling.folder, n_bytes, f"{len(missing)} volumes")
        console.print(f"  {len(numbers) - len(missing)} are there, {len(missing)} to render: about {n_bytes / 1e6:.0f} MB", highlight=False)
    return missing


def _remove_unfinished(folder: Path, numbers: Sequence[int]) -> None:
    """What a process that was killed left of these volumes."""
    wanted = set(numbers)
    for entry in list(folder.iterdir()):
        match = _UNFINISHED.fullmatch(entry.name)
        if match and int(match[1]) in wanted:
            entry.unlink(missing_ok=True)


_current: list[Filling] = []
"""In a rendering process: what it renders for. Label maps would be too large to send with every number."""


def _begin_process(filling: Filling) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command stops by sending nothing more; what is being rendered is finished
    torch.set_num_threads(1)
    _current[:] = [filling]


def _write_in_process(number: int) -> tuple[int, int]:
    return _current[0].write(number)


@contextmanager
def one_thread() -> Iterator[None]:
    """Loader workers compute with one thread, and the last bits depend on it."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n)


def _write_all(filling: Filling, numbers: Sequence[int], n_jobs: int, stopped: Callable[[], bool]) -> Iterator[tuple[int, int]]:
    """Number and size of each volume once it is written, until `stopped`."""
    if n_jobs == 1:
        with one_thread():
            for number in numbers:
                if stopped():
                    return
                yield filling.write(number)
        return
    todo, running = list(reversed(numbers)), set[Future[tuple[int, int]]]()
    with ProcessPoolExecutor(n_jobs, get_context("spawn"), _begin_process, (filling,)) as pool:
        while True:
            while todo and len(running) < n_jobs and not stopped():
                running.add(pool.submit(_write_in_process, todo.pop()))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            try:
                yield from (future.result() for future in done)
            except BrokenProcessPool as error:
                raise InputError(
                    "A rendering process was ended from outside, often for lack of memory. Whole volumes are kept: call again, with fewer --jobs."
                ) from error


def fill_set(arguments: argparse.Namespace) -> None:
    """Write volumes --first to --first + --set - 1 of the training stream to OUT; those that are there are kept, and maps that they lack are added.

    Raises InputError: settings that cannot be, a folder of another recipe, seed or label maps, a damaged volume, or a disk without room.
    """
    _check(arguments)
    filling = _begin(arguments)
    numbers = range(arguments.first, arguments.first + arguments.set)
    with stage(f"Drawing {len(numbers)} volumes of the recipe {filling.recipe.digest} with seed {filling.seed}"):
        missing = _missing(filling, numbers)
        begin_set(filling.folder, filling.told)
        _remove_unfinished(filling.folder, missing)
    begun = last = time.monotonic()
    with DeferredInterrupt() as interrupt:
        for n_done, (number, n_bytes) in enumerate(_write_all(filling, missing, arguments.jobs, lambda: interrupt.requested), start=1):
            if n_done in (1, len(missing)) or time.monotonic() - last > _EVERY_S:
                last = time.monotonic()
                left_s = (last - begun) / n_done * (len(missing) - n_done)
                console.print(f"  volume {number}: {n_bytes / 1e6:.1f} MB; {n_done} of {len(missing)}, about {left_s:.0f} s to go", highlight=False)
    if interrupt.requested:
        sys.stderr.write(f"interrupted; whole volumes are kept: call again to go on; exit status {EXIT_INTERRUPTED}\n")
        sys.exit(EXIT_INTERRUPTED)
    there = volume_numbers(filling.folder)
    console.print(f"  {filling.folder}: {len(there)} volumes; train with the same settings and data.cache.folder={filling.folder}", highlight=False)
