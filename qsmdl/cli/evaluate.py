"""python evaluate.py: methods times scans, scored, drawn and tabulated."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from qsmdl.challenge.guard import admit
from qsmdl.challenge.kept_truth import keep_truth
from qsmdl.challenge.protocol import Row
from qsmdl.challenge.run import Case, Scoring, run_all
from qsmdl.cli.build import as_override, build_methods, call
from qsmdl.cli.catalogue import config_folder, method_files
from qsmdl.cli.errors import reported
from qsmdl.cli.progress import StepLine, console, stage
from qsmdl.cli.stages import check_stage, evaluate_stage
from qsmdl.io.nifti import write_volume
from qsmdl.methods import Method
from qsmdl.report.choice import plot_choice
from qsmdl.report.curves import plot_curves
from qsmdl.report.figures import montage
from qsmdl.report.table import print_tables, write_csv, write_rows
from qsmdl.scan import ChiMap


def compare(
    methods: list[Method],
    cases: list[Case],
    folder: Path,
    *,
    seed: int,
    scoring: Scoring | None = None,
    attested: Mapping[str, bool] | None = None,
) -> list[Row]:
    """Run every method on every case and write into `folder`: maps/SCAN_METHOD.nii.gz, rows.json, rows.csv, montage_SCAN.png, the curves of the
    iterative methods, choice_SCAN_METHOD.png where a setting was chosen, and truth/SCAN (for reports); print the tables.
    """
    maps: dict[str, dict[str, ChiMap]] = {}
    rows: list[Row] = []
    line = StepLine()

    def keep(chi: ChiMap, row: Row, case: Case) -> None:
        line.clear()
        name = f"{case.name}_{row['method']}.nii.gz"
        geometry = chi.geometry
        write_volume(folder / "maps" / name, chi.chi_ppm, affine=geometry.affine, voxel_size_mm=geometry.voxel_size_mm, like=case.header_source)
        maps.setdefault(case.name, {})[row["method"]] = chi
        rows.append(row)
        write_rows(rows, folder / "rows.json", overwrite=True)
        nrmse = row["metrics"].get("rmse")
        console.print(
            f"  {row['method']} on {case.name}: {row['seconds']:.1f} s, {row['stopped']}" + ("" if nrmse is None else f", NRMSE {nrmse:.1f}")
        )

    run_all(methods, cases, seed=seed, on_step=line, on_row=keep, state_folder=folder, scoring=scoring, attested=attested)
    write_csv(rows, folder / "rows.csv")
    for case in cases:
        _draw(case, maps[case.name], folder)
        keep_truth(folder, case)
    print_tables(rows)
    return rows


def _draw(case: Case, maps: dict[str, ChiMap], folder: Path) -> None:
    truth = None if case.truth is None else case.truth.chi_ppm.numpy()
    geometry = case.field.geometry
    arrays = {name: chi.chi_ppm.numpy() for name, chi in maps.items()}
    path = folder / f"montage_{case.name}.png"
    montage(path, arrays, mask=case.field.mask.numpy(), voxel_size_mm=geometry.voxel_size_mm, truth=truth, affine=geometry.affine)
    curves = {name: chi.outcome.curve for name, chi in maps.items() if len(chi.outcome.curve) > 1}
    if curves:
        plot_curves(folder / f"curves_{case.name}.png", curves)
    for name, chi in maps.items():
        if chi.outcome.choice is not None:
            plot_choice(folder / f"choice_{case.name}_{name}.png", chi.outcome.choice, f"{name} on {case.name}")


def evaluate(config: DictConfig, folder: Path) -> list[Row]:
    """One evaluation into a folder, by the challenge's protocol where the config names a stage."""
    if check_stage(config.get("stage")) is not None:
        return evaluate_stage(config, folder)
    scoring = Scoring(config.get("dialect", "rc2"), config.get("additional", False))
    methods = build_methods(config.method, config.get("search"))
    admission = admit(methods, allow_unattested=config.get("allow_unattested", False))
    with stage("Preparing the scans"):
        cases = call("data", config.data, seed=config.seed)
    admission.check_truths({case.name: case.truth for case in cases if case.truth is not None})
    with stage(f"Reconstructing {', '.join(c.name for c in cases)} with {', '.join(m.name for m in methods)}"):
        rows = compare(methods, cases, folder, seed=config.seed, scoring=scoring, attested=admission.attested)
    console.print(f"Rows, maps and montages: {folder}")
    return rows


def as_overrides(words: Sequence[str]) -> list[str]:
    """Command-line words with the two options that other commands spell with dashes turned into the overrides that Hydra knows: --allow-unattested
    and --dialect NAME (or --dialect=NAME), and what `build.as_override` knows.
    """
    rest, translated = iter(words), []
    for word in rest:
        if word == "--allow-unattested":
            translated.append("allow_unattested=true")
        elif word == "--dialect":
            translated.append(f"dialect={next(rest, '')}")
        elif word.startswith("--dialect="):
            translated.append(word.removeprefix("--"))
        else:
            translated.append(as_override(word))
    return translated


@hydra.main(version_base=None, config_path=os.fspath(config_folder()), config_name="evaluate")
def _run(config: DictConfig) -> Any:
    with reported():
        return evaluate(config, Path(HydraConfig.get().runtime.output_dir)) and None


def main() -> None:
    """Entry point of evaluate.py."""
    with reported():
        method_files()
        sys.argv[1:] = as_overrides(sys.argv[1:])
    _run()
