"""python evaluate.py stage=1 and stage=2: the challenge's protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qsmdl.challenge.cases import read_case, write_builtin_release
from qsmdl.challenge.choosing import TrialReport, TuningSettings, check_search_spaces, choose, levels, settings_by_scan, to_plain
from qsmdl.challenge.guard import admit
from qsmdl.challenge.kept_truth import keep_truth
from qsmdl.challenge.protocol import Row, average_rows
from qsmdl.challenge.record import LOCK, Record, alone
from qsmdl.challenge.release import ReleaseScan, find_scans
from qsmdl.challenge.run import Scoring
from qsmdl.challenge.stages import Events, Plan, Sealed, check_scans, prepare, reconstruct_all, score_all
from qsmdl.cli.build import build_methods, plain
from qsmdl.cli.progress import StepLine, console, stage
from qsmdl.errors import InputError
from qsmdl.report.choice import plot_choice
from qsmdl.report.curves import plot_curves
from qsmdl.report.figures import montage
from qsmdl.report.table import print_tables, write_csv, write_rows
from qsmdl.scan import Truth
from qsmdl.validation import check_settings

RELEASE = "release"
"""The folder in a run's folder that the built-in phantoms are written to."""


def check_stage(value: Any) -> int | None:
    """The config's `stage`: None, 1 or 2."""
    if value not in (None, 1, 2) or isinstance(value, bool):
        raise InputError(f"stage is {value!r}; it must be 1 or 2, the stages of the challenge, or null to compare methods without its protocol.")
    return None if value is None else int(value)


def _scans(data: DictConfig, folder: Path, number: int, seed: int) -> list[ReleaseScan]:
    """The scans of a release; the built-in phantoms are written as one first."""
    if OmegaConf.is_missing(data, "root"):
        raise InputError("data.root is not given. Name the folder of the release, as in data.root=RELEASE.")
    root, names = data.get("root"), data.get("scans")
    if root is not None:
        return find_scans(root, names=names, stage=number)
    settings = {key: data[key] for key in ("n_pairs", "voxel_size_mm", "peak_snr", "n_orientations")}
    check_settings("data", write_builtin_release, settings)
    with stage(f"Simulating the built-in phantoms of stage {number}"):
        written = write_builtin_release(folder / RELEASE, stage=number, seed=seed, **settings)
    # a call with other settings, refused since, may have left scans of its own there
    return find_scans(folder / RELEASE, names=written if names is None else names, stage=number)


def make_plan(config: DictConfig, folder: Path) -> Plan:
    """What a config asks for."""
    number, seed = check_stage(config.stage), int(config.seed)
    if number is None:
        raise InputError("stage is null; it must be 1 or 2 here.")
    data = config.data
    settings: dict[str, Any] = {key: plain(data[key]) for key in ("field", "gamma_mhz_per_tesla") if key in data}
    check_settings("data", read_case, settings)
    settings["field_source"] = settings.pop("field")
    methods = build_methods(config.method, config.get("search"))
    check_settings("evaluate", Scoring, {"dialect": config.dialect, "additional": config.additional})
    scoring = Scoring(config.dialect, config.additional)
    stage1 = None if config.stage1 is None else Path(config.stage1)
    admission = admit(methods, allow_unattested=config.get("allow_unattested", False))
    judged: dict[str, Any] = {"attested": admission.attested, "check_truths": admission.check_truths}
    scans = _scans(data, folder, number, seed)
    return Plan(number, folder, scans, methods, seed=seed, scoring=scoring, stage1=stage1, **judged, **settings)


def _say_trial(report: TrialReport) -> None:
    trial = report.trial
    settings = ", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in trial.settings.items())
    ended = f"NRMSE {trial.value:.2f}" if trial.value is not None else f"failed ({trial.error})"
    best = "" if report.best is None else f", best {report.best:.2f}"
    console.print(
        f"  {report.method}, {report.level}: trial {trial.number} of {report.n_trials}: {ended}{best}; {settings}; {trial.seconds:.1f} s, "
        f"about {report.seconds_left / 60:.1f} min left"
    )


def _chosen(plan: Plan, config: DictConfig, contents: Mapping[str, str], line: StepLine) -> tuple[Mapping[Any, Any], list[dict[str, Any]]]:
    """Stage 2's settings by (method, scan), and what is told about their choice."""
    tuning = TuningSettings(**plain(config.tuning))

    def on_trial(report: TrialReport) -> None:
        line.clear()
        _say_trial(report)

    with stage(f"Tuning against the truth, {tuning.n_trials} trials for every method and noise level"):
        tuned = choose(plan, plain(config.search), tuning, contents, on_trial=on_trial, on_step=line)
    return settings_by_scan(plan, tuned, tuning.per_snr), to_plain(tuned)


