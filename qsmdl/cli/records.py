"""What train.py records of a training and checks before it begins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from qsmdl.challenge.guard import check_registered, check_truths, read_truths
from qsmdl.cli.build import plain
from qsmdl.cli.cache import check_renderings
from qsmdl.cli.progress import stage
from qsmdl.data.datamodule import PhantomData
from qsmdl.data.sources import PREVIEW_MM, preview_head
from qsmdl.errors import InputError
from qsmdl.io.fingerprint import Fingerprint, content_hash, volume_signature
from qsmdl.io.provenance import CARD_ENTRY, Source, folder_source, make_record, seal_problem, volumes_of
from qsmdl.io.weights import load_weights
from qsmdl.networks.build import architecture_fingerprint
from qsmdl.training.records import MakeRecord, checkpoint_tensors
from qsmdl.validation import check_settings

_UNREADABLE = (UnpicklingError, RuntimeError, EOFError, KeyError, OSError, ValueError, AttributeError, TypeError)


@dataclass(frozen=True)
class Guard:
    """The config's `guard`.

    folders: volumes that the training reads besides the generator's; releases: whose truths no training volume may hold; n_previews: heads of the
    generator compared with them, or volumes of a fixed set compared with their rendering; allow_unattested: go on from checkpoints without a good
    record, which marks the new one.
    """

    folders: tuple[str, ...] = ()
    releases: tuple[str, ...] = ()
    n_previews: int = 2
    allow_unattested: bool = False

    @classmethod
    def of(cls, config: DictConfig) -> "Guard":
        """From a training's config. Raises InputError for settings that do not fit."""
        settings: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in plain(config.guard).items()}
        check_settings("guard", cls, settings)
        # Label maps are volumes that the training reads.
        label_maps = plain(config.data.label_maps)["folder"]
        guard = cls(**{**settings, "folders": (*settings["folders"], *([label_maps] if label_maps else []))})
        if guard.n_previews < 0:
            raise InputError(f"guard.n_previews is {guard.n_previews}; it must be at least 0.")
        return guard


@dataclass(frozen=True)
class Earlier:
    """What a training goes on from. record: of that checkpoint; problem: why it has no good one; tensors: weights to begin with, or None."""

    record: Mapping[str, Any] | None = None
    problem: str | None = None
    tensors: Mapping[str, Tensor] | None = None


def _checked(record: Any, tensors: Mapping[str, Tensor], start: Mapping[str, Tensor] | None = None) -> Earlier:
    problem = "it carries no record of what it was trained on" if record is None else seal_problem(record, tensors)
    return Earlier(record if problem is None else None, problem, start)


def _of_checkpoint(path: str) -> Earlier:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        return _checked(checkpoint.get(CARD_ENTRY), checkpoint_tensors(checkpoint))
    except _UNREADABLE as error:
        return Earlier(problem=f"it could not be read as a checkpoint of a run ({error})")


def read_earlier(resume: str | None, start_from: str | None, guard: Guard) -> Earlier:
    """The record of the checkpoint that a training goes on from (`resume`) or takes its first weights from (`start_from`).

    Raises InputError: both are named, or the checkpoint has no good record and guard.allow_unattested is false.
    """
    if resume is not None and start_from is not None:
        raise InputError(f"resume is {resume!r} and start_from {start_from!r}; name one: a run that is resumed already knows what it started from.")
    if resume is not None:
        earlier = _of_checkpoint(resume)
    elif start_from is not None:
        tensors, card = load_weights(start_from)
        earlier = _checked(card.get(CARD_ENTRY), tensors, tensors)
    else:
        return Earlier()
    if earlier.problem is not None and not guard.allow_unattested:
        raise InputError(
            f"{resume or start_from} may not be trained on: {earlier.problem}. Without its record nobody knows what the new weights have seen. Take "
            "a checkpoint that train.py wrote, or go on with guard.allow_unattested=true, which marks the new record."
        )
    return earlier


def _previews(data: PhantomData, n: int) -> list[Fingerprint]:
    if data.cache is not None:
        return []  # all of its volumes are fingerprinted
    heads = [preview_head(data.recipe, stream="train", seed=data.seed, index=index, atlases=data.atlases) for index in range(n)]
    return [
        Fingerprint(f"generated head {i}", content_hash(h.chi_ppm), tuple(h.chi_ppm.shape), volume_signature(h.chi_ppm, (PREVIEW_MM,) * 3))
        for i, h in enumerate(heads)
    ]


def _compare(guard: Guard, data: PhantomData, declared: Sequence[Fingerprint], before: Sequence[Fingerprint]) -> None:
    truths = read_truths(guard.releases)
    check_truths([*declared, *before, *_previews(data, guard.n_previews)], truths, trained="this training")


def begin_record(guard: Guard, data: PhantomData, network: Mapping[str, Any], earlier: Earlier) -> MakeRecord:
    """Fingerprints the declared folders, compares all training volumes, those of a fixed set among them, with registered evaluation data and with the
    truths of the named releases, some of the set with their rendering, and returns what makes the record.

    Raises InputError: a folder or release that is not there, a training volume that agrees with a truth or is evaluation data, or one of the set that
    is not what its recipe makes.
    """
    folders: list[tuple[Source, list[Fingerprint]]] = [folder_source(Path(folder)) for folder in guard.folders]
    if data.cache is not None:
        folders.append((data.cache.source, list(data.cache.fingerprints)))
    declared = [fingerprint for _, found in folders for fingerprint in found]
    before = volumes_of(earlier.record) if earlier.record is not None else []
    check_registered([*declared, *before], trained="this training")
    if guard.releases:
        with stage(f"Comparing training volumes with the truths of {', '.join(guard.releases)}"):
            _compare(guard, data, declared, before)
    if data.cache is not None and guard.n_previews:
        with stage(f"Rendering {min(guard.n_previews, data.cache.n_volumes)} volumes of the set for comparison"):
            check_renderings(data.cache, data.recipe, data.seed, data.atlases, guard.n_previews)
    architecture = architecture_fingerprint(network)

    def make(n_steps: int) -> dict[str, Any]:
        sources = [*data.sources(n_steps), *(source for source, _ in folders)]
        return make_record(
            sources,
            architecture=architecture,
            fingerprints=declared,
            n_steps=n_steps,
            earlier=earlier.record,
            earlier_problem=earlier.problem,
        )

    return make
