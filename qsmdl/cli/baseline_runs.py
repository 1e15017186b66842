"""What `qsmdl baselines` does: one process after the other, then the scores and the page."""

import argparse
import multiprocessing
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress

from qsmdl.adaptation.fine import FineInterrupted
from qsmdl.challenge.baselines import Scored, Summary, Task, by_nrmse, run_task, score_task, summarise
from qsmdl.challenge.cases import read_case, write_builtin_release
from qsmdl.challenge.guard import admit
from qsmdl.challenge.protocol import Row
from qsmdl.challenge.release import ReleaseScan, check_truth, find_scans
from qsmdl.challenge.run import Scoring
from qsmdl.challenge.stages import content_of
from qsmdl.challenge.truth import read_truth
from qsmdl.cli.build import methods_from_command_line, methods_with_weights
from qsmdl.cli.catalogue import check_method
from qsmdl.cli.progress import StepLine, console, stage
from qsmdl.errors import InputError
from qsmdl.io.files import write_text
from qsmdl.methods import Method
from qsmdl.report.baselines import baselines_page
from qsmdl.report.table import write_csv, write_rows
from qsmdl.scan import Truth

N_ORIENTATIONS = 5
_SEVERAL = "several orientations"
PAGE = "baselines.md"


def _methods(arguments: argparse.Namespace) -> list[Method]:
    for name in [*(arguments.methods or []), *arguments.without, *arguments.again]:
        check_method(name)
    names = [name for name in arguments.methods or methods_with_weights() if name not in arguments.without]
    return methods_from_command_line({name: name for name in names}, getattr(arguments, "set"))  # noqa: B009 - the option's name is a builtin's


def _builtin(arguments: argparse.Namespace, folder: str, n_orientations: int) -> list[ReleaseScan]:
    size, snr = arguments.voxel_size, arguments.peak_snr
    with stage(f"Built-in pair of seed {arguments.seed} at {size:g} mm, {n_orientations} orientation{'s' if n_orientations > 1 else ''}"):
        root = arguments.output / folder
        write_builtin_release(root, stage=1, voxel_size_mm=size, peak_snr=snr, n_orientations=n_orientations, seed=arguments.seed)
    return find_scans(root)


def _tasks(arguments: argparse.Namespace, methods: Sequence[Method]) -> list[Task]:
    """Scan by scan. Of the built-in pair, only methods that want several orientations read them: the memory of the others is their own."""
    tasks = []
    for several in (False, True):
        chosen = [method for method in methods if (method.about.input == _SEVERAL) == several]
        if not chosen:
            continue
        if arguments.scans is not None:
            scans = find_scans(arguments.scans)
        else:
            scans = _builtin(arguments, "orientations" if several else "release", N_ORIENTATIONS if several else 1)
        for scan in scans:
            content = content_of(read_case(scan))
            tasks += [Task(arguments.output, scan, method, content, arguments.seed, arguments.device) for method in chosen]
    return tasks


def _work(task: Task) -> None:
    """What the process of a task does."""
    line = StepLine()
    with suppress(KeyboardInterrupt, FineInterrupted):  # the parent says what there is to say
        run_task(task, lambda step, value: line(task.method.name, task.scan.name, step, value))
    line.clear()


def _run(task: Task, minutes: float) -> None:
    """A task in a process of its own, with a bound on its time."""
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(task,))
    process.start()
    try:
        process.join(60 * minutes)
        if process.is_alive():
            task.fail(f"longer than {minutes:g} min (--minutes)")
            process.terminate()
        elif process.exitcode != 0:
            task.fail(f"its process ended with status {process.exitcode}: out of memory?")
    finally:
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


def _run_all(tasks: Sequence[Task], again: Sequence[str], minutes: float) -> None:
    for number, task in enumerate(tasks, 1):
        words = f"  {number} of {len(tasks)}: {task.method.name} on {task.scan.name}"
        if task.method.name not in again and task.find() is not None:
            console.print(f"{words}: already there", highlight=False)
            continue
        task.failure_path.unlink(missing_ok=True)
        _run(task, minutes)
        stored = task.find()
        ended = f"failed: {task.failure}" if stored is None else f"{stored.row['seconds']:.1f} s, {stored.row['stopped']}"
        console.print(f"{words}: {ended}", highlight=False, markup=False)


