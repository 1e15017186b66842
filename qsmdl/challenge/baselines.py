"""Every method on every scan into a folder that a later call goes on with: maps first, scores after, one failure never in the way of the others.

The maps and their notes are those of `maps.MapStore`. A map whose method, settings, scan or version changed is made again; everything else is kept.
What failed is noted in `failed/` and tried again. Scores are kept in `scores/`, those of the map as it is and of the same map without ringing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from qsmdl import __version__
from qsmdl.adaptation.fine import FineInterrupted
from qsmdl.challenge.cases import read_case
from qsmdl.challenge.maps import MapStore, StoredMap, file_digest, made_from
from qsmdl.challenge.metrics import Scores
from qsmdl.challenge.protocol import Row, mean_row
from qsmdl.challenge.release import ReleaseScan
from qsmdl.challenge.run import Scoring, digest_of, reconstruct, scored
from qsmdl.errors import InputError
from qsmdl.io.files import read_json, write_json
from qsmdl.io.rc2 import read_mask_and_geometry
from qsmdl.methods import Method
from qsmdl.physics.unring import unring
from qsmdl.scan import Truth

FAILED, SCORES = "failed", "scores"
FIELD_SETTINGS = {"field": "fit"}


@dataclass(frozen=True)
class Task:
    """One method on one scan. content: the scan's hash (`stages.content_of`); device: where it runs."""

    folder: Path
    scan: ReleaseScan
    method: Method
    content: str
    seed: int = 0
    device: str = "cpu"

    @property
    def name(self) -> str:
        """For messages and file names."""
        return f"{self.scan.name}_{self.method.name}"

    @property
    def made_from(self) -> dict[str, Any]:
        """Everything that determines the map."""
        return made_from(self.method, self.scan.name, self.content, seed=self.seed, field=FIELD_SETTINGS)

    @property
    def failure_path(self) -> Path:
        """Where a failure is noted."""
        return self.folder / FAILED / f"{self.name}.json"

    @property
    def state_path(self) -> Path:
        """Where an interrupted FINE leaves its state."""
        return self.folder / f"{self.name}.fine_state.safetensors"

    def find(self) -> StoredMap | None:
        """The map as an earlier call made it from the very same, or None."""
        try:
            return MapStore(self.folder).find(self.scan.name, self.method.name, self.made_from)
        except InputError:  # made from something else, or damaged
            return None

    def fail(self, reason: str) -> None:
        """Note why there is no map."""
        write_json(self.failure_path, {"made_from": self.made_from, "error": reason}, overwrite=True)

    @property
    def failure(self) -> str | None:
        """Why the last call made no map; None where it was not tried."""
        return str(read_json(self.failure_path).get("error")) if self.failure_path.exists() else None


def run_task(task: Task, on_step: Callable[[int, float], None] | None = None) -> None:
    """Make the map of a task and write it; what goes wrong is noted and not raised. Meant for a process of its own: the peak memory is then that of
    this method on this scan.

    Raises FineInterrupted for a fit that was stopped: its state is at `task.state_path`, and the next call goes on from it.
    """
    try:
        case = read_case(task.scan).to(task.device)
        chi, row = reconstruct(task.method, case, seed=task.seed, on_step=on_step, state_path=task.state_path)
        on_cpu = replace(chi, chi_ppm=chi.chi_ppm.cpu(), mask=chi.mask.cpu())
        MapStore(task.folder).keep(on_cpu, row, case, task.made_from)
    except FineInterrupted:  # no failure
        raise
    except Exception as error:  # noqa: BLE001 - whatever a method does wrong, the others are still wanted
        told = str(error).splitlines()[0] if str(error) else "no reason given"
        task.fail(told if isinstance(error, InputError) else f"{type(error).__name__}: {told}")
    else:
        task.failure_path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Scored:
    """A map with its row; metrics are empty for a blind scan. unrung: the metrics of the same map after `unring`, None where the method unrings
    already; setting: the parameter as it was used.
    """

    row: Row
    unrung: Scores | None
    n_steps: int
    setting: str


def _setting(task: Task, stored: StoredMap) -> str:
    if stored.choice is not None:
        return str(stored.choice)
    name, value = task.method.about.parameter, task.method.parameter_value
    if not name:
        return ""
    return f"{name} = {value:.3g}" if isinstance(value, int | float) else f"{name} = {value}"


def _unrung_scores(task: Task, chi_ppm: torch.Tensor, truth: Truth, row: Row, scoring: Scoring) -> Scores | None:
    if task.method.steps.unring or min(chi_ppm.shape) < 8:
        return None
    mask = read_mask_and_geometry(task.scan.folder)[0]  # the method's; the truth's may be eroded
    return scored(row, torch.where(mask, unring(chi_ppm), 0.0), truth, scoring)["metrics"]


def score_task(task: Task, stored: StoredMap, truth: Truth | None, attested: bool | None, scoring: Scoring) -> Scored:
    """A task's map with its scores, computed once for each map and truth."""
    row = cast(Row, {**stored.row, "attested": attested})
    setting = _setting(task, stored)
    if truth is None:
        return Scored(row, None, stored.n_steps, setting)
    map_path = MapStore(task.folder).path(task.scan.name, task.method.name)
    path = task.folder / SCORES / f"{task.name}.json"
    of = {
        "map": file_digest(map_path),
        "truth": digest_of(truth.chi_ppm, truth.mask, truth.labels),
        "dialect": scoring.dialect,
        "unring": task.method.steps.unring,
        "qsmdl_version": __version__,
    }
    kept = read_json(path) if path.exists() else {}
    if kept.get("of") != of:
        chi_ppm = MapStore(task.folder).read(task.scan.name, task.method.name)
        full = scored(row, chi_ppm, truth, scoring)
        told = {key: value for key, value in full.items() if key in ("metrics", "dialect", "convention", "data")}
        kept = {"of": of, "told": told, "unrung": _unrung_scores(task, chi_ppm, truth, row, scoring)}
        write_json(path, kept, overwrite=True)
    return Scored(cast(Row, {**row, **kept["told"]}), kept["unrung"], stored.n_steps, setting)


@dataclass(frozen=True)
class Summary:
    """One method over all scans: its mean row as the challenge averages it, the NRMSE of each scan, that of the unrung maps, and how it ran."""

    method: Method
    row: Row
    nrmse: dict[str, float | None]
    unrung: dict[str, float | None]
    n_steps: tuple[int, ...]
    settings: tuple[str, ...]


def summarise(method: Method, results: Sequence[Scored]) -> Summary:
    """The mean over scans; of a single scan, that scan."""
    rows = [result.row for result in results]
    mean = mean_row(rows) if len(rows) > 1 else rows[0]
    nrmse = {row["scan"]: row["metrics"].get("rmse") for row in rows}
    unrung = {result.row["scan"]: result.unrung.get("rmse") for result in results if result.unrung is not None}
    settings = tuple(dict.fromkeys(result.setting for result in results if result.setting))
    return Summary(method, mean, nrmse, unrung, tuple(result.n_steps for result in results), settings)


def by_nrmse(summary: Summary) -> tuple[bool, float, str]:
    """The order of tables: least NRMSE first, those without one last, by name."""
    value = summary.row["metrics"].get("rmse")
    return value is None, 0.0 if value is None else value, summary.method.name
