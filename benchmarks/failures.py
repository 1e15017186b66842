"""Where the flagship fails: one head scanned in ways that its weights were not trained on, and samples without anatomy, as a picture and a table.

    python benchmarks/failures.py OUT                                    # the shipped weights; OUT/failures.png, and the table of docs/flagship.md
    python benchmarks/failures.py OUT --weights RUN/weights.safetensors

The head is number 0 of a seed of its own, in the field of view of the challenge at 1.25 mm. The network is compared with what it was fed.
"""

import argparse
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from generators import nrmse
from hydra import compose, initialize_config_dir
from ladder import final_solve
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from qsmdl.challenge.cases import field_of
from qsmdl.challenge.heldout import held_out_head
from qsmdl.cli.build import build_recipe, config_folder, plain
from qsmdl.data.inputs import paste, prepare_inputs, ringing_of
from qsmdl.data.recipe import Recipe, VolumeParams, draw_volume, render_volume, volume_seed
from qsmdl.io.files import atomic_path
from qsmdl.methods import load_network
from qsmdl.methods.doubts import doubts_of
from qsmdl.scan import Scan, Truth

VOXEL_MM = 1.25
WINDOW_PPM, ERROR_PPM = 0.15, 0.1


@dataclass(frozen=True)
class Case:
    """One scan. without_echoes: the network is given the field map alone, as where magnitude and echoes are lost."""

    name: str
    recipe: Recipe
    params: VolumeParams
    without_echoes: bool = False


def of_engine(seed: int, *overrides: str) -> tuple[Recipe, VolumeParams]:
    """A sample of `experiment=flagship_small` with other settings, and without a phase at TE = 0, which the fit of `field_of` does not look for."""
    with initialize_config_dir(version_base=None, config_dir=str(config_folder())):
        words = ["experiment=flagship_small", "acquisition.engine.protocol.peak_snr=[100,100]", "acquisition.engine.effects.offset.probability=0"]
        words += overrides
        config = compose("train", overrides=[*words, f"acquisition.engine.protocol.voxel_size_mm=[{VOXEL_MM},{VOXEL_MM}]"])
    recipe = build_recipe(plain(config.phantom), plain(config.acquisition))
    return recipe, draw_volume(recipe, volume_seed("test", seed, 0))


def cases(seed: int) -> Iterator[Case]:
    head = held_out_head(0, seed=seed, voxel_size_mm=VOXEL_MM)
    recipe, params = head.recipe, head.at(100.0)
    thick = dataclasses.replace(params, voxel_size_mm=(VOXEL_MM, VOXEL_MM, 5.0), shape=(*params.shape[:2], 41))
    yield Case("as trained: 7 T, SNR 100", recipe, params)
    yield Case("peak SNR 10", recipe, head.at(10.0))
    yield Case("3 T", dataclasses.replace(recipe, b0_tesla=3.0), params)
    yield Case("one echo, 20 ms", dataclasses.replace(recipe, echo_times_s=(0.02,)), params)
    yield Case("no magnitude, no echoes", recipe, params, without_echoes=True)
    yield Case("B0 along x", recipe, dataclasses.replace(params, b0_direction=(1.0, 0.0, 0.0)))
    yield Case("slices of 5 mm", recipe, thick)
    yield Case("2 mm voxels", *_scanned_at(recipe, params, 2.0))
    everything = "phantom.engine.kinds={{head: {}, shapes: {}, texture: {}, label_map: 0.0}}"
    heads = everything.format(1.0, 0.0, 0.0)
    yield Case("background removed imperfectly", *of_engine(seed, heads, "acquisition.engine.effects.background.probability=1"))
    yield Case("shapes", *of_engine(seed, everything.format(0.0, 1.0, 0.0)))
    yield Case("texture without anatomy", *of_engine(seed, everything.format(0.0, 0.0, 1.0)))
    yield Case("head of the training engine", *of_engine(seed, heads))


def _scanned_at(recipe: Recipe, params: VolumeParams, voxel_mm: float) -> tuple[Recipe, VolumeParams]:
    shape = tuple(max(8, round(length / voxel_mm)) for length in recipe.field_of_view_mm)
    return recipe, dataclasses.replace(params, voxel_size_mm=(voxel_mm,) * 3, shape=shape)


def draw_row(axes: Any, case: Case, scan: Scan, truth: Truth, maps: dict[str, Tensor], notes: dict[str, str]) -> None:
    """Truth, maps and their errors, in the axial slice through the middle of the mask."""
    index = int(truth.mask.sum((0, 1)).argmax())
    size = scan.geometry.voxel_size_mm

    def cut(volume: Tensor) -> Any:
        return ((volume - volume[truth.mask].mean()) * truth.mask)[:, :, index].T.flip(0)

    errors = {name: chi - truth.chi_ppm for name, chi in maps.items()}
    panels = [("truth", truth.chi_ppm, WINDOW_PPM, "gray")]
    panels += [(notes[name], chi, WINDOW_PPM, "gray") for name, chi in maps.items()]
    panels += [(f"error of {name}", error, ERROR_PPM, "RdBu_r") for name, error in errors.items()]
    for cell, (title, volume, window, colours) in zip(axes, panels, strict=True):
        cell.imshow(cut(volume), cmap=colours, vmin=-window, vmax=window, aspect=size[1] / size[0], interpolation="nearest")
        cell.set_title(title, fontsize=8)
        cell.set_xticks([])
        cell.set_yticks([])
    axes[0].set_ylabel(case.name, fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, help="the shipped flagship by default")
    parser.add_argument("--seed", type=int, default=78)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    network, prior, card = load_network(arguments.weights, "flagship")
    drawn = list(cases(arguments.seed))
    figure = Figure(figsize=(15, 2.4 * len(drawn)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(drawn), 7)
    print("| scan | fed | network | final solve | warned of |\n|---|---|---|---|---|")
    for axes, case in zip(grid, drawn, strict=True):
        scan, truth = render_volume(case.recipe, case.params)
        with torch.no_grad():
            field, known, left = prior.corrected(field_of(scan), None if case.without_echoes else scan)
            inputs = prepare_inputs(field, prior, known)
            maps = {"fed": paste(inputs.prior_ppm[:, :1], inputs, field), "network": paste(network(*inputs.arguments), inputs, field)}
            maps["final solve"], doubts = final_solve(maps["network"], field, ringing_of(inputs, prior, field))
        errors = {name: nrmse(chi, truth.chi_ppm, truth.mask) for name, chi in maps.items()}
        warned = "; ".join((*left, *doubts_of(card, field, known, maps["final solve"]), *doubts)) or "-"
        print(f"| {case.name} | " + " | ".join(f"{errors[name]:.1f}" for name in maps) + f" | {warned} |", flush=True)
        draw_row(axes, case, scan, truth, maps, {name: f"{name}: NRMSE {value:.1f} %" for name, value in errors.items()})
    with atomic_path(arguments.out / "failures.png", True) as hidden:
        figure.savefig(hidden, dpi=90)


if __name__ == "__main__":
    main()