def _truths(scans: Sequence[ReleaseScan]) -> dict[str, Truth]:
    truths = {}
    for scan in scans:
        if scan.has_truth:
            truths[scan.name] = read_truth(scan.folder)
            check_truth(scan, truths[scan.name])
    return truths


def _summaries(tasks: Sequence[Task], methods: Sequence[Method], allow_unattested: bool) -> tuple[list[Summary], list[Row], dict[str, str]]:
    """Means of the methods that have a map of every scan, the rows of all maps, and why the others have none."""
    admission = admit(methods, allow_unattested=allow_unattested)
    truths = _truths(list({task.scan.name: task.scan for task in tasks}.values()))
    admission.check_truths(truths)
    results: dict[str, list[Scored]] = {}
    failures: dict[str, str] = {}
    for task in tasks:
        stored, name = task.find(), task.method.name
        if stored is None or task.failure is not None:
            failures.setdefault(name, f"{task.failure or 'not run'} (on {task.scan.name})")
        else:
            truth = truths.get(task.scan.name)
            results.setdefault(name, []).append(score_task(task, stored, truth, admission.attested.get(name), Scoring()))
    rows = [result.row for found in results.values() for result in found]
    complete = [summarise(method, results[method.name]) for method in methods if method.name in results and method.name not in failures]
    return sorted(complete, key=by_nrmse), rows, failures


def _command(arguments: argparse.Namespace) -> str:
    """The command as one would type it; folders by their last name, since paths belong to one machine."""
    words = ["qsmdl", "baselines", "-o", arguments.output.name]
    for name in ("methods", "without", "set"):
        given = getattr(arguments, name)
        words += [f"--{name}", *given] if given else []
    if arguments.scans is not None:
        words += ["--scans", arguments.scans.name]
    else:
        words += ["--voxel-size", f"{arguments.voxel_size:g}", "--peak-snr", f"{arguments.peak_snr:g}"]
    return shlex.join([*words, "--seed", str(arguments.seed)] + (["--device", arguments.device] if arguments.device != "cpu" else []))


def _data(arguments: argparse.Namespace, scans: Sequence[ReleaseScan]) -> str:
    names = " and ".join(scan.name for scan in scans)
    if arguments.scans is not None:
        return f"Scans: {names} of {arguments.scans.name}."
    return (
        f"Scans: the built-in held-out head of seed {arguments.seed} as {names}, {arguments.voxel_size:g} mm, peak SNR {arguments.peak_snr:g}, four "
        "echoes at 7 T, as stage 1 of the challenge."
    )


def run_baselines(arguments: argparse.Namespace) -> None:
    """Run everything that is not there yet, then score, and write rows and the page."""
    if not 0 < arguments.minutes < float("inf"):
        raise InputError(f"--minutes is {arguments.minutes}; it must be positive.")
    methods = _methods(arguments)
    if not methods:
        raise InputError("No method is left. Change --methods or --without.")
    admit(methods, allow_unattested=arguments.allow_unattested)
    tasks = _tasks(arguments, methods)
    scans = list({task.scan.name: task.scan for task in tasks}.values())
    with stage(f"Reconstructing {', '.join(scan.name for scan in scans)} with {len(methods)} methods"):
        _run_all(tasks, arguments.again, arguments.minutes)
    with stage("Scoring" if any(scan.has_truth for scan in scans) else "Collecting"):
        summaries, rows, failures = _summaries(tasks, methods, arguments.allow_unattested)
    write_rows(rows, arguments.output / "rows.json", overwrite=True)
    write_csv(rows, arguments.output / "rows.csv", overwrite=True)
    names, command = [scan.name for scan in scans], _command(arguments)
    page = baselines_page(summaries, failures, scans=names, command=command, data=_data(arguments, scans))
    for path in (arguments.output / PAGE, *([arguments.page] if arguments.page else [])):
        write_text(path, page, overwrite=True)
    sys.stdout.write(page)
    console.print(f"Maps, rows and table: {arguments.output}", highlight=False)
