"""qsmdl simulate: built-in phantoms in the challenge's layout."""

import argparse
import dataclasses

from qsmdl import __version__
from qsmdl.challenge.conventions import CONVENTIONS
from qsmdl.cli.progress import console, stage
from qsmdl.data.recipe import (
    Recipe,
    VolumeParams,
    check_orientations,
    draw_volume,
    orientations_of,
    render_orientations,
    render_phantom,
    scan_phantom,
    volume_seed,
)
from qsmdl.errors import InputError
from qsmdl.io.rc2 import write_release
from qsmdl.phantom.acquire import make_truths
from qsmdl.phantom.contrast import ContrastName
from qsmdl.scan import Phantom, Scan, Truth


def _acquire(recipe: Recipe, params: VolumeParams, phantom: Phantom, all_conventions: bool) -> tuple[Scan, Truth, dict[str, Truth]]:
    """The scan, its truth, and that truth in the other conventions if they are asked for."""
    scan, truth = scan_phantom(recipe, params, phantom)
    others = [kind for kind in CONVENTIONS if kind != recipe.truth] if all_conventions else []
    truths = make_truths(phantom, truth.geometry, truth.mask, others) if others else {}
    return scan, truth, {str(convention): other for convention, other in truths.items()}


def simulate(arguments: argparse.Namespace) -> None:
    """Write OUT/Sim1 and OUT/Sim2 (one head, two contrasts) with a recipe.json of everything that was drawn.

    Heads come from the "test" stream: no network that qsmdl trains has seen them.
    """
    size, snr = arguments.voxel_size, arguments.peak_snr
    if arguments.seed < 0:
        raise InputError(f"--seed is {arguments.seed}; it must be at least 0.")
    if arguments.conventions and arguments.no_truth:
        raise InputError("--conventions writes truths, which --no-truth leaves out. Pass one of the two.")
    check_orientations(arguments.orientations)
    recipe = Recipe(contrast="sim1", voxel_size_mm=(size, size), peak_snr=(snr, snr))
    names: tuple[ContrastName, ...] = ("sim1", "sim2") if arguments.contrast == "both" else (arguments.contrast,)
    targets = {name: arguments.out / name.capitalize() for name in names}
    existing = [path for path in targets.values() if path.exists()]
    if existing and not arguments.overwrite:
        raise InputError(f"{existing[0]} exists. Choose another folder, or pass --overwrite.")
    for name, folder in targets.items():
        with stage(f"Simulating {folder.name} (seed {arguments.seed}, {size:g} mm, peak SNR {snr:g})"):
            params = draw_volume(recipe, volume_seed("test", arguments.seed, 0), contrast=name, name=folder.name)
            phantom = render_phantom(recipe, params)
            scan, truth, others = _acquire(recipe, params, phantom, arguments.conventions)
            made_by = {"qsmdl_version": __version__, "seed": arguments.seed, "volume": dataclasses.asdict(params), "recipe": recipe.to_plain()}
            told = None if arguments.no_truth else truth
            turns = orientations_of(params, arguments.orientations)[1:]
            scans = render_orientations(recipe, turns)
            if turns:
                made_by["orientations"] = [dataclasses.asdict(turn) for turn in turns]
            write_release(folder, scan, told, conventions=others, orientations=scans, recipe=made_by, overwrite=arguments.overwrite)
        console.print(f"  {folder}: {' x '.join(str(n) for n in scan.geometry.shape)} voxels, {len(scan.echo_times_s)} echoes")
