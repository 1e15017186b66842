"""What a training reads, as entries of its record."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from qsmdl.data.recipe import Recipe, Stream, draw_volume, volume_seed
from qsmdl.data.rendering import render_sample
from qsmdl.errors import InputError
from qsmdl.phantom.anatomy.head import draw_head, render_head
from qsmdl.phantom.anatomy.label_atlas import LabelAtlas
from qsmdl.scan import Geometry, Phantom

PREVIEW_MM = 2.0
"""Voxel size of `preview_head`: heads are functions of their parameters and position, so a coarse one is the same head."""


def recipe_digest(plain: Mapping[str, Any]) -> str:
    """`Recipe.digest` of a recipe's plain settings, also of those that a version with fewer or more settings wrote."""
    return hashlib.sha256(json.dumps(dict(plain), sort_keys=True).encode()).hexdigest()[:16]


def generator_source(recipe: Recipe, *, stream: Stream, seed: int, n_volumes: int, use: str = "training") -> dict[str, Any]:
    """The entry of volumes drawn from a recipe: those of the numbers 0 to n_volumes - 1 of a stream with a seed."""
    if n_volumes < 0:
        raise InputError(f"n_volumes is {n_volumes}; it must be at least 0.")
    return {
        "kind": "generator",
        "use": use,
        "stream": stream,
        "seed": seed,
        "n_volumes": n_volumes,
        "recipe": recipe.to_plain(),
        "recipe_digest": recipe.digest,
    }


def n_volumes_drawn(n_batches: int, *, n_lanes: int, batches_per_volume: int, world_size: int = 1) -> int:
    """How many volumes the first batches of a `PhantomStream` draw on (at most): every lane renders one for each `batches_per_volume` batches.

    world_size: of processes that train together, each with `n_lanes` lanes and `n_batches` batches of its own.
    """
    return world_size * n_lanes * (-(-n_batches // (n_lanes * batches_per_volume)))


@torch.no_grad()
def preview_head(recipe: Recipe, *, stream: Stream, seed: int, index: int, atlases: tuple[LabelAtlas, ...] = ()) -> Phantom:
    """The phantom of a volume of a stream at PREVIEW_MM, without scanning it (three seconds). atlases: the label maps that the recipe draws from."""
    params = draw_volume(recipe, volume_seed(stream, seed, index), atlases=atlases)
    x, y, z = (max(8, round(length / PREVIEW_MM)) for length in recipe.field_of_view_mm)
    geometry = Geometry((x, y, z), (PREVIEW_MM,) * 3)
    if params.sample is not None:
        return render_sample(params.sample, geometry, atlases)
    return render_head(draw_head(params.head_seed, contrast=params.contrast), geometry)
