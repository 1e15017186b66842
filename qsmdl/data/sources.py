"""What a training reads, as entries of its record."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from qsmdl.data.recipe import Recipe, Stream, draw_volume, volume_seed
from qsmdl.data.rendering import render_sample
from qsmdl.errors import InputError
from qsmdl.io.fingerprint import Fingerprint
from qsmdl.phantom.anatomy.head import draw_head, render_head
from qsmdl.phantom.anatomy.label_atlas import LabelAtlas
from qsmdl.scan import Geometry, Phantom, Scan, Truth

PREVIEW_MM = 2.0
"""Voxel size of `preview_head`: heads are functions of their parameters and position, so a coarse one is the same head."""


class VolumeSet(Protocol):
    """The first n_volumes volumes of a stream, rendered before, with their truths fingerprinted. digest: of all of them; source: their entry in a
    training record; read: a volume by its number, the very one that was fingerprinted; maps: what was computed of it before, or is computed now.
    """

    @property
    def n_volumes(self) -> int: ...  # noqa: D102

    @property
    def digest(self) -> str: ...  # noqa: D102

    @property
    def fingerprints(self) -> Sequence[Fingerprint]: ...  # noqa: D102

    @property
    def source(self) -> dict[str, Any]: ...  # noqa: D102

    def read(self, number: int) -> tuple[Scan, Truth]: ...  # noqa: D102

    def maps(self, number: int, name: str, compute: Callable[[], Tensor]) -> Tensor: ...  # noqa: D102


def recipe_digest(plain: Mapping[str, Any]) -> str:
    """`Recipe.digest` of a recipe's plain settings, also of those that a version with fewer or more settings wrote."""
    return hashlib.sha256(json.dumps(dict(plain), sort_keys=True).encode()).hexdigest()[:16]


def generator_source(
    recipe: Recipe, *, stream: Stream, seed: int, n_volumes: int, use: str = "training", fixed_set: VolumeSet | None = None
) -> dict[str, Any]:
    """The entry of volumes drawn from a recipe: those of the numbers 0 to n_volumes - 1 of a stream with a seed. fixed_set: what they were read from,
    again and again where n_volumes exceeds it.
    """
    if n_volumes < 0:
        raise InputError(f"n_volumes is {n_volumes}; it must be at least 0.")
    source = {
        "kind": "generator",
        "use": use,
        "stream": stream,
        "seed": seed,
        "n_volumes": n_volumes if fixed_set is None else min(n_volumes, fixed_set.n_volumes),
        "recipe": recipe.to_plain(),
        "recipe_digest": recipe.digest,
    }
    return source if fixed_set is None else source | {"fixed_set": {"digest": fixed_set.digest, "n_volumes": fixed_set.n_volumes}}


def n_volumes_drawn(n_batches: int, *, n_lanes: int, batches_per_volume: int, world_size: int = 1) -> int:
    """How many volumes the first batches of a `PhantomStream` draw on (at most): every lane renders one for each `batches_per_volume` batches.

    world_size: of processes that train together, each with `n_lanes` lanes and `n_batches` batches of its own.
    """
    return world_size * n_lanes * (-(-n_batches // (n_lanes * batches_per_volume)))


@torch.no_grad()
def preview_head(recipe: Recipe, *, stream: Stream, seed: int, index: int, atlases: tuple[LabelAtlas, ...] = ()) -> Phantom:
    """The phantom of a volume of a stream at PREVIEW_MM, without scanning it (three seconds). atlases: the label maps that the recipe draws from."""
    params = draw_volume(recipe.at(index), volume_seed(stream, seed, index), atlases=atlases)
    x, y, z = (max(8, round(length / PREVIEW_MM)) for length in recipe.field_of_view_mm)
    geometry = Geometry((x, y, z), (PREVIEW_MM,) * 3)
    if params.sample is not None:
        return render_sample(params.sample, geometry, atlases)
    return render_head(draw_head(params.head_seed, contrast=params.contrast), geometry)
