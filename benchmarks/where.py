"""Where in k-space the errors of total variation and of the network are: by distance from the cone and by spatial frequency.

    python benchmarks/where.py OUT                                       # two heads at 1.25 mm, SNR 100 and 1000; docs/flagship.md, entry 7
    python benchmarks/where.py OUT --weights RUN/weights.safetensors

Squared errors over the squared truth, both without their means, in units of 1e-4: they sum to NRMSE^2.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path

import torch
from ladder import final_solve, read_options
from torch import Tensor

from qsmdl.challenge.cases import field_of
from qsmdl.challenge.heldout import held_out_head
from qsmdl.data.inputs import paste, prepare_inputs, ringing_of
from qsmdl.data.recipe import render_phantom, scan_phantom
from qsmdl.methods import load_network
from qsmdl.scan import FieldMap, Truth

KERNEL = (0.0, 0.1, 0.2, 1.0)
FREQUENCY = (0.0, 0.06, 0.12, 0.25, 0.5, 0.75, 1.0, 2.0)
"""Of the highest along the longest edge."""


def spectrum(chi_ppm: Tensor, truth: Truth, field: FieldMap) -> list[list[float]]:
    """Rows by |D|, columns by |k|."""
    geometry = field.geometry
    axes = [torch.fft.fftfreq(n, d=size) for n, size in zip(geometry.shape, geometry.voxel_size_mm, strict=True)]
    k = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    squared = k.square().sum(0)
    along = torch.einsum("cxyz,c->xyz", k, torch.tensor(geometry.b0_direction))
    dipole = (1 / 3 - along.square() / squared.clamp(min=1e-12)).abs()
    length = squared.sqrt() * 2 * max(geometry.voxel_size_mm)
    error, size = (torch.where(field.mask, v - v[field.mask].mean(), 0.0) for v in (chi_ppm - truth.chi_ppm, truth.chi_ppm))
    power = torch.fft.fftn(error).abs().square() / torch.fft.fftn(size).abs().square().sum() * 1e4
    return [
        [float(power[(dipole >= a) & (dipole < b) & (length >= c) & (length < d)].sum()) for c, d in pairwise(FREQUENCY)]
        for a, b in pairwise(KERNEL)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="the shipped flagship by default")
    arguments = read_options(parser, phantoms=2, snr=[100.0, 1000.0], voxel_size=1.25)
    network, prior, _ = load_network(arguments.weights, "flagship")
    told = []
    columns = " | ".join(f"{a:g} to {b:g}" for a, b in pairwise(FREQUENCY))
    print(f"| scan | map | abs(D) | {columns} | sum |\n|" + "---|" * (len(FREQUENCY) + 3))
    for number in range(arguments.phantoms):
        head = held_out_head(number, seed=arguments.seed, voxel_size_mm=arguments.voxel_size)
        phantom = render_phantom(head.recipe, head.params)
        for snr in arguments.snr:
            scan, truth = scan_phantom(head.recipe, head.at(snr), phantom)
            with torch.no_grad():
                field, fed, _ = prior.corrected(field_of(scan), scan)
                inputs = prepare_inputs(field, prior, fed)
                maps = {"fed": paste(inputs.prior_ppm[:, :1], inputs, field), "network": paste(network(*inputs.arguments), inputs, field)}
                maps["final solve"] = final_solve(maps["network"], field, ringing_of(inputs, prior, field))[0]
            for name, chi in maps.items():
                rows = spectrum(chi, truth, field)
                told.append({"scan": head.at(snr).name, "map": name, "error": rows})
                for low, high, row in zip(KERNEL, KERNEL[1:], rows, strict=False):
                    cells = " | ".join(f"{v:.1f}" for v in row)
                    print(f"| {head.at(snr).name} | {name} | {low:g} to {high:g} | {cells} | {sum(row):.0f} |", flush=True)
    (arguments.out / "where.json").write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