def _fixed(plan: Plan, config: DictConfig) -> dict[str, Any]:
    """What of stage 2 must not change when the run is called again; checked here, before anything is computed."""
    if plan.stage == 1:
        return {}
    search, tuning = plain(config.search), plain(config.tuning)
    check_settings("tuning", TuningSettings, tuning)
    levels(plan.scans, TuningSettings(**tuning).per_snr)
    check_search_spaces(plan, search)
    return {"tuning": tuning, "search": {method.name: search[method.name] for method in plan.methods if method.name in search}}


def evaluate_stage(config: DictConfig, folder: Path) -> list[Row]:
    """One stage into a folder, going on where it was killed: protocol.json, maps/, rows.json, rows.csv, montages, curves; studies.db for stage 2."""
    plan, line = make_plan(config, folder), StepLine()
    fixed = _fixed(plan, config)
    with stage(f"Checking {', '.join(scan.name for scan in plan.scans)}"):
        contents = check_scans(plan)
    record = prepare(plan, contents, **fixed)
    with alone(folder / LOCK):
        record.begin()
        return _run(plan, config, contents, record, line)


def _run(plan: Plan, config: DictConfig, contents: Mapping[str, str], record: Record, line: StepLine) -> list[Row]:
    chosen: Mapping[Any, Any] = {}
    if plan.stage == 2:
        chosen, told = _chosen(plan, config, contents, line)
        record.write("reconstructing", tuned=told)

    def on_map(row: Row, reused: bool) -> None:
        line.clear()
        console.print(f"  {row['method']} on {row['scan']}: " + ("already there" if reused else f"{row['seconds']:.1f} s, {row['stopped']}"))

    with stage(f"Reconstructing with {', '.join(method.name for method in plan.methods)}"):
        sealed = reconstruct_all(plan, contents, chosen, record, Events(line, on_map))
    known = [scan.name for scan in plan.scans if scan.has_truth]
    with stage(f"Every map is written: opening the truths of {', '.join(known)}" if known else "Every map is written; no scan has a truth"):
        rows, truths = score_all(plan, sealed, record)
    _report(plan, sealed, rows, truths)
    console.print(f"Protocol, rows, maps and montages: {plan.folder}")
    return rows


def _report(plan: Plan, sealed: Sealed, rows: Sequence[Row], truths: Mapping[str, Truth]) -> None:
    write_rows(rows, plan.folder / "rows.json", overwrite=True)
    write_csv(rows, plan.folder / "rows.csv", overwrite=True)
    for scan in plan.scans:
        _draw(plan, sealed, scan, truths.get(scan.name))
    print_tables(rows)
    by_level: dict[str, list[Row]] = {}
    for row in rows:
        level = next(scan.level for scan in plan.scans if scan.name == row["scan"])
        by_level.setdefault(level or "", []).append(row)
    for level_rows in by_level.values():
        means = average_rows(level_rows)
        if len(by_level) > 1 and means:
            print_tables(means)


def _draw(plan: Plan, sealed: Sealed, scan: ReleaseScan, truth: Truth | None) -> None:
    case = plan.read(scan)
    geometry = case.field.geometry
    arrays = {method.name: sealed.store.read(scan.name, method.name).numpy() for method in plan.methods}
    chi = None if truth is None else truth.chi_ppm.numpy()
    path = plan.folder / f"montage_{scan.name}.png"
    # the title of an error is its NRMSE, which belongs to the mask that was scored in
    mask = case.field.mask if truth is None else truth.mask
    montage(path, arrays, mask=mask.numpy(), voxel_size_mm=geometry.voxel_size_mm, truth=chi, affine=geometry.affine, overwrite=True)
    keep_truth(plan.folder, replace(case, truth=truth))
    curves = {name: sealed.maps[scan.name, name].curve for name in arrays if len(sealed.maps[scan.name, name].curve) > 1}
    if curves:
        plot_curves(plan.folder / f"curves_{scan.name}.png", curves, overwrite=True)
    for name in arrays:
        choice = sealed.maps[scan.name, name].choice
        if choice is not None:
            plot_choice(plan.folder / f"choice_{scan.name}_{name}.png", choice, f"{name} on {scan.name}", overwrite=True)
