"""What a phase at TE = 0 costs a map, and what taking it off gives back: total variation on heads of the engine, as a table (docs/layouts.md).

    python benchmarks/phase_offset.py --heads 5
"""

import argparse

import torch
from failures import of_engine
from generators import nrmse

from qsmdl.challenge.cases import field_of
from qsmdl.cli.build import method_from_command_line
from qsmdl.data.recipe import render_volume
from qsmdl.physics.phase_offset import find_phase_offset, take_off_phase_offset

HEADS = "phantom.engine.kinds={head: 1.0, shapes: 0.0, texture: 0.0, label_map: 0.0}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=5)
    parser.add_argument("--seed", type=int, default=79)
    parser.add_argument("--method", default="nltv")
    parser.add_argument("--set", nargs="*", default=["unring=true"], metavar="KEY=VALUE", help="of the method")
    arguments = parser.parse_args()
    method = method_from_command_line(arguments.method, arguments.set)
    print("| phase at TE = 0, rad | as scanned | taken off | scanned without it |\n|---|---|---|---|")
    for number in range(arguments.heads):
        scan, truth = render_volume(*of_engine(arguments.seed + number, HEADS, "acquisition.engine.effects.offset.probability=1"))
        without, _ = render_volume(*of_engine(arguments.seed + number, HEADS))
        offset = find_phase_offset(scan)
        with torch.no_grad():
            maps = [method(field_of(s), s) for s in (scan, take_off_phase_offset(scan, offset), without)]
        size = float(offset[scan.mask].square().mean().sqrt())
        print(f"| {size:.2f} | " + " | ".join(f"{nrmse(chi.chi_ppm, truth.chi_ppm, truth.mask):.1f}" for chi in maps) + " |", flush=True)


if __name__ == "__main__":
    main()
