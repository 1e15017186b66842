"""What the correction of strong sources does to the flagship (one pass) and to total variation, on development heads with a calcification.

    python benchmarks/strong_sources.py OUT                     # heads 1, 3, 5 and 7 at SNR 30, 100 and 1000: the table of docs/flagship.md
    python benchmarks/strong_sources.py OUT --distrust 0.0125 0.025 0.05 0.1 --phantoms 6

Ten minutes of one thread a scan at 1 mm; goes on where it ended. Heads are those of benchmarks/ladder.py.
"""

import argparse
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import torch
from ladder import classical_end, final_solve, no_correction, read_options, score, table
from torch import Tensor

from qsmdl import poststeps
from qsmdl.challenge.cases import field_of
from qsmdl.challenge.heldout import held_out_head
from qsmdl.challenge.maps import file_digest
from qsmdl.data.inputs import paste, prepare_inputs, ringing_of
from qsmdl.data.recipe import render_phantom, scan_phantom
from qsmdl.io.files import read_json, write_json
from qsmdl.methods import load_network
from qsmdl.methods.weights import shipped_weights
from qsmdl.scan import Scan
from qsmdl.solvers.strong_sources import strong_source_correction


def variants(distrusts: list[float]) -> Iterator[tuple[str, Callable[..., Tensor]]]:
    yield "as it is", no_correction
    if not distrusts:
        yield "corrected", strong_source_correction
    for value in distrusts:
        yield f"distrust {1000 * value:g} ppb", functools.partial(strong_source_correction, distrust_ppm=value)


def maps_of(scan: Scan, weights: Path, distrusts: list[float]) -> Iterator[tuple[str, Tensor, float]]:
    """Name, map and seconds of its end."""
    network, prior, _ = load_network(weights, "flagship")
    field, fed, _ = prior.corrected(field_of(scan), scan)
    inputs = prepare_inputs(field, prior, fed)
    ringing = ringing_of(inputs, prior, field)
    if ringing is None:
        raise SystemExit(f"{weights} was not trained on a start without ringing")
    start, own = paste(inputs.prior_ppm[:, :1], inputs, field), paste(network(*inputs.arguments), inputs, field)
    for name, given, end in (("total variation", start, classical_end), ("flagship", own, final_solve)):
        for variant, correction in variants(distrusts):
            begun = time.perf_counter()
            with patch.object(poststeps, "strong_source_correction", correction):
                found = end(given, field, ringing)[0]
            yield f"{name}, {variant}", found, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="the shipped flagship by default")
    parser.add_argument("--distrust", type=float, nargs="+", default=[], help="in ppm; by default as the pipeline has it")
    arguments = read_options(parser, phantoms=8, snr=[30.0, 100.0, 1000.0])
    weights = arguments.weights or shipped_weights("flagship")
    made_from = {"weights": file_digest(weights), "distrust": arguments.distrust, "seed": arguments.seed, "voxel_size": arguments.voxel_size}
    rows = []
    for number in range(1, arguments.phantoms, 2):  # the others have no calcification
        head = held_out_head(number, seed=arguments.seed, voxel_size_mm=arguments.voxel_size)
        for snr in arguments.snr:
            path = arguments.out / f"{head.at(snr).name}.json"
            note = read_json(path) if path.exists() else {}
            if note.get("made_from") != made_from:
                scan, truth = scan_phantom(head.recipe, head.at(snr), render_phantom(head.recipe, head.params))
                with torch.no_grad():
                    made = maps_of(scan, weights, arguments.distrust)
                    told = [{"method": m, "phantom": number, "snr": snr, "seconds": s, "metrics": score(c, truth)} for m, c, s in made]
                note = {"made_from": made_from, "rows": told}
                write_json(path, note, overwrite=True)
            rows += note["rows"]
            print(head.at(snr).name, {r["method"]: round(r["metrics"]["DeviationFromCalcMoment"], 1) for r in note["rows"]}, flush=True)
    for snr in arguments.snr:
        print(f"\nSNR {snr:g}\n\n{table([r for r in rows if r['snr'] == snr])}")


if __name__ == "__main__":
    main()
