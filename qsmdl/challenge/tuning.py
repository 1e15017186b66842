"""Choosing a method's settings against the truth, as stage 2 allows: a study (`challenge.study`) whose first trial is the settings as configured."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsmdl.challenge.rules import check_search
from qsmdl.challenge.study import Objective, OnTrial, Space, Study, Trial, best_of, contains, extremes, in_words, make_distribution
from qsmdl.errors import InputError
from qsmdl.methods import Method


class TrialTooLong(RuntimeError):  # noqa: N818 - a bound that was reached
    """A trial that went beyond its time."""


@dataclass(frozen=True)
class Tuned:
    """The outcome of a study: the best settings, their objective, and every trial."""

    settings: dict[str, Any]
    value: float
    trials: tuple[Trial, ...]


def make_space(method: Method, search: Mapping[str, Any]) -> Space:
    """What may be tried, from plain settings: {setting: {low, high, log} or {choices}}.

    Raises InputError: a setting that the method does not have or a value it cannot take, the configured value outside the space (the first trial
    is the configured settings, so that tuning never makes a method worse than it came), or a network's setting that the rules keep from the truth.
    """
    if not isinstance(search, Mapping):
        raise InputError(f"search.{method.name} is {search!r}, but must hold settings, each with low and high, or choices.")
    check_search(method, list(search))
    if method.steps.select is not None and method.about.parameter in search:
        raise InputError(
            f"method.{method.name}.select is {method.steps.select!r}, which chooses {method.about.parameter} without truth, but search.{method.name} "
            "would tune it against the truth. Set select to null, or take the method out of search."
        )
    space = {name: make_distribution(f"search.{method.name}.{name}", entry) for name, entry in search.items()}
    for name, distribution in space.items():
        for value in extremes(distribution):
            method.with_settings({name: value})
        if name not in method.settings or not contains(distribution, method.settings[name]):
            raise InputError(
                f"method.{method.name}.{name} is {method.settings.get(name)!r}, which search.{method.name}.{name} ({in_words(distribution)}) does "
                "not hold. The first trial is the configured setting: widen the search or change the setting."
            )
    return space


def tune(
    method: Method,
    search: Mapping[str, Any],
    objective: Objective,
    *,
    storage: Path,
    name: str,
    identity: Mapping[str, Any],
    n_trials: int,
    seed: int,
    on_trial: OnTrial | None = None,
) -> Tuned:
    """Minimise `objective` (of a dict of settings) over the search space in `n_trials` trials, failed ones counted.

    storage: the SQLite file; name: of the study in it; identity: plain values that say what the objective is, checked when the study goes on. A study
    that has its trials already is only read; a larger budget goes on from there. A failed trial (InputError, RuntimeError, out of memory, too long)
    is recorded with its reason. Raises InputError: a space that does not fit, a study of something else, an unusable file, or all trials failed.
    """
    if isinstance(n_trials, bool) or not isinstance(n_trials, int) or n_trials < 1:
        raise InputError(f"tuning.n_trials is {n_trials!r}; at least one trial is needed.")
    study = Study(storage, name, space=make_space(method, search), identity=identity, seed=seed, other="tuning.study")
    try:
        done = study.run(n_trials, objective, first=method.settings, on_trial=on_trial)
    finally:
        study.close()
    return _best(name, done)


def _best(name: str, trials: list[Trial]) -> Tuned:
    """The first of the best within the budget, so that a study with more trials than asked for gives what one of that size gives."""
    best = best_of(trials)
    if best is None or best.value is None:
        reasons = "; ".join(dict.fromkeys(str(trial.error) for trial in trials))
        raise InputError(f"All {len(trials)} trials of {name} failed: {reasons}. Change the search space, or raise tuning.trial_minutes.")
    return Tuned(best.settings, best.value, tuple(trials))
