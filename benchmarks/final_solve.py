"""What the corrections of large and fine scales and of structures do to total variation without ringing, and to the network, and when they are to be
believed.

    python benchmarks/final_solve.py OUT                      # 21 scans at 1.25 mm; prints the table of docs/final-solve.md; goes on where it ended
    python benchmarks/final_solve.py OUT --scans 0 3 17       # some of them, by number

For each scan: NRMSE of the map, with its large scales corrected, with its fine ones, too, and with its structures, whether that is believed or not,
and the share of the smooth field that is left unexplained. Strong sources are left as they are (benchmarks/strong_sources.py).
"""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from failures import VOXEL_MM, Case, cases, of_engine
from generators import nrmse
from ladder import classical_end, final_solve, no_correction

from qsmdl import poststeps
from qsmdl.challenge.cases import field_of
from qsmdl.challenge.heldout import held_out_head
from qsmdl.challenge.maps import file_digest
from qsmdl.data.inputs import paste, prepare_inputs, ringing_of
from qsmdl.data.recipe import render_volume
from qsmdl.io.files import read_json, write_json
from qsmdl.methods import load_network
from qsmdl.methods.weights import shipped_weights
from qsmdl.solvers import large_scales

HEADS = "phantom.engine.kinds={head: 1.0, shapes: 0.0, texture: 0.0, label_map: 0.0}"
COLUMNS = ("before", "large", "both", "structures")


def all_cases(seed: int) -> Iterator[Case]:
    for number, snr in ((0, 30.0), (0, 100.0), (0, 1000.0), (1, 30.0), (1, 100.0), (1, 1000.0)):
        head = held_out_head(number, seed=77, voxel_size_mm=VOXEL_MM)
        yield Case(f"development head {number}, SNR {snr:g}", head.recipe, head.at(snr))
    yield from cases(seed)
    for depth in (1.0, 2.0, 3.0):
        eroded = ("acquisition.engine.effects.erosion.probability=1", f"acquisition.engine.effects.erosion.depth_mm=[{depth},{depth}]")
        yield Case(f"mask {depth:g} mm too small", *of_engine(seed, HEADS, *eroded))


def measure(case: Case, weights: Path | None) -> dict[str, Any]:
    network, prior, _ = load_network(weights, "flagship")
    scan, truth = render_volume(case.recipe, case.params)
    field, known, _ = prior.corrected(field_of(scan), None if case.without_echoes else scan)
    row: dict[str, Any] = {"scan": case.name}
    with torch.no_grad():
        plain = dataclasses.replace(prior, large_scales=False, fine_scales=False)
        uncorrected = prepare_inputs(field, plain, known)
        start, ringing = paste(uncorrected.prior_ppm[:, :1], uncorrected, field), ringing_of(uncorrected, plain, field)
        inputs = prepare_inputs(field, prior, known)
        chi = paste(network(*inputs.arguments), inputs, field)
        with patch.object(large_scales, "MOST_UNEXPLAINED", float("inf")), patch.object(poststeps, "strong_source_correction", no_correction):
            made = (("start", start, ringing, classical_end), ("network", chi, ringing_of(inputs, prior, field), final_solve))
            for name, found, rings, end in made:
                smooth = large_scales.explain_large_scales(found, field, ringing_ppm=rings)
                with patch.object(poststeps, "structure_correction", no_correction):
                    both = end(found, field, rings)[0]
                maps = dict(zip(COLUMNS, (found, smooth.chi_ppm, both, end(found, field, rings)[0]), strict=True))
                row[name] = {key: nrmse(v, truth.chi_ppm, truth.mask) for key, v in maps.items()} | {"unexplained": smooth.unexplained}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, help="the shipped flagship by default")
    parser.add_argument("--seed", type=int, default=78)
    parser.add_argument("--scans", type=int, nargs="+", help="numbers; all by default")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    made_from = {"weights": file_digest(arguments.weights or shipped_weights("flagship")), "seed": arguments.seed}
    columns = " | ".join((*COLUMNS[1:], "unexplained"))
    print(f"| scan | start | {columns} | network | {columns} |\n|" + "---|" * 11)
    for number, case in enumerate(all_cases(arguments.seed)):
        if arguments.scans and number not in arguments.scans:
            continue
        path = arguments.out / f"scan_{number:02d}.json"
        note = read_json(path) if path.exists() else {}
        if note.get("made_from") != made_from:
            note = {"made_from": made_from, "row": measure(case, arguments.weights)}
            write_json(path, note, overwrite=True)
        kinds = (note["row"]["start"], note["row"]["network"])
        cells = [f"{' | '.join(f'{kind[c]:.1f}' for c in COLUMNS)} | {100 * kind['unexplained']:.2f} %" for kind in kinds]
        print(f"| {case.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
