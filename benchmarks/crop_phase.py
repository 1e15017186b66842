"""What taking off the phase of the crop is worth (docs/crop-phase.md), on development heads: total variation and the flagship's network, one pass.

    python benchmarks/crop_phase.py OUT --phantoms 2 --snr 30 100 1000 --voxel-size 1.25      # goes on where an earlier call ended

    python benchmarks/crop_phase.py OUT --picture docs/images/crop-phase.png --voxel-size 1.25   # of head 0 at SNR 1000, nothing else

"field known" is the bound: the field is that of the cropped susceptibility, with noise. Heads are the development heads of `ladder.py`.
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from ladder import classical_end, final_solve, read_options, score, table
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
from qsmdl.physics.box import mask_box
from qsmdl.physics.dipole import Dipole
from qsmdl.scan import LABELS, FieldMap, Scan, Truth
from qsmdl.solvers.crop_phase import take_off, without_crop_phase
from qsmdl.units import rad_per_ppm


def known(field: FieldMap, scan: Scan, crop_ppm: Tensor) -> tuple[FieldMap, Scan]:
    """Field and scan with the field of the cropped truth, and white noise of the field's standard deviation."""
    assert field.noise_ppm is not None
    noise = field.noise_ppm * torch.randn(field.field_ppm.shape, generator=torch.Generator().manual_seed(3))
    less = field.field_ppm - (Dipole.of(field.geometry, 2.0)(crop_ppm) + noise) * field.mask
    turns = torch.tensor([rad_per_ppm(scan.geometry.b0_tesla, t) for t in scan.echo_times_s])[:, None, None, None]
    return take_off(turns * less, field, scan)


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
        for method, found in maps.items():
            rows.append({"method": f"{method}, {name}", "seconds": 0.0, "off_ppb": off, "metrics": score(found, truth)})
    return rows


def picture(scan: Scan, truth: Truth, crop_ppm: Tensor, path: Path) -> None:
    """Through the dentate nuclei: truth, what the crop added to the field, what was found of it, what is left."""
    field = field_of(scan)
    corrected = without_crop_phase(field, scan).field
    off, left = ((v.field_ppm - Dipole.of(field.geometry, 2.0)(crop_ppm)) * field.mask * 1e3 for v in (field, corrected))
    level = int((truth.labels == LABELS["dentate_nucleus"]).nonzero().float().mean(0)[2].round())
    shown: list[tuple[str, Tensor, tuple[float, float]]] = [("truth, ppm", truth.chi_ppm, (-0.1, 0.15))]
    shown += [(name, values, (-4.0, 4.0)) for name, values in (("added by the crop, ppb", off), ("found", off - left), ("left", left))]
    columns, lines, _ = mask_box(scan.mask & (truth.labels == LABELS["dentate_nucleus"]), margin=30)
    figure, axes = plt.subplots(1, 4, figsize=(18, 4.6), layout="constrained")
    for ax, (title, values, (low, high)) in zip(axes, shown, strict=True):
        ax.imshow(values[columns, lines, level].T, origin="lower", cmap="gray", vmin=low, vmax=high)
        ax.set_title(title)
        ax.axis("off")
    figure.savefig(path, dpi=70)


def scan_of(number: int, snr: float, arguments: argparse.Namespace) -> tuple[Scan, Truth, Tensor]:
    """Scan, truth and cropped susceptibility, ringing as it does, of a development head."""
    head = held_out_head(number, seed=arguments.seed, voxel_size_mm=arguments.voxel_size)
    phantom = render_phantom(head.recipe, head.params)
    scan, truth = scan_phantom(head.recipe, head.at(snr), phantom)
    return scan, truth, make_truth(phantom, scan.geometry, scan.mask, "crop").chi_ppm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path)
    arguments = read_options(parser, phantoms=2, snr=[1000.0])
    if arguments.picture:
        picture(*scan_of(0, 1000.0, arguments), arguments.picture)
        return
    network, prior, _ = load_network(None, "flagship")
    for snr in arguments.snr:
        rows = []
        for number in range(arguments.phantoms):
            path = arguments.out / f"{number}_snr{snr:g}.json"
            if not path.exists():
                with torch.no_grad():
                    write_json(path, {"rows": rows_of(*scan_of(number, snr, arguments), network, prior)})
            own = read_json(path)["rows"]
            print(path.stem, {r["method"]: (round(r["metrics"]["rmse"], 1), round(r["off_ppb"], 2)) for r in own})
            rows += own
        print(f"SNR {snr:g}\n{table(rows)}", flush=True)


if __name__ == "__main__":
    main()
