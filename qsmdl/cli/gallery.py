"""qsmdl simulate --gallery: what a recipe of training data draws, as pictures and numbers."""

import argparse
import dataclasses
import json
import math
import os

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from qsmdl.cli.build import build_recipe, plain
from qsmdl.cli.catalogue import config_folder
from qsmdl.cli.progress import console, stage
from qsmdl.data.engine import Engine, draw_sample
from qsmdl.data.recipe import Recipe, VolumeParams, draw_volume, render_volume, volume_seed
from qsmdl.data.survey import shares, survey
from qsmdl.errors import InputError
from qsmdl.io.files import write_json, write_text
from qsmdl.report.phantom_sheet import Specimen, contact_sheet, range_histograms

N_DRAWS = 2000
"""Draws behind the histograms; they are not rendered."""
SHEET_VOXELS = 4e5
"""Largest scan on the sheet: a sixteenth of a whole head at 1 mm, for a second or two each."""


def recipe_of_configs(phantom: str, acquisition: str) -> Recipe:
    """The recipe of training data that two config groups make. Raises InputError for names that are not there."""
    try:
        with initialize_config_dir(version_base=None, config_dir=os.fspath(config_folder())):
            config = compose("train", overrides=[f"phantom={phantom}", f"acquisition={acquisition}"])
    except HydraException as error:
        raise InputError(f"There is no recipe of phantom={phantom} and acquisition={acquisition}: {error}") from error
    return build_recipe(plain(config.phantom), plain(config.acquisition))


def _caption(number: int, params: VolumeParams) -> str:
    size = " x ".join(f"{v:.2g}" for v in params.voxel_size_mm)
    tilt = math.degrees(math.acos(min(1.0, abs(params.b0_direction[2]))))
    if params.sample is None:
        return f"{number}: head, SNR {params.peak_snr:.0f}, {size} mm, B0 {tilt:.0f}\N{DEGREE SIGN} off z"
    protocol, effects = params.sample.protocol, params.sample.effects
    present = [f.name for f in dataclasses.fields(effects) if getattr(effects, f.name) is not None]
    times = f"{len(protocol.echo_times_s)} TE to {1000 * protocol.echo_times_s[-1]:.0f} ms"
    first = f"{number}: {params.sample.kind}, {protocol.b0_tesla:g} T, {times}, SNR {params.peak_snr:.0f}"
    return f"{first}\n{size} mm, B0 {tilt:.0f}\N{DEGREE SIGN} off z{', ' if present else ''}{', '.join(present).replace('_', ' ')}"


def gallery(arguments: argparse.Namespace) -> None:
    """Write OUT/samples.png (contact sheet), samples.json (their parameters), and for an engine ranges.png and shares.md."""
    if arguments.gallery < 1:
        raise InputError(f"--gallery is {arguments.gallery}; at least one sample is needed.")
    recipe = recipe_of_configs(arguments.phantom or "engine", arguments.acquisition or "engine")
    sheet = recipe
    if isinstance(recipe.engine, Engine):
        sheet = dataclasses.replace(recipe, engine=dataclasses.replace(recipe.engine, max_voxels=min(SHEET_VOXELS, recipe.engine.max_voxels)))
    specimens, told = [], []
    for number in range(arguments.gallery):
        params = draw_volume(sheet, volume_seed("train", arguments.seed, number))
        with stage(f"Sample {number + 1} of {arguments.gallery}"):
            scan, truth = render_volume(sheet, params, complete=False)
        specimens.append(Specimen(scan, truth, _caption(number, params)))
        told.append(json.loads(json.dumps(dataclasses.asdict(params))))
    contact_sheet(arguments.out / "samples.png", specimens, overwrite=arguments.overwrite)
    about = {"recipe_digest": recipe.digest, "recipe": recipe.to_plain(), "seed": arguments.seed, "stream": "train", "samples": told}
    write_json(arguments.out / "samples.json", about, overwrite=arguments.overwrite)
    if isinstance(recipe.engine, Engine):
        _histograms(arguments, recipe, recipe.engine)
    console.print(f"  {arguments.out}: {len(specimens)} samples of recipe {recipe.digest}", highlight=False)


def _histograms(arguments: argparse.Namespace, recipe: Recipe, engine: Engine) -> None:
    with stage(f"{N_DRAWS} draws for the histograms"):
        seeds = (volume_seed("train", arguments.seed, number) for number in range(N_DRAWS))
        samples = [draw_sample(engine, seed, recipe.field_of_view_mm, contrast=recipe.contrast) for seed in seeds]
        range_histograms(arguments.out / "ranges.png", survey(engine, samples), overwrite=arguments.overwrite)
    rows = [f"| {name} | {share:.3f} | {wanted:.3f} |" for name, (share, wanted) in shares(engine, samples).items() if not math.isnan(share)]
    lines = [f"Recipe {recipe.digest}, {N_DRAWS} draws.", "", "| effect | drawn | intended |", "|---|---|---|", *rows, ""]
    write_text(arguments.out / "shares.md", "\n".join(lines), arguments.overwrite)
