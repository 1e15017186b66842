"""The work of qsmdl simulate: built-in phantoms, or the head of the challenge's toolbox, in the layouts of the challenge, BIDS and QSM-CI."""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from qsmdl import __version__
from qsmdl.challenge.cases import CHALLENGE_CONTRASTS, draw_release
from qsmdl.challenge.conventions import CONVENTIONS
from qsmdl.cli.layouts import Destination, Product, parse_layouts, truth_name
from qsmdl.cli.progress import console, stage
from qsmdl.cli.toolbox import scan_names, toolbox_products
from qsmdl.data.orientations import check_orientations, orientations_of, render_orientations
from qsmdl.data.recipe import Recipe, VolumeParams, acquisition_of, render_phantom, scan_phantom
from qsmdl.errors import InputError
from qsmdl.io.layouts import Layout
from qsmdl.phantom.scanning.acquire import make_truths
from qsmdl.phantom.scanning.local_field import local_field
from qsmdl.phantom.tissue.contrast import ContrastName
from qsmdl.scan import Phantom, Truth


def _check(arguments: argparse.Namespace, layouts: tuple[Layout, ...]) -> None:
    if arguments.seed < 0:
        raise InputError(f"--seed is {arguments.seed}; it must be at least 0.")
    if arguments.voxel_size <= 0:
        raise InputError(f"--voxel-size is {arguments.voxel_size}; it must be positive, in mm.")
    if arguments.conventions and arguments.no_truth:
        raise InputError("--conventions writes truths, which --no-truth leaves out. Pass one of the two.")
    check_orientations(arguments.orientations)
    if layouts != ("rc2",) and (arguments.conventions or arguments.orientations > 1):
        option = "--conventions" if arguments.conventions else "--orientations"
        raise InputError(f"{option} belongs to the layout rc2 alone, but --layout is {arguments.layout}. Write these in another call.")
    if arguments.from_toolbox is not None and arguments.orientations > 1:
        raise InputError("--orientations turns the built-in heads; the challenge's protocol for --from-toolbox has one orientation. Leave one out.")


def made_by(recipe: Recipe, params: VolumeParams, seed: int) -> dict[str, Any]:
    """What a layout tells of how a scan was made: `recipe_digest` and seed, the volume's parameters and the recipe's settings."""
    told = {"qsmdl_version": __version__, "seed": seed, "recipe_digest": recipe.digest}
    return told | {"volume": dataclasses.asdict(params), "recipe": recipe.to_plain()}


def _conventions(recipe: Recipe, phantom: Phantom, truth: Truth, wanted: bool) -> dict[str, Truth]:
    """The truth in the conventions that the recipe does not have, if they are asked for."""
    others = [kind for kind in CONVENTIONS if kind != recipe.truth] if wanted else []
    truths = make_truths(phantom, truth.geometry, truth.mask, others) if others else {}
    return {str(convention): other for convention, other in truths.items()}


def _draw(arguments: argparse.Namespace, contrasts: tuple[ContrastName, ...]) -> list[tuple[Recipe, VolumeParams]]:
    """What is simulated, head by head: both noise levels of one in turn."""
    size, snr = arguments.voxel_size, arguments.peak_snr
    drawn = draw_release(arguments.stage or 1, voxel_size_mm=size, peak_snr=snr, contrasts=contrasts, seed=arguments.seed)
    return sorted(drawn, key=lambda pair: contrasts.index(pair[1].contrast))


def _products(arguments: argparse.Namespace, drawn: list[tuple[Recipe, VolumeParams]], *, with_field: bool) -> Iterator[Product]:
    rendered: tuple[VolumeParams, Phantom] | None = None
    for recipe, params in drawn:
        head = dataclasses.replace(params, noise_seed=0, peak_snr=1.0, name="")
        if rendered is None or rendered[0] != head:
            rendered = head, render_phantom(recipe, params)
        phantom = rendered[1]
        scan, truth = scan_phantom(recipe, params, phantom)
        turns = orientations_of(params, arguments.orientations)[1:]
        told = made_by(recipe, params, arguments.seed)
        if turns:
            told["orientations"] = [dataclasses.asdict(turn) for turn in turns]
        yield Product(
            scan=scan,
            truth=None if arguments.no_truth else truth,
            acquisition=acquisition_of(recipe, params),
            made_by=json.loads(json.dumps(told)),
            conventions=_conventions(recipe, phantom, truth, arguments.conventions),
            orientations=render_orientations(recipe, turns),
            local_field_ppm=local_field(phantom, truth.geometry) if with_field else None,
        )


def run_simulation(arguments: argparse.Namespace) -> None:
    """Write OUT/Sim1 and OUT/Sim2 (one head, two contrasts), or the scans of a stage, in every layout asked for, with what they were drawn as.

    Built-in heads come from the "test" stream: no network that qsmdl trains has seen them.
    """
    layouts = parse_layouts(arguments.layout)
    _check(arguments, layouts)
    contrasts: tuple[ContrastName, ...] = CHALLENGE_CONTRASTS if arguments.contrast == "both" else (arguments.contrast,)
    from_toolbox = arguments.from_toolbox is not None
    number = arguments.stage or (2 if from_toolbox else None)
    drawn = [] if from_toolbox else _draw(arguments, contrasts)
    names = scan_names(contrasts, number or 1) if from_toolbox else [params.name for _, params in drawn]
    destination = Destination(arguments.out, layouts, apart=number is not None, overwrite=arguments.overwrite)
    destination.check_free(names, with_truth=not arguments.no_truth)
    with_field = "qsm-ci" in layouts and not arguments.no_truth
    if from_toolbox:
        products = toolbox_products(arguments, contrasts, number or 2, with_field=with_field)
    else:
        products = _products(arguments, drawn, with_field=with_field)
    known: set[str] = set()
    for name in names:
        with stage(f"Simulating {name} (seed {arguments.seed}, {arguments.voxel_size:g} mm)"):
            product = next(products)
            folders = destination.write(product, shared_truth_written=truth_name(name) in known)
        known.add(truth_name(name))
        size = " x ".join(str(n) for n in product.scan.geometry.shape)
        for folder in folders:
            told = f"{len(product.scan.echo_times_s)} echoes, peak SNR {product.acquisition.peak_snr:g}"
            console.print(f"  {folder}: {size} voxels, {told}", highlight=False)
