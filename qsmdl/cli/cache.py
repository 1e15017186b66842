"""Fixed sets in training: opened with the settings of the training, and compared with what these render."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from qsmdl import __version__
from qsmdl.cli.progress import console, stage
from qsmdl.data.curriculum import Curriculum
from qsmdl.data.recipe import Recipe, draw_volume, render_volume, volume_seed
from qsmdl.data.sources import VolumeSet
from qsmdl.errors import InputError
from qsmdl.io.fingerprint import content_hash
from qsmdl.io.fixed_set import FixedSet, open_set
from qsmdl.phantom.anatomy.label_atlas import LabelAtlas
from qsmdl.scan import Scan, Truth
from qsmdl.validation import check_settings

ROUNDING = 1e-3
"""How far a volume may lie from its rendering here, relative: processors and numbers of threads round differently, by some 1e-6."""
_EVERY_S = 10.0


def _told(atlas: LabelAtlas) -> dict[str, Any]:
    entries = {str(n): dataclasses.asdict(atlas.table[n]) for n in sorted(atlas.boxes)}
    table = hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()[:16]
    return {"name": atlas.name, "content": content_hash(atlas.labels), "voxel_size_mm": atlas.voxel_size_mm, "table_digest": table}


def drawn_from(recipe: Recipe, seed: int, atlases: tuple[LabelAtlas, ...]) -> dict[str, Any]:
    """What `set.json` tells of the training volumes of a recipe: they are functions of this and of their numbers."""
    told = {"recipe_digest": recipe.digest, "stream": "train", "seed": seed, "recipe": recipe.to_plain()}
    return told | {"label_maps": [_told(atlas) for atlas in atlases]}


@dataclass(frozen=True)
class Cache:
    """The config's `data.cache`. folder: a fixed set that `qsmdl simulate --set` made, or None."""

    folder: str | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Cache":
        """From plain settings. Raises InputError for those that do not fit."""
        check_settings("data.cache", cls, settings)
        return cls(**settings)

    def open(self, recipe: Recipe, seed: int, atlases: tuple[LabelAtlas, ...] = ()) -> FixedSet | None:
        """The set, all volumes read and fingerprinted; None where no folder is named. Raises InputError as `open_set`, and for a set that ends before
        its recipe's curriculum does.
        """
        if self.folder is None:
            return None

        def params(number: int) -> dict[str, Any]:
            return dataclasses.asdict(draw_volume(recipe.at(number), volume_seed("train", seed, number), atlases=atlases))

        with stage(f"Reading and fingerprinting the volumes of {self.folder}"):
            found = open_set(self.folder, drawn_from(recipe, seed, atlases), params, _Progress())
        if isinstance(recipe.curriculum, Curriculum) and found.n_volumes <= recipe.curriculum.until:
            raise InputError(
                f"{self.folder} has {found.n_volumes} volumes, but the curriculum ends at number {recipe.curriculum.until} (data.curriculum.until), "
                "so none is drawn from the whole recipe. Fill the set further."
            )
        return found


class _Progress:
    """A line every ten seconds, and at the end."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, n_done: int, n_all: int) -> None:
        if n_done == n_all or time.monotonic() - self.last > _EVERY_S:
            self.last = time.monotonic()
            console.print(f"  {n_done} of {n_all} volumes", highlight=False)


def _distance(values: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values - wanted) / torch.linalg.vector_norm(wanted).clamp_min(1e-30))


def rendering_problem(found: tuple[Scan, Truth], wanted: tuple[Scan, Truth]) -> str | None:
    """In what a scan and its truth differ from their rendering by more than rounding, in words; None where they do not."""
    (scan, truth), (rendered, rendered_truth) = found, wanted
    if scan.geometry.shape != rendered.geometry.shape or scan.geometry.b0_tesla != rendered.geometry.b0_tesla:
        return "grid or field strength"
    if scan.echo_times_s != rendered.echo_times_s:
        return "echo times"
    # Thresholds of the signal may fall to either side of rounding in single voxels.
    if float((scan.mask ^ rendered.mask).sum()) > ROUNDING * float(rendered.mask.sum()):
        return "mask"
    both = scan.mask & rendered.mask
    if (distance := _distance(truth.chi_ppm[both], rendered_truth.chi_ppm[both])) > ROUNDING:
        return f"susceptibility (by {100 * distance:.3g} %)"
    signal, wanted_signal = (torch.polar(s.magnitude[:, both], s.phase_rad[:, both]) for s in (scan, rendered))
    if (distance := _distance(signal, wanted_signal)) > ROUNDING:
        return f"echoes (by {100 * distance:.3g} %)"
    return None


def check_renderings(volumes: VolumeSet, recipe: Recipe, seed: int, atlases: tuple[LabelAtlas, ...], n: int) -> None:
    """Renders n volumes of a set anew, chosen by chance so that nobody knows beforehand which, and raises InputError for one that differs."""
    # Without a seed on purpose: the choice changes nothing that is trained.
    chosen = np.random.default_rng().permutation(volumes.n_volumes)[:n]
    for number in sorted(int(v) for v in chosen):
        params = draw_volume(recipe.at(number), volume_seed("train", seed, number), atlases=atlases)
        problem = rendering_problem(volumes.read(number), render_volume(recipe, params, atlases, complete=False))
        if problem is not None:
            raise InputError(
                f"{volumes.fingerprints[number].name} of the set {volumes.source['folder']} differs in its {problem} from the volume that its "
                "recipe, seed and number make (guard.n_previews), so nobody knows where it comes from: it was changed, or written by another version "
                f"than qsmdl {__version__}. Make the set anew with qsmdl simulate --set."
            )
