"""qsmdl reconstruct: the susceptibility map of one scan."""

import argparse
import dataclasses
import logging
import time
from pathlib import Path

import torch

from qsmdl import __version__
from qsmdl.adaptation.fine import FineInterrupted
from qsmdl.challenge.cases import field_of
from qsmdl.challenge.run import Case, run_method
from qsmdl.cli.build import method_from_command_line
from qsmdl.cli.progress import console, timed_lines
from qsmdl.errors import InputError
from qsmdl.io.field import read_field
from qsmdl.io.files import write_json
from qsmdl.io.layouts import header_source, layout_of, read_orientations, read_scan
from qsmdl.io.nifti import SUFFIXES, write_volume
from qsmdl.io.qsm_ci import has_field_only, read_local_field
from qsmdl.methods import Method
from qsmdl.physics.phase_offset import find_phase_offset, size_of_phase_offset, take_off_phase_offset
from qsmdl.report.choice import plot_choice
from qsmdl.report.table import ended_text
from qsmdl.scan import Scan

logger = logging.getLogger(__name__)
_DOUBTED_RAD = 0.05
"""1.3 ppb of a field at 7 T and the echo times of the challenge (own choice)."""


def _case(arguments: argparse.Namespace) -> Case:
    if arguments.scan is None:
        field = read_field(
            arguments.field,
            arguments.units,
            arguments.mask,
            b0_tesla=arguments.b0,
            b0_direction=tuple(arguments.b0_direction),
            echo_time_s=arguments.echo_time,
            weight_path=arguments.weight,
            gamma_mhz_per_tesla=arguments.gamma,
        )
        return Case(field.name, field, header_source=arguments.field)
    if layout_of(arguments.scan) == "qsm-ci" and has_field_only(arguments.scan):
        if arguments.remove_offset:
            raise InputError(f"{arguments.scan} holds a field map and no echoes, which alone tell a phase at TE = 0. Leave --remove-offset away.")
        field = read_local_field(arguments.scan)
        return Case(field.name, field, header_source=header_source(arguments.scan))
    scan = read_scan(arguments.scan, gamma_mhz_per_tesla=arguments.gamma)
    console.print(f"{scan.name}: {scan.geometry}, echo times {', '.join(f'{1000 * t:g}' for t in scan.echo_times_s)} ms")
    others = read_orientations(arguments.scan, gamma_mhz_per_tesla=arguments.gamma)
    if arguments.remove_offset:
        scan, *others = (take_off_phase_offset(each, find_phase_offset(each)) for each in (scan, *others))
    field = field_of(scan, "frequency" if arguments.use_frequency else "fit")
    return Case(scan.name, field, scan, header_source=header_source(arguments.scan), orientations=tuple(field_of(other) for other in others))


def doubts_of_offset(scan: Scan) -> tuple[str, ...]:
    """One sentence where the echoes share a phase at TE = 0 of more than 0.05 rad, which a fit without an offset takes for a field; or none."""
    size = size_of_phase_offset(scan)
    if size <= _DOUBTED_RAD:
        return ()
    return (f"the echoes share a phase of {size:.2f} rad at TE = 0, which is taken for a field; take it off with --remove-offset",)


def _doubts_of_phases(case: Case, arguments: argparse.Namespace) -> tuple[str, ...]:
    if case.scan is None or arguments.use_frequency or arguments.remove_offset:
        return ()
    doubts = doubts_of_offset(case.scan)
    for doubt in doubts:
        logger.warning("%s: %s.", case.name, doubt)
    return doubts


def _method(arguments: argparse.Namespace) -> Method:
    settings = list(arguments.settings)
    if arguments.checkpoint is not None:
        if not arguments.checkpoint.exists():
            raise InputError(f"--checkpoint {arguments.checkpoint} does not exist.")
        settings.append(f"checkpoint='{arguments.checkpoint}'")
    method = method_from_command_line(arguments.method, settings)
    _ = method.weights_path  # weights that do not come with qsmdl are told before a scan is read
    return method


