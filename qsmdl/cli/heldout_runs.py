"""What `qsmdl heldout` does: phantom by phantom, each rendered once and scanned at every SNR, then the comparison."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from qsmdl.adaptation.fine import FineInterrupted
from qsmdl.challenge.cases import field_of
from qsmdl.challenge.code import code_digest
from qsmdl.challenge.guard import Admission, admit
from qsmdl.challenge.heldout import HeldOutHead, check_snrs, held_out_head
from qsmdl.challenge.heldout_results import Results, gather
from qsmdl.challenge.heldout_rows import ROWS, UNRUNG, HeldOutRow, HeldOutTask, base_of, describe_with_files, run_task
from qsmdl.challenge.run import Case, Solved
from qsmdl.cli.build import methods_from_command_line
from qsmdl.cli.catalogue import check_method
from qsmdl.cli.progress import StepLine, console, stage
from qsmdl.data.recipe import render_phantom, scan_phantom
from qsmdl.errors import InputError
from qsmdl.io.files import write_text
from qsmdl.methods import Method
from qsmdl.report.heldout import FIGURE, heldout_page
from qsmdl.report.heldout_figure import heldout_figure
from qsmdl.report.style import save_figure
from qsmdl.report.table import write_rows
from qsmdl.scan import Phantom, Truth

PAGE = "heldout.md"
_SEVERAL = "several orientations"
Failures = dict[str, str]


def _names(words: Sequence[str]) -> dict[str, str]:
    """What each method is called -> the method it is."""
    names: dict[str, str] = {}
    for word in words:
        label, equals, name = word.partition("=")
        name = name if equals else label
        check_method(name)
        if not label.isidentifier():
            raise InputError(f"--methods {word}: {label!r} names no method; letters, digits and underscores do. Change the label.")
        if label in names:
            raise InputError(f"--methods names {label} twice. Call one otherwise, as in LABEL={name}.")
        names[label] = name
    return names


def _methods(arguments: argparse.Namespace) -> list[Method]:
    names = _names(arguments.methods)
    methods = methods_from_command_line(names, getattr(arguments, "set"))  # noqa: B009 - the option's name is a builtin's
    several = [method.name for method in methods if method.about.input == _SEVERAL]
    if several:
        raise InputError(f"{several[0]} wants several orientations of a head; the study has one. Leave it out.")
    unknown = [name for name in arguments.again if name not in names]
    if unknown:
        raise InputError(f"--again {unknown[0]} is not among --methods {', '.join(names)}. Add it there.")
    return methods


def _candidate(arguments: argparse.Namespace, methods: Sequence[Method]) -> str:
    name: str = arguments.candidate or methods[0].name
    chosen = [method for method in methods if method.name == base_of(name)]
    if not chosen:
        raise InputError(f"--candidate {name} is not among --methods {', '.join(method.name for method in methods)}. Add it there.")
    if name.endswith(UNRUNG) and chosen[0].steps.unring:
        raise InputError(f"--candidate {name}: {base_of(name)} removes ringing itself. Name it without {UNRUNG}.")
    return name


def _heads(arguments: argparse.Namespace) -> list[HeldOutHead]:
    if arguments.phantoms < 1:
        raise InputError(f"--phantoms is {arguments.phantoms}; a study needs at least one. The criterion asks for 20.")
    strange = [number for number in arguments.only or () if not 0 <= number < arguments.phantoms]
    if strange:
        raise InputError(f"--only {strange[0]} is not among the {arguments.phantoms} phantoms, which are counted from 0. Raise --phantoms.")
    return [held_out_head(number, seed=arguments.seed, voxel_size_mm=arguments.voxel_size) for number in range(arguments.phantoms)]


def _tasks(arguments: argparse.Namespace, heads: Sequence[HeldOutHead], snrs: Sequence[float], methods: Sequence[Method]) -> list[HeldOutTask]:
    described = [(method, describe_with_files(method)) for method in methods]
    seed, out, code = arguments.seed, arguments.out, code_digest()
    return [HeldOutTask(out, head, snr, method, told, seed, code) for head in heads for snr in snrs for method, told in described]


class _Study:
    """The tasks of a study on the device of its methods, and what of them failed in this call: method -> why."""

    def __init__(self, tasks: Sequence[HeldOutTask], again: Sequence[str], device: str, admission: Admission) -> None:
        self.device, self.admission = device, admission
        self.failures: Failures = {}
        for task in tasks:
            if task.method.name in again:
                task.path.unlink(missing_ok=True)
        # Every file is looked at before anything is computed: one of other settings is refused at once.
        self.missing = [task for task in tasks if task.find() is None]
        self.n_tasks, self.n_done = len(tasks), len(tasks) - len(self.missing)

    def run(self, only: Sequence[int] | None) -> None:
        """Run what is missing, phantom by phantom, of all or of some, in their order."""
        if self.n_done:
            console.print(f"  {self.n_done} of {self.n_tasks} are there", highlight=False)
        missing = dict.fromkeys(task.head.number for task in self.missing)
        for number in missing if only is None else [number for number in only if number in missing]:
            self._run_head([task for task in self.missing if task.head.number == number])

    def _run_head(self, tasks: Sequence[HeldOutTask]) -> None:
        head = tasks[0].head
        with stage(f"Phantom {head.number}: {_in_words(head)}"):
            phantom = render_phantom(head.recipe, head.params)
        for snr in dict.fromkeys(task.peak_snr for task in tasks):
            self._run_scan(head, snr, phantom, [task for task in tasks if task.peak_snr == snr])

    def _run_scan(self, head: HeldOutHead, snr: float, phantom: Phantom, tasks: Sequence[HeldOutTask]) -> None:
        scan, truth = scan_phantom(head.recipe, head.at(snr), phantom)
        self.admission.check_truths({scan.name: truth})
        case = Case(scan.name, field_of(scan), scan).to(self.device)
        solved: dict[str, Solved] = {}
        for task in tasks:
            told = self._run_task(task, case, truth, solved)
            self.n_done += 1
            console.print(f"  {self.n_done} of {self.n_tasks}: {task.method.name} on {task.scan}: {told}", highlight=False, markup=False)

    def _run_task(self, task: HeldOutTask, case: Case, truth: Truth, solved: dict[str, Solved]) -> str:
        name, line = task.method.name, StepLine()
        try:
            attested = self.admission.attested.get(name)
            rows = run_task(task, case, truth, attested=attested, solved=solved, on_step=lambda step, value: line(name, task.scan, step, value))
        except FineInterrupted:  # not a failure: its state is saved
            raise
        except Exception as error:  # noqa: BLE001 - whatever a method does wrong, the others are still wanted
            first = (str(error).splitlines() or ["no reason given"])[0]
            self.failures[name] = f"{first if isinstance(error, InputError) else f'{type(error).__name__}: {first}'} (on {task.scan})"
            return f"failed: {first}"
        finally:
            line.clear()
        task.keep(rows)
        nrmse = ", ".join("undefined" if (value := row["metrics"]["rmse"]) is None else f"{value:.1f}" for row in rows)
        return f"{rows[0]['seconds']:.1f} s, {rows[0]['stopped']}, NRMSE {nrmse}"


def _in_words(head: HeldOutHead) -> str:
    size = " x ".join(f"{v:.3g}" for v in head.params.voxel_size_mm)
    return ", ".join([head.params.name, f"{size} mm", *head.traits])


def _data(arguments: argparse.Namespace, heads: Sequence[HeldOutHead], snrs: Sequence[float]) -> str:
    counts = {trait: sum(trait in head.traits for head in heads) for trait in ("anisotropic", "oblique")}
    plain = sum(not head.traits for head in heads)
    return (
        f"{len(heads)} held-out heads of the stream 'test', seed {arguments.seed}, in turn Sim1 and Sim2, {arguments.voxel_size:g} mm, four echoes "
        f"at 7 T, peak SNR {', '.join(f'{snr:g}' for snr in snrs)}. {counts['anisotropic']} have voxels 1.5 to 2 times as long along z, "
        f"{counts['oblique']} B0 at 10 to 30 degrees from z, {plain} neither."
    )


def _command(arguments: argparse.Namespace, snrs: Sequence[float]) -> str:
    """The command as one would type it; the folder by its last name, since paths belong to one machine."""
    words = ["qsmdl", "heldout", arguments.out.name, "--methods", *arguments.methods]
    words += ["--candidate", arguments.candidate] if arguments.candidate else []
    given = getattr(arguments, "set")  # noqa: B009 - the option's name is a builtin's
    words += ["--set", *given] if given else []
    words += ["--phantoms", str(arguments.phantoms), "--snr", *(f"{snr:g}" for snr in snrs)]
    words += ["--voxel-size", f"{arguments.voxel_size:g}", "--seed", str(arguments.seed)]
    return shlex.join(words + (["--allow-unattested"] if arguments.allow_unattested else []))


def _write(results: Results, rows: Sequence[HeldOutRow], page: str, folder: Path) -> None:
    write_rows(rows, folder / "rows.json", overwrite=True)
    if results.has_candidate and results.best_classical("rmse") is not None:
        save_figure(heldout_figure(results), folder, FIGURE, overwrite=True)
    write_text(folder / PAGE, page, overwrite=True)
    sys.stdout.write(page)
    console.print(f"Rows, page and figure: {folder}", highlight=False)


def run_heldout(arguments: argparse.Namespace) -> None:
    """Run everything that is not there yet, then compare, and write rows, page and figure."""
    methods, snrs, heads = _methods(arguments), check_snrs(arguments.snr), _heads(arguments)
    candidate = _candidate(arguments, methods)
    admission = admit(methods, allow_unattested=arguments.allow_unattested)
    tasks = _tasks(arguments, heads, snrs, methods)
    study = _Study(tasks, arguments.again, arguments.device, admission)
    with stage(f"{len(arguments.only or heads)} held-out phantoms at {len(snrs)} SNRs with {len(methods)} methods"):
        study.run(arguments.only)
    if arguments.only:
        for name, why in study.failures.items():
            console.print(f"  {name} failed: {why}", highlight=False, markup=False)
        console.print(f"Rows: {arguments.out / ROWS}. The same command without --only compares.", highlight=False)
        return
    rows = [row for task in tasks for row in task.find() or ()]
    numbers = [head.number for head in heads]
    results = gather(rows, candidate=candidate, phantoms=numbers, peak_snrs=snrs, voxel_size_mm=arguments.voxel_size, failures=study.failures)
    page = heldout_page(results, command=_command(arguments, snrs), data=_data(arguments, heads, snrs))
    _write(results, rows, page, arguments.out)
