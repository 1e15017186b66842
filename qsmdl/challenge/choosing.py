"""Stage 2: settings of each method chosen against the truth, for each noise level.

A noise level's settings are the same for both of its simulations, as stage 1 asks of a pipeline; the best regularisation moves with the noise, so
Snr1 and Snr2 have their own. The objective is the mean NRMSE of the level's scans, as the challenge averages them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qsmdl.challenge.maps import describe
from qsmdl.challenge.metrics import nrmse
from qsmdl.challenge.record import alone
from qsmdl.challenge.release import ReleaseScan
from qsmdl.challenge.run import Case, digest_of
from qsmdl.challenge.stages import Plan, read_truths
from qsmdl.challenge.study import Objective, Trial
from qsmdl.challenge.tuning import TrialTooLong, Tuned, make_space, tune
from qsmdl.errors import InputError
from qsmdl.methods import Method
from qsmdl.scan import Truth

ALL = "all"
STUDIES = "studies.db"


@dataclass(frozen=True)
class TuningSettings:
    """How settings are chosen in stage 2.

    n_trials: for every method and noise level; trial_minutes: after which a trial counts as failed (all of a level's scans together); per_snr:
    settings for each noise level, False for one of all; study: the SQLite file, None for studies.db in the run's folder.
    """

    n_trials: int = 16
    trial_minutes: float = 60.0
    per_snr: bool = True
    study: str | None = None

    def __post_init__(self) -> None:
        if self.n_trials < 1 or not 0 < self.trial_minutes < float("inf"):
            raise InputError(f"tuning has n_trials {self.n_trials} and trial_minutes {self.trial_minutes}; both must be positive.")


@dataclass(frozen=True)
class TrialReport:
    """A trial that ended: of which method and level, the best objective so far, and how long the rest may take at this pace."""

    method: str
    level: str
    trial: Trial
    best: float | None
    n_trials: int

    @property
    def seconds_left(self) -> float:
        """Of this study."""
        return (self.n_trials - self.trial.number) * self.trial.seconds


OnTrialReport = Callable[[TrialReport], None]
OnStep = Callable[[str, str, int, float], None]
Search = Mapping[str, Mapping[str, Any]]


def levels(scans: Sequence[ReleaseScan], per_snr: bool) -> dict[str, list[ReleaseScan]]:
    """The scans that share settings. Raises InputError where a level has no scan with a truth to tune against."""
    found: dict[str, list[ReleaseScan]] = {}
    for scan in scans:
        found.setdefault((scan.level or ALL) if per_snr else ALL, []).append(scan)
    for members in found.values():
        if not any(scan.has_truth for scan in members):
            raise InputError(
                f"Stage 2 tunes against the truth, but {', '.join(scan.name for scan in members)} has none. Use stage=1 for blind scans, or leave "
                "them out with data.scans."
            )
    return found


def check_search_spaces(plan: Plan, search: Search) -> None:
    """Raises InputError for a search that does not fit its method, before anything is computed."""
    for method in plan.methods:
        make_space(method, search.get(method.name, {}))


def _score(method: Method, case: Case, truth: Truth, on_step: Callable[[int, float], None]) -> float:
    chi = method(case.field, case.scan, orientations=case.orientations, on_step=on_step).chi_ppm.detach().cpu().numpy().astype(np.float64)
    value = nrmse(np.nan_to_num(chi, nan=0.0, posinf=0.0, neginf=0.0), truth.chi_ppm.numpy().astype(np.float64), truth.mask.numpy())
    if value is None:
        raise InputError(f"The NRMSE of {case.name} is undefined: the truth is constant in the mask.")
    return value


def make_objective(method: Method, pairs: Sequence[tuple[Case, Truth]], *, seed: int, trial_minutes: float, on_step: OnStep) -> Objective:
    """The mean NRMSE over scans as a function of settings."""

    def objective(settings: dict[str, Any]) -> float:
        tried, deadline = method.with_settings(settings), time.monotonic() + 60 * trial_minutes
        values = []
        for case, truth in pairs:

            def bounded(step: int, value: float, name: str = case.name) -> None:
                if time.monotonic() > deadline:
                    raise TrialTooLong(f"longer than {trial_minutes:g} min (tuning.trial_minutes)")
                on_step(method.name, name, step, value)

            torch.manual_seed(seed)
            values.append(_score(tried, case, truth, bounded))
        return sum(values) / len(values)

    return objective


def _identity(plan: Plan, method: Method, pairs: Sequence[tuple[Case, Truth]], contents: Mapping[str, str]) -> dict[str, Any]:
    """What a study's objective depends on, apart from what is searched."""
    scans = {case.name: {"content": contents[case.name], "truth": digest_of(truth.chi_ppm, truth.mask)} for case, truth in pairs}
    return {**describe(method), **plan.field_settings, "scans": scans, "seed": plan.seed, "objective": "mean NRMSE"}


def choose(
    plan: Plan, search: Search, tuning: TuningSettings, contents: Mapping[str, str], *, on_trial: OnTrialReport, on_step: OnStep
) -> dict[tuple[str, str], Tuned]:
    """The tuned settings of every method that has a search space, by (method, level); studies that are complete are only read."""
    check_search_spaces(plan, search)
    truths = read_truths(plan)
    storage = plan.folder / STUDIES if tuning.study is None else Path(tuning.study)
    with alone(storage.with_name(f".{storage.name}.lock")):
        return _choose(plan, search, tuning, contents, truths, storage, on_trial, on_step)


def _choose(
    plan: Plan,
    search: Search,
    tuning: TuningSettings,
    contents: Mapping[str, str],
    truths: Mapping[str, Truth],
    storage: Path,
    on_trial: OnTrialReport,
    on_step: OnStep,
) -> dict[tuple[str, str], Tuned]:
    found = {}
    for level, scans in levels(plan.scans, tuning.per_snr).items():
        pairs = [(plan.read(scan), truths[scan.name]) for scan in scans if scan.has_truth]
        for method in plan.methods:
            if not search.get(method.name):
                continue

            def report(trial: Trial, best: float | None, names: tuple[str, str] = (method.name, level)) -> None:
                on_trial(TrialReport(*names, trial, best, tuning.n_trials))

            objective = make_objective(method, pairs, seed=plan.seed, trial_minutes=tuning.trial_minutes, on_step=on_step)
            found[method.name, level] = tune(
                method,
                search[method.name],
                objective,
                storage=storage,
                name=f"{method.name} {level}",
                identity=_identity(plan, method, pairs, contents),
                n_trials=tuning.n_trials,
                seed=plan.seed,
                on_trial=report,
            )
    return found


def settings_by_scan(plan: Plan, tuned: Mapping[tuple[str, str], Tuned], per_snr: bool) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The chosen settings by (method, scan), scans without truth included: they take their level's."""
    found = levels(plan.scans, per_snr)
    return {(name, scan.name): outcome.settings for (name, level), outcome in tuned.items() for scan in found[level]}


def to_plain(tuned: Mapping[tuple[str, str], Tuned]) -> list[dict[str, Any]]:
    """For protocol.json: the chosen settings of every method and level, and every trial."""
    return [
        {
            "method": method,
            "level": level,
            "settings": outcome.settings,
            "nrmse": outcome.value,
            "n_trials": len(outcome.trials),
            "n_failed": sum(trial.value is None for trial in outcome.trials),
            "trials": [trial.to_plain() for trial in outcome.trials],
        }
        for (method, level), outcome in tuned.items()
    ]
