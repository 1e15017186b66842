"""What a trained unrolled network owes to each thing it is fed: the same weights with one of them taken away, on development heads.

    python benchmarks/ablations.py OUT                                   # the shipped weights; prints the tables of docs/flagship.md
    python benchmarks/ablations.py OUT --weights RUN/weights.safetensors --phantoms 4 --snr 100 1000

Two tables: of the network's own map, and of that map as `flagship` ends. Nothing is trained anew: a network that had never seen the thing might
make up for it (benchmarks/arms.sh). Heads and start are those of benchmarks/ladder.py.
"""

import argparse
import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from ladder import differences, final_solve, read_options, score, table
from torch import Tensor

from qsmdl.adaptation.ensemble import run_ensemble, views_of
from qsmdl.challenge.cases import field_of
from qsmdl.challenge.heldout import held_out_head
from qsmdl.data.inputs import NetworkInputs, paste, prepare_inputs, ringing_of
from qsmdl.data.recipe import render_phantom, scan_phantom
from qsmdl.data.symmetry import parse_symmetries
from qsmdl.methods import load_network
from qsmdl.methods.ensembles import SYMMETRIES
from qsmdl.networks.data_term import DataTerm
from qsmdl.networks.unrolled import Unrolled

ALL = "all of it"


def without_data(unrolled: Unrolled) -> contextlib.AbstractContextManager[Any]:
    """The misfit has no weight anywhere, so gradient and residual are 0 in all steps."""
    known: Callable[..., DataTerm] = unrolled.data_term

    def blind(*arguments: Any) -> DataTerm:
        term = known(*arguments)
        return dataclasses.replace(term, squared_weight=torch.zeros_like(term.squared_weight))

    return patch.multiple(unrolled, data_term=blind)


def variants(network: Any, inputs: NetworkInputs) -> Iterator[tuple[str, Tensor]]:
    """Names and maps on the inputs' box."""
    unrolled: Unrolled = network.network
    yield ALL, network(*inputs.arguments)
    with patch.multiple(unrolled, misfit="field"):
        yield "data term of the field map, not of the echoes", network(*inputs.arguments)
    flat = dataclasses.replace(inputs, weight=inputs.mask.to(inputs.weight))
    yield "no weights", network(*flat.arguments)
    yield "no magnitude", network(*dataclasses.replace(inputs, magnitude=None).arguments)
    with without_data(unrolled):
        yield "no data term", network(*inputs.arguments)
    with patch.multiple(unrolled, final_cg=unrolled.n_cg):
        yield "data consistency inside the network (final_cg)", network(*inputs.arguments)
    for n_steps in range(1, unrolled.n_steps):
        with patch.multiple(unrolled, n_steps=n_steps):
            yield f"stopped after step {n_steps} of {len(unrolled.proximal)}", network(*inputs.arguments)
    for n_members in (2, len(SYMMETRIES)):
        found = run_ensemble([network], views_of(inputs, parse_symmetries(SYMMETRIES[:n_members])))
        yield f"mean over {', '.join(SYMMETRIES[:n_members])}", found.mean_ppm


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    network, prior, _ = load_network(arguments.weights, "flagship")
    if not isinstance(network.network, Unrolled):
        raise SystemExit("the weights are not of an unrolled network")
    rows = []
    for number in range(arguments.phantoms):
        head = held_out_head(number, seed=arguments.seed, voxel_size_mm=arguments.voxel_size)
        phantom = render_phantom(head.recipe, head.params)
        for snr in arguments.snr:
            scan, truth = scan_phantom(head.recipe, head.at(snr), phantom)
            field, fed, _ = prior.corrected(field_of(scan), scan)
            inputs = prepare_inputs(field, prior, fed)
            ringing = ringing_of(inputs, prior, field)
            begun = time.perf_counter()
            for name, chi in variants(network, inputs):
                own = paste(chi, inputs, field)
                alone = time.perf_counter() - begun
                ended = final_solve(own, field, ringing)[0]
                whole = time.perf_counter() - begun
                for end, found, seconds in (("alone", own, alone), ("final solve", ended, whole)):
                    metrics = score(found, truth)
                    rows.append({"method": name, "end": end, "phantom": number, "snr": snr, "seconds": seconds, "metrics": metrics})
                    print(head.at(snr).name, name, end, metrics["rmse"], flush=True)
                begun = time.perf_counter()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="the shipped flagship by default")
    arguments = read_options(parser, phantoms=2, snr=[100.0])
    with torch.no_grad():
        rows = run(arguments)
    for end in dict.fromkeys(r["end"] for r in rows):
        own = [r for r in rows if r["end"] == end]
        print(f"\n{end}\n\n{table(own)}")
        if arguments.phantoms > 1:
            print(differences(own, ALL))
    (arguments.out / "ablations.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
