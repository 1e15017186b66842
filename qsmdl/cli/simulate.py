"""qsmdl simulate: built-in phantoms in the challenge's layout."""

import argparse
import dataclasses

from qsmdl import __version__
from qsmdl.cli.progress import console, stage
from qsmdl.data.recipe import Recipe, draw_volume, render_volume, volume_seed
from qsmdl.errors import InputError
from qsmdl.io.rc2 import write_release
from qsmdl.phantom.contrast import ContrastName


def simulate(arguments: argparse.Namespace) -> None:
    """Write OUT/Sim1 and OUT/Sim2 (one head, two contrasts) with a recipe.json of everything that was drawn.

    Heads come from the "test" stream: no network that qsmdl trains has seen them.
    """
    size, snr = arguments.voxel_size, arguments.peak_snr
    if arguments.seed < 0:
        raise InputError(f"--seed is {arguments.seed}; it must be at least 0.")
    recipe = Recipe(contrast="sim1", voxel_size_mm=(size, size), peak_snr=(snr, snr))
    names: tuple[ContrastName, ...] = ("sim1", "sim2") if arguments.contrast == "both" else (arguments.contrast,)
    targets = {name: arguments.out / name.capitalize() for name in names}
    existing = [path for path in targets.values() if path.exists()]
    if existing and not arguments.overwrite:
        raise InputError(f"{existing[0]} exists. Choose another folder, or pass --overwrite.")
    for name, folder in targets.items():
        with stage(f"Simulating {folder.name} (seed {arguments.seed}, {size:g} mm, peak SNR {snr:g})"):
            params = draw_volume(recipe, volume_seed("test", arguments.seed, 0), contrast=name, name=folder.name)
            scan, truth = render_volume(recipe, params)
            made_by = {"qsmdl_version": __version__, "seed": arguments.seed, "volume": dataclasses.asdict(params), "recipe": recipe.to_plain()}
            write_release(folder, scan, None if arguments.no_truth else truth, recipe=made_by, overwrite=arguments.overwrite)
        console.print(f"  {folder}: {' x '.join(str(n) for n in scan.geometry.shape)} voxels, {len(scan.echo_times_s)} echoes")
