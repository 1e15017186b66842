"""How large errors are where the flagship's maps disagree between symmetries: its calibration on development heads.

    python benchmarks/uncertainty.py OUT                                 # the shipped weights; prints the table of docs/adaptation.md
    python benchmarks/uncertainty.py OUT --weights RUN/weights.safetensors --phantoms 4 --snr 100 1000

Heads are those of benchmarks/ladder.py, from a seed that the verdict does not use.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from ladder import final_solve, read_options
from torch import Tensor

from qsmdl.adaptation.ensemble import run_ensemble, views_of
from qsmdl.challenge.calibration import calibrate
from qsmdl.challenge.cases import field_of
from qsmdl.challenge.heldout import held_out_head
from qsmdl.data.inputs import paste, prepare_inputs, ringing_of
from qsmdl.data.recipe import render_volume
from qsmdl.data.symmetry import parse_symmetries
from qsmdl.io.files import atomic_path
from qsmdl.methods import load_network
from qsmdl.methods.ensembles import SYMMETRIES
from qsmdl.report.calibration import calibration_markdown


def maps(arguments: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Error of the finished map without its mean, predicted standard deviation and mask of every scan."""
    network, prior, _ = load_network(arguments.weights, "flagship")
    for number in range(arguments.phantoms):
        head = held_out_head(number, seed=arguments.seed, voxel_size_mm=arguments.voxel_size)
        for snr in arguments.snr:
            scan, truth = render_volume(head.recipe, head.at(snr))
            field, fed, _ = prior.corrected(field_of(scan), scan)
            inputs = prepare_inputs(field, prior, fed)
            found = run_ensemble([network], views_of(inputs, parse_symmetries(SYMMETRIES)))
            assert found.std_ppm is not None
            error = final_solve(paste(found.mean_ppm, inputs, field), field, ringing_of(inputs, prior, field))[0] - truth.chi_ppm
            yield error - error[truth.mask].mean(), paste(found.std_ppm, inputs, field), truth.mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="the shipped flagship by default")
    arguments = read_options(parser, phantoms=2, snr=[100.0])
    with torch.no_grad():
        text = calibration_markdown(calibrate(maps(arguments)))
    with atomic_path(arguments.out / "uncertainty.md", True) as hidden:
        hidden.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
