"""python evaluate.py: methods times scans, scored, drawn and tabulated."""

import os
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from qsmdl.challenge.protocol import Row
from qsmdl.challenge.run import Case, run_all
from qsmdl.cli.build import build_methods, call, config_folder
from qsmdl.cli.errors import reported
from qsmdl.cli.progress import StepLine, console, stage
from qsmdl.io.nifti import write_volume
from qsmdl.methods import Method
from qsmdl.report.curves import plot_curves
from qsmdl.report.figures import montage
from qsmdl.report.table import print_tables, write_csv, write_rows
from qsmdl.scan import ChiMap


def compare(methods: list[Method], cases: list[Case], folder: Path, *, seed: int) -> list[Row]:
    """Run every method on every case and write into `folder`: maps/SCAN_METHOD.nii.gz, rows.json, rows.csv, montage_SCAN.png, and the curves of the
    iterative methods; print the tables.
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

    run_all(methods, cases, seed=seed, on_step=line, on_row=keep, state_folder=folder)
    write_csv(rows, folder / "rows.csv")
    for case in cases:
        _draw(case, maps[case.name], folder)
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


def evaluate(config: DictConfig, folder: Path) -> list[Row]:
    """One evaluation into a folder."""
    methods = build_methods(config.method)
    with stage("Preparing the scans"):
        cases = call("data", config.data, seed=config.seed)
    with stage(f"Reconstructing {', '.join(c.name for c in cases)} with {', '.join(m.name for m in methods)}"):
        rows = compare(methods, cases, folder, seed=config.seed)
    console.print(f"Rows, maps and montages: {folder}")
    return rows


@hydra.main(version_base=None, config_path=os.fspath(config_folder()), config_name="evaluate")
def main(config: DictConfig) -> Any:
    """Entry point of evaluate.py."""
    with reported():
        return evaluate(config, Path(HydraConfig.get().runtime.output_dir)) and None
