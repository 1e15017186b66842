"""What taking off the phase of the crop is worth (docs/crop-phase.md), on development heads: total variation and the flagship's network, one pass.

    python benchmarks/crop_phase.py OUT --phantoms 2 --snr 30 100 1000 --voxel-size 1.25      # goes on where an earlier call ended

"field known" is the bound: the scan's field in place of which stands that of the cropped susceptibility, with noise. Heads are the development heads of
`ladder.py`.
"""

import argparse
import dataclasses
import json
import math
from typing import Any

import torch
from ladder import METRICS, classical_end, final_solve, read_options, score, table
from torch import Tensor

from qsmdl.adaptation.ensemble import run_ensemble, views_of
from qsmdl.challenge.cases import field_of
from qsmdl.challenge.heldout import held_out_head
from qsmdl.data.inputs import NetworkInputs, Prior, paste, prepare_inputs, ringing_of
from qsmdl.data.recipe import render_phantom, scan_phantom
from qsmdl.data.symmetry import parse_symmetries
from qsmdl.io.files import read_json, write_json
from qsmdl.methods import load_network
from qsmdl.phantom.scanning.acquire import make_truth
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import FieldMap, Scan, Truth
from qsmdl.solvers.crop_phase import without_crop_phase
from qsmdl.units import rad_per_ppm


def known(field: FieldMap, scan: Scan, crop_ppm: Tensor) -> tuple[FieldMap, Scan]:
    """Field and scan with the field of the cropped truth, and white noise of the field's standard deviation."""
    assert field.noise_ppm is not None
    noise = field.noise_ppm * torch.randn(field.field_ppm.shape, generator=torch.Generator().manual_seed(3))
    less = field.field_ppm - (Dipole.of(field.geometry, 2.0)(crop_ppm) + noise) * field.mask
    turns = torch.tensor([rad_per_ppm(scan.geometry.b0_tesla, t) for t in scan.echo_times_s])[:, None, None, None]
    phase = torch.remainder(scan.phase_rad - turns * less + math.pi, 2 * math.pi) - math.pi
    return dataclasses.replace(field, field_ppm=field.field_ppm - less), dataclasses.replace(scan, phase_rad=phase)


def rows_of(scan: Scan, truth: Truth, crop_ppm: Tensor, network: torch.nn.Module, prior: Prior) -> list[dict[str, Any]]:
    field = field_of(scan)
    corrected = without_crop_phase(field, scan)
    assert not corrected.doubts, corrected.doubts
    variants = {"as it is": (field, scan), "corrected": (corrected.field, corrected.scan), "field known": known(field, scan, crop_ppm)}
    rows: list[dict[str, Any]] = []
    before: tuple[Tensor, Tensor | None] | None = None
    expected = Dipole.of(field.geometry, 2.0)(crop_ppm)
    for name, (values, of_scan) in variants.items():
        inputs: NetworkInputs = prepare_inputs(values, prior, of_scan)
        start, ringing = paste(inputs.prior_ppm[:, :1], inputs, values), ringing_of(inputs, prior, values)
        assert ringing is not None
        chi = paste(run_ensemble([network], views_of(inputs, parse_symmetries(("identity",)))).mean_ppm, inputs, values)
        maps = {"total variation": classical_end(start, values, ringing)[0], "network": final_solve(chi, values, ringing)[0]}
        if before is None:
            before = chi, ringing
        elif name == "corrected":
            maps["network as it is, end"] = final_solve(before[0], values, before[1])[0]
        off = 1e3 * float((values.field_ppm - expected)[values.mask].square().mean().sqrt())
        rows += [{"method": f"{method}, {name}", "seconds": 0.0, "off_ppb": off, "metrics": score(found, truth)} for method, found in maps.items()]
    return rows


def main() -> None:
    arguments = read_options(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter), phantoms=2, snr=[1000.0])
    network, prior, _ = load_network(None, "flagship")
    for snr in arguments.snr:
        rows = []
        for number in range(arguments.phantoms):
            head = held_out_head(number, seed=arguments.seed, voxel_size_mm=arguments.voxel_size)
            path = arguments.out / f"{head.at(snr).name}.json"
            if not path.exists():
                phantom = render_phantom(head.recipe, head.params)
                scan, truth = scan_phantom(head.recipe, head.at(snr), phantom)
                crop = make_truth(phantom, scan.geometry, scan.mask, "crop").chi_ppm
                with torch.no_grad():
                    write_json(path, {"rows": rows_of(scan, truth, crop, network, prior)})
            rows += read_json(path)["rows"]
            print(path.stem, [(r["method"], round(r["off_ppb"], 2), *(r["metrics"][k] and round(r["metrics"][k], 1) for k in METRICS)) for r in rows[-7:]])
        print(f"SNR {snr:g}\n{table(rows)}", flush=True)
        (arguments.out / f"rows_{snr:g}.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
