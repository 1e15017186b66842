"""Rungs of the flagship's ladder on development heads: networks on one start, which is computed once, alone and averaged over symmetries.

    python benchmarks/ladder.py OUT --weights refiner=RUN/weights.safetensors unrolled=RUN2/weights.safetensors
    python benchmarks/ladder.py OUT --weights ... --phantoms 8 --snr 30 100 1000      # goes on where an earlier call ended
    python benchmarks/ladder.py OUT --weights ... --one-pass                          # alone and with the final solve, not averaged

All networks must be fed the same start (data.prior). Heads are those of `qsmdl heldout` with a seed of their own: never judge on them what was
chosen on them. Prints the tables of docs/flagship.md.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qsmdl.adaptation.ensemble import run_ensemble, views_of
from qsmdl.challenge.cases import field_of
from qsmdl.challenge.heldout import held_out_head
from qsmdl.challenge.maps import file_digest
from qsmdl.challenge.paired import compare_paired
from qsmdl.challenge.rc2 import official
from qsmdl.challenge.volumes import as_volumes
from qsmdl.data.inputs import Prior, paste, prepare_inputs, ringing_of
from qsmdl.data.recipe import render_phantom, scan_phantom
from qsmdl.data.symmetry import parse_symmetries
from qsmdl.io.files import read_json, write_json
from qsmdl.methods import load_network
from qsmdl.methods.ensembles import SYMMETRIES
from qsmdl.poststeps import PostSteps, consistent, run_with_steps
from qsmdl.scan import ChiMap, FieldMap, Outcome, Truth
from qsmdl.solvers.large_scales import explain_large_scales

METRICS = {
    "rmse": "NRMSE",
    "rmse_detrend_Tissue": "Tissue",
    "rmse_detrend_Blood": "Blood",
    "rmse_detrend_DGM": "DeepGM",
    "DeviationFromLinearSlope": "Slope",
    "CalcStreak": "Streak",
    "DeviationFromCalcMoment": "Moment",
}
FINE = ("DeviationFromLinearSlope", "CalcStreak")
Scores = dict[str, float | None]


def final_solve(chi_ppm: Tensor, field: FieldMap, ringing_ppm: Tensor | None) -> tuple[Tensor, tuple[str, ...]]:
    """A network's map [x, y, z] as `flagship` ends, and its doubts."""
    found = consistent(ChiMap(field.geometry, chi_ppm, field.mask, Outcome(1, "one pass", 0.0)), field, ringing_ppm)
    return found.chi_ppm, found.outcome.doubts


