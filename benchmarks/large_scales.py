"""What the correction of the large scales does to total variation without ringing, and to the network, and when it is to be believed.

    python benchmarks/large_scales.py OUT            # 18 scans at 1.25 mm; prints the table of docs/large-scales.md

For each scan: NRMSE of the map before, after the correction whether it is believed or not, and the share of the smooth misfit that it leaves.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from failures import VOXEL_MM, Case, cases, of_engine
from generators import nrmse

from qsmdl.challenge.cases import field_of
from qsmdl.challenge.heldout import held_out_head
from qsmdl.data.inputs import paste, prepare_inputs, ringing_of
from qsmdl.data.recipe import render_volume
from qsmdl.methods import load_network
from qsmdl.solvers import large_scales

HEADS = "phantom.engine.kinds={head: 1.0, shapes: 0.0, texture: 0.0, label_map: 0.0}"


def all_cases(seed: int) -> Iterator[Case]:
    for number, snr in ((0, 30.0), (0, 100.0), (0, 1000.0), (1, 30.0), (1, 100.0), (1, 1000.0)):
        head = held_out_head(number, seed=77, voxel_size_mm=VOXEL_MM)
        yield Case(f"development head {number}, SNR {snr:g}", head.recipe, head.at(snr))
    yield from (case for case in cases(seed) if case.name not in ("as trained: 7 T, SNR 100", "one echo, 20 ms", "no magnitude, no echoes"))
    for depth in (1.0, 2.0, 3.0):
        eroded = ("acquisition.engine.effects.erosion.probability=1", f"acquisition.engine.effects.erosion.depth_mm=[{depth},{depth}]")
        yield Case(f"mask {depth:g} mm too small", *of_engine(seed, HEADS, *eroded))


def measure(case: Case, weights: Path | None) -> dict[str, Any]:
    network, prior, _ = load_network(weights, "flagship")
    scan, truth = render_volume(case.recipe, case.params)
    field = field_of(scan)
    with torch.no_grad(), patch.object(large_scales, "MOST_UNEXPLAINED", float("inf")):
        uncorrected = prepare_inputs(field, dataclasses.replace(prior, large_scales=False), scan)
        inputs = prepare_inputs(field, prior, scan) if prior.large_scales else uncorrected
        maps = {"start": paste(uncorrected.prior_ppm[:, :1], uncorrected, field), "network": paste(network(*inputs.arguments), inputs, field)}
        ringing = ringing_of(inputs, prior, field)
        row: dict[str, Any] = {"scan": case.name}
        for name, chi in maps.items():
            found = large_scales.explain_large_scales(chi, field, ringing_ppm=ringing)
            errors = [nrmse(v, truth.chi_ppm, truth.mask) for v in (chi, found.chi_ppm)]
            row[name] = {"before": errors[0], "after": errors[1], "unexplained": found.unexplained}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, help="the shipped flagship by default")
    parser.add_argument("--seed", type=int, default=78)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    print("| scan | start | corrected | unexplained | network | corrected | unexplained |\n|" + "---|" * 7)
    for case in all_cases(arguments.seed):
        rows.append(measure(case, arguments.weights))
        cells = [f"{r['before']:.1f} | {r['after']:.1f} | {100 * r['unexplained']:.1f} %" for r in (rows[-1]["start"], rows[-1]["network"])]
        print(f"| {case.name} | {' | '.join(cells)} |", flush=True)
    (arguments.out / "large_scales.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
