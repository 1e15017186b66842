"""Is the phantom engine the better teacher? A U-Net of width 8 trained on either generator with one budget, tested on what neither has seen.

    python benchmarks/generators.py OUT --jobs 2     # goes on where an earlier call ended; prints the table of docs/phantoms.md

The engine's nets are trained without its shapes and label maps, so that those are new to both. All volumes have 1.5 to 2 mm voxels.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from qsmdl.cli.build import build_recipe, config_folder, plain
from qsmdl.data.recipe import Recipe, draw_volume, effects_of, render_volume, volume_seed
from qsmdl.data.stream import training_volume
from qsmdl.io.files import atomic_path
from qsmdl.io.label_table import read_label_table
from qsmdl.methods import load_network
from qsmdl.phantom.anatomy.head import draw_head, render_head
from qsmdl.phantom.anatomy.label_atlas import LabelAtlas
from qsmdl.scan import Geometry

ROOT = Path(__file__).parent.parent
COMMON = ["experiment=unet_quick", "evaluate=false", "trainer.max_time=null", "network.keywords.width=8"]
COMMON += ["data.batches_per_volume=20", "training.validate_every=1000000"]
ENGINE = ["phantom=engine", "acquisition=engine", "acquisition.engine.protocol.voxel_size_mm=[1.5,2.0]"]
GENERATORS = {"first": [], "engine": [*ENGINE, "phantom.engine.kinds.shapes=0"]}


def kinds(**shares: float) -> list[str]:
    return [*ENGINE, *(f"phantom.engine.kinds.{kind}={shares.get(kind, 0.0)}" for kind in ("head", "shapes", "texture", "label_map"))]


TESTS = {
    "heads of the first generator": [],
    "heads of the engine": kinds(head=1.0),
    "shapes only": kinds(shapes=1.0),
    "label maps": kinds(label_map=1.0),
}


def recipe_of(overrides: list[str]) -> Recipe:
    with initialize_config_dir(version_base=None, config_dir=str(config_folder())):
        config = compose("train", overrides=[*COMMON, *overrides])
    return build_recipe(plain(config.phantom), plain(config.acquisition))


def train(folder: Path, generator: str, seed: int, n_steps: int, n_threads: int) -> Path:
    run = folder / f"{generator}_{seed}"
    weights = run / "weights.safetensors"
    if not weights.exists():
        settings = [*COMMON, *GENERATORS[generator], f"training.n_steps={n_steps}", f"seed={seed}", f"hydra.run.dir={run.resolve()}"]
        environment = os.environ | {"OMP_NUM_THREADS": str(n_threads)}
        subprocess.run([sys.executable, str(ROOT / "train.py"), *settings], check=True, cwd=ROOT, env=environment)
    return weights


def atlases() -> tuple[LabelAtlas, ...]:
    """Three segmentations as a user's: labels at 1 mm of heads that no stream holds."""
    geometry, table = Geometry((164, 205, 205), (1.0, 1.0, 1.0)), read_label_table("rc2")
    heads = (render_head(draw_head(10**6 + i, contrast="random"), geometry) for i in range(3))
    return tuple(LabelAtlas(head.labels.to(torch.int16), (1.0, 1.0, 1.0), table, f"head {i}") for i, head in enumerate(heads))


def volumes(overrides: list[str], n_volumes: int, maps: tuple[LabelAtlas, ...], prior: Any) -> Iterator[dict[str, torch.Tensor]]:
    recipe = recipe_of(overrides)
    for index in range(n_volumes):
        params = draw_volume(recipe, volume_seed("test", 0, index), atlases=maps)
        scan, truth = render_volume(recipe, params, maps)
        yield training_volume(scan, truth, prior, effects_of(params), peak_snr=params.peak_snr)


def nrmse(chi: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> float:
    a, b = (v[mask] - v[mask].mean() for v in (chi, truth))
    return 100 * float((a - b).norm() / b.norm())


def score(folder: Path, weights: dict[str, Path], n_volumes: int) -> dict[str, dict[str, list[float]]]:
    """NRMSE of every network, and of what it was fed, on every volume of every test."""
    networks = {name: load_network(path)[0] for name, path in weights.items()}
    prior = load_network(next(iter(weights.values())))[1]
    maps, scores = atlases(), dict[str, dict[str, list[float]]]()
    for test, overrides in TESTS.items():
        rows: dict[str, list[float]] = {name: [] for name in ("fed", *networks)}
        for volume in volumes(overrides, n_volumes, maps, prior):
            inputs = [volume[name][None] for name in ("field_ppm", "prior_ppm", "mask", "weight")]
            mask, truth = volume["mask"][0], volume["chi_ppm"][0]
            rows["fed"].append(nrmse(volume["prior_ppm"][0], truth, mask))
            for name, network in networks.items():
                rows[name].append(nrmse(network(*inputs)[0, 0], truth, mask))
        scores[test] = rows
        print(test, {name: round(statistics.fmean(values), 1) for name, values in rows.items()}, flush=True)
    with atomic_path(folder / "scores.json", True) as hidden:
        hidden.write_text(json.dumps(scores, indent=1))
    return scores


def table(scores: dict[str, dict[str, list[float]]]) -> str:
    """Mean NRMSE and its standard deviation over the seeds."""
    lines = ["| NRMSE on | fed | first generator | engine | engine better on |", "|---|---|---|---|---|"]
    for test, rows in scores.items():
        means = {g: [statistics.fmean(v) for name, v in rows.items() if name.startswith(f"{g}_")] for g in GENERATORS}
        first, engine = (f"{statistics.fmean(means[g]):.1f} ± {statistics.stdev(means[g]):.1f}" for g in GENERATORS)
        each = zip(*(zip(*(v for name, v in rows.items() if name.startswith(f"{g}_")), strict=True) for g in GENERATORS), strict=True)
        better = sum(statistics.fmean(theirs) < statistics.fmean(ours) for ours, theirs in each)
        lines.append(f"| {test} | {statistics.fmean(rows['fed']):.1f} | {first} | {engine} | {better} of {len(rows['fed'])} volumes |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="at least 2: the table tells their spread")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--volumes", type=int, default=10, help="of each test")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once; two with a thread each take two thirds of the time of one with two")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs = [(g, s) for s in range(1, arguments.seeds + 1) for g in GENERATORS]
    n_threads = max(1, torch.get_num_threads() // arguments.jobs)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        trained = pool.map(lambda run: train(arguments.out, *run, arguments.steps, n_threads), runs)
        weights = {f"{g}_{s}": path for (g, s), path in zip(runs, trained, strict=True)}
    with torch.no_grad():
        print(table(score(arguments.out, weights, arguments.volumes)))


if __name__ == "__main__":
    main()
