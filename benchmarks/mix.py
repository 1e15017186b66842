"""What networks that were trained on different kinds of samples are worth on each kind: heads, shapes and textures of the engine that none has seen.

    python benchmarks/mix.py OUT --weights heads=OUT/arms/heads/weights.safetensors shapes=OUT/arms/shapes/weights.safetensors --jobs 2

NRMSE of what the networks are fed and of their maps, one pass without the final solve, as a table: docs/flagship.md. Goes on where an earlier call
ended.
"""

import argparse
import statistics
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import torch
from failures import VOXEL_MM, of_engine
from generators import nrmse
from ladder import shared_prior

from qsmdl.challenge.cases import field_of
from qsmdl.challenge.maps import file_digest
from qsmdl.data.inputs import paste, prepare_inputs
from qsmdl.data.recipe import render_volume
from qsmdl.io.files import read_json, write_json
from qsmdl.methods import load_network

KINDS = ("head", "shapes", "texture")


def errors(kind: str, number: int, paths: dict[str, str], seed: int) -> dict[str, float]:
    """NRMSE in % of what is fed and of every network's map on one sample at peak SNR 100."""
    torch.set_num_threads(1)
    networks = {name: load_network(path) for name, path in paths.items()}
    prior = shared_prior(networks)
    shares = ", ".join(f"{k}: {float(k == kind)}" for k in (*KINDS, "label_map"))
    scan, truth = render_volume(*of_engine(seed + number, f"phantom.engine.kinds={{{shares}}}"))
    with torch.no_grad():
        field, known, _ = prior.corrected(field_of(scan), scan)
        inputs = prepare_inputs(field, prior, known)
        maps = {"fed": inputs.prior_ppm[:, :1]} | {name: network(*inputs.arguments) for name, (network, _, _) in networks.items()}
    return {name: nrmse(paste(chi, inputs, field), truth.chi_ppm, truth.mask) for name, chi in maps.items()}


def row(out: Path, kind: str, number: int, paths: dict[str, str], seed: int) -> dict[str, float]:
    """`errors`, kept in OUT under the digests of the weights."""
    path = out / f"{kind}_{seed}_{number}.json"
    made_from = {name: file_digest(Path(weights)) for name, weights in paths.items()}
    note = read_json(path) if path.exists() else {}
    if note.get("made_from") != made_from:
        note = {"made_from": made_from, "nrmse": errors(kind, number, paths, seed)}
        write_json(path, note, overwrite=True)
    found: dict[str, float] = note["nrmse"]
    print(kind, number, {name: round(value, 1) for name, value in found.items()}, flush=True)
    return found


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Mean NRMSE by network and kind, and on how many samples it is lower than that of what is fed."""
    lines = [f"| NRMSE, voxels of {VOXEL_MM} mm | " + " | ".join(rows) + " |", "|" + "---|" * (len(rows) + 1)]
    for name in rows[KINDS[0]][0]:
        means = [statistics.fmean(r[name] for r in found) for found in rows.values()]
        better = [f" ({sum(r[name] < r['fed'] for r in found)} of {len(found)} better)" if name != "fed" else "" for found in rows.values()]
        lines.append(f"| {name} | " + " | ".join(f"{mean:.1f}{told}" for mean, told in zip(means, better, strict=True)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", nargs="+", required=True, metavar="NAME=PATH")
    parser.add_argument("--samples", type=int, default=6, help="of each kind")
    parser.add_argument("--seed", type=int, default=79)
    parser.add_argument("--jobs", type=int, default=1, help="samples at once, a thread each")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    paths = dict(word.split("=", 1) for word in arguments.weights)
    asked = [(kind, number) for kind in KINDS for number in range(arguments.samples)]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(row, repeat(arguments.out), *zip(*asked, strict=True), repeat(paths), repeat(arguments.seed)))
    print(table({kind: [r for r, (of, _) in zip(rows, asked, strict=True) if of == kind] for kind in KINDS}))


if __name__ == "__main__":
    main()