def classical_end(start_ppm: Tensor, field: FieldMap, ringing_ppm: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Total variation that has lost its ringing as it ends with every step of `PostSteps` after the inversion, and its doubts."""
    raw = ChiMap(field.geometry, start_ppm + ringing_ppm, field.mask, Outcome(1, "start", 0.0))
    steps = PostSteps(unring=True, strong_sources=True, large_scales=True, fine_scales=True, structures=True)
    found = run_with_steps(lambda: raw, field, steps, "", None)
    return found.chi_ppm, found.outcome.doubts


def no_correction(chi_ppm: Tensor, *_: Any, **__: Any) -> Tensor:
    """In the place of a correction [x, y, z] that is to be left out."""
    return torch.zeros_like(chi_ppm)


def score(chi_ppm: Tensor, truth: Truth) -> Scores:
    return dict(official(as_volumes(chi_ppm.numpy(), truth.chi_ppm.numpy(), truth.mask.numpy(), truth.labels.numpy())))


def shared_prior(networks: dict[str, Any]) -> Prior:
    """The start that all networks are fed, with magnitude and echoes where one of them asks for them. networks: of `load_network`, by name."""
    priors = [prior for _, prior, _ in networks.values()]
    if len({p.digest for p in priors}) != 1:
        raise SystemExit(f"the networks are fed different starts: {priors}")
    asked = {name: any(getattr(p, name) for p in priors) for name in ("magnitude", "echoes")}
    return dataclasses.replace(priors[0], **asked)


def maps_of(scan: Any, networks: dict[str, Any], *, one_pass: bool = False) -> Iterator[tuple[str, Tensor, float]]:
    """Name, map and seconds: the start with its ringing and without and as classical methods end, and every network alone, averaged, and as
    `flagship` ends; with one_pass alone and as `flagship` with `symmetries=[identity]` ends.
    """
    begun, prior = time.perf_counter(), shared_prior(networks)
    field, scan, _ = prior.corrected(field_of(scan), scan)
    inputs = prepare_inputs(field, prior, scan)
    seconds = time.perf_counter() - begun
    yield "start", paste(inputs.prior_ppm[:, :2].sum(1, keepdim=True), inputs, field), seconds
    start, ringing = paste(inputs.prior_ppm[:, :1], inputs, field), ringing_of(inputs, prior, field)
    yield "start without ringing", start, seconds
    if ringing is not None:
        begun = time.perf_counter()
        yield "start, final solve", classical_end(start, field, ringing)[0], seconds + time.perf_counter() - begun
    averages = {"": SYMMETRIES[:1]} if one_pass else {"": SYMMETRIES[:1], " x 4": SYMMETRIES}
    for name, (network, _, _) in networks.items():
        for suffix, symmetries in averages.items():
            begun = time.perf_counter()
            found = run_ensemble([network], views_of(inputs, parse_symmetries(symmetries)))
            label, chi, seconds = name + suffix, paste(found.mean_ppm, inputs, field), time.perf_counter() - begun
            yield label, chi, seconds
        if not one_pass:
            begun = time.perf_counter()
            yield f"{label}, large scales", explain_large_scales(chi, field, ringing_ppm=ringing).chi_ppm, seconds + time.perf_counter() - begun
        begun = time.perf_counter()
        yield f"{label}, final solve", final_solve(chi, field, ringing)[0], seconds + time.perf_counter() - begun


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    paths = dict(word.split("=", 1) for word in arguments.weights)
    networks = {name: load_network(path) for name, path in paths.items()}
    made_from = {"one_pass": arguments.one_pass} | {name: file_digest(Path(path)) for name, path in paths.items()}
    rows = []
    for number in range(arguments.phantoms):
        head = held_out_head(number, seed=arguments.seed, voxel_size_mm=arguments.voxel_size)
        phantom = None
        for snr in arguments.snr:
            path = arguments.out / f"{head.at(snr).name}.json"
            note = read_json(path) if path.exists() else {}
            if note.get("made_from") != made_from:
                phantom = phantom or render_phantom(head.recipe, head.params)
                scan, truth = scan_phantom(head.recipe, head.at(snr), phantom)
                maps = maps_of(scan, networks, one_pass=arguments.one_pass)
                told = [{"method": m, "phantom": number, "snr": snr, "seconds": s, "metrics": score(c, truth)} for m, c, s in maps]
                note = {"made_from": made_from, "rows": told}
                write_json(path, note, overwrite=True)
            rows += note["rows"]
            print(head.at(snr).name, {r["method"]: round(r["metrics"]["rmse"], 1) for r in note["rows"]}, flush=True)
    return rows


def mean_text(values: list[float], digits: int) -> str:
    return f"{statistics.fmean(values):.{digits}f}" if values else "-"


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| | " + " | ".join(METRICS.values()) + " | s |", "|" + "---|" * (len(METRICS) + 2)]
    for method in dict.fromkeys(r["method"] for r in rows):
        own = [r for r in rows if r["method"] == method]
        cells = [mean_text([v for r in own if (v := r["metrics"][key]) is not None], 3 if key in FINE else 1) for key in METRICS]
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {statistics.fmean(r['seconds'] for r in own):.1f} |")
    return "\n".join(lines)


def differences(rows: list[dict[str, Any]], against: str) -> str:
    """NRMSE against one of the rows, paired by phantom (its SNRs averaged first)."""

    def of(method: str) -> dict[int, float]:
        numbers = {r["phantom"] for r in rows}
        return {n: statistics.fmean(r["metrics"]["rmse"] for r in rows if r["method"] == method and r["phantom"] == n) for n in numbers}

    lines = []
    for method in dict.fromkeys(r["method"] for r in rows):
        if method != against:
            found = compare_paired(of(method), of(against))
            between = f"[{found.low:+.2f}, {found.high:+.2f}]"
            lines.append(f"{method} - {against}: {found.difference:+.2f} {between}, p {found.p:.3g}, lower on {found.wins} of {found.n}")
    return "\n".join(lines)


def read_options(parser: argparse.ArgumentParser, *, phantoms: int, snr: list[float], voxel_size: float = 1.0) -> argparse.Namespace:
    """The command line, with the development heads and the folder OUT, which is made."""
    parser.add_argument("out", type=Path)
    parser.add_argument("--phantoms", type=int, default=phantoms)
    parser.add_argument("--snr", nargs="+", type=float, default=snr)
    parser.add_argument("--voxel-size", type=float, default=voxel_size)
    parser.add_argument("--seed", type=int, default=77)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", required=True, metavar="NAME=PATH")
    parser.add_argument("--one-pass", action="store_true", help="every network alone and with the final solve, not averaged over symmetries")
    arguments = read_options(parser, phantoms=4, snr=[100.0, 1000.0])
    with torch.no_grad():
        rows = run(arguments)
    print(table(rows))
    print(differences(rows, "start without ringing"))
    (arguments.out / "rows.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