@dataclasses.dataclass(frozen=True)
class _Outputs:
    """The map, its uncertainty, its JSON, the picture of how a setting was chosen, and where an interrupted FINE leaves its state."""

    chi: Path
    uncertainty: Path
    sidecar: Path
    choice: Path
    state: Path


def _outputs(arguments: argparse.Namespace, method: Method) -> _Outputs:
    """Checked before any work is done."""
    source = arguments.scan.resolve().name if arguments.scan is not None else arguments.field.name.split(".")[0]
    path = arguments.output or Path(f"{source}_{arguments.method}.nii.gz")
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path} ends neither in .nii nor in .nii.gz. Change the name given with -o.")
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    uncertainty = path.with_name(f"{stem}_uncertainty{path.name.removeprefix(stem)}")
    outputs = _Outputs(path, uncertainty, *(path.with_name(f"{stem}{end}") for end in (".json", "_choice.png", ".fine_state.safetensors")))
    further = {outputs.choice: method.steps.select is not None, outputs.uncertainty: bool(method.settings.get("uncertainty"))}
    for target in (outputs.chi, outputs.sidecar, *(path for path, wanted in further.items() if wanted)):
        if target.exists() and not arguments.overwrite:
            raise InputError(f"{target} exists. Choose another name with -o, or pass --overwrite.")
    return outputs


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name} cannot be used here: {error}. cpu always can.") from error
    return device


def reconstruct(arguments: argparse.Namespace) -> None:
    """Reconstruct one scan; writes the map with the header of the input, and beside it a JSON that tells how it was made."""
    begun = time.monotonic()
    method, device = _method(arguments), _device(arguments.device)
    outputs = _outputs(arguments, method)
    case = _case(arguments)
    doubts = _doubts_of_phases(case, arguments)
    if outputs.state.exists() and "state_path" in method.accepts:
        console.print(f"Going on from {outputs.state}")
    line, on_step = timed_lines(method.name, case.name)
    try:
        chi, row = run_method(method, case.to(device), seed=arguments.seed, on_step=on_step, state_path=outputs.state)
    except FineInterrupted:
        line.clear()
        raise
    line.clear()
    choice = chi.outcome.choice
    told = {
        "method": method.name,
        "settings": method.settings,
        "scan": case.name,
        "units": "ppm",
        "reference": "none: the k = 0 component of the dipole inversion is undefined, and values are as the method left them",
        "b0_tesla": case.field.geometry.b0_tesla,
        "b0_direction": list(case.field.geometry.b0_direction),
        "gamma_mhz_per_tesla": arguments.gamma,
        "field": "frequency" if arguments.use_frequency else ("file" if case.scan is None else "fit of all echoes"),
        "n_steps": chi.outcome.n_steps,
        "stopped": row["stopped"],
        "residual": chi.outcome.residual,
        "curve": list(chi.outcome.curve),
        "method_seconds": round(row["seconds"], 3),
        "peak_bytes": row["peak_bytes"],
        "uncertainty": None if chi.uncertainty_ppm is None else outputs.uncertainty.name,
        "phase_offset_removed": arguments.remove_offset,
        "doubts": [*doubts, *chi.outcome.doubts],
        "chosen": None if choice is None else dataclasses.asdict(choice),
        "seed": arguments.seed,
        "qsmdl_version": __version__,
    }
    write_volume(outputs.chi, chi.chi_ppm, like=case.header_source, overwrite=arguments.overwrite)
    if chi.uncertainty_ppm is not None:
        write_volume(outputs.uncertainty, chi.uncertainty_ppm, like=case.header_source, overwrite=arguments.overwrite)
    write_json(outputs.sidecar, told, overwrite=arguments.overwrite)
    if choice is not None:
        plot_choice(outputs.choice, choice, f"{method.name} on {case.name}", overwrite=arguments.overwrite)
    console.print(f"{outputs.chi}: {method.name}, {ended_text(row)}, {time.monotonic() - begun:.1f} s in all", highlight=False)
