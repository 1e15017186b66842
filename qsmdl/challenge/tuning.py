"""Choosing a method's settings against the truth, as stage 2 allows: a study of trials in an SQLite file that a later call goes on with.

Trials are drawn by optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011). Every trial has a sampler of its own whose seed follows
from the study's seed and the trial's place in the budget, so that a study that was killed and called again takes the same trials as one that was not.
"""

import json
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from qsmdl import __version__
from qsmdl.challenge.maps import check_unchanged
from qsmdl.challenge.rules import check_search
from qsmdl.errors import InputError
from qsmdl.methods import Method

optuna.logging.set_verbosity(optuna.logging.WARNING)

N_RANDOM_TRIALS = 5
"""Trials before the estimator has enough to go by; the first of all is the settings as configured."""
_KILLED, _IDENTITY, _SECONDS, _ERROR = "killed", "identity", "seconds", "error"
_TRIAL_ERRORS = (InputError, RuntimeError, ArithmeticError, MemoryError)
Space = dict[str, BaseDistribution]


class TrialTooLong(RuntimeError):  # noqa: N818 - a bound that was reached
    """A trial that went beyond its time."""


@dataclass(frozen=True)
class Trial:
    """One trial as it ended. number: its place in the budget, from 1; value: the objective, None where it failed; error: why it did."""

    number: int
    settings: dict[str, Any]
    value: float | None
    seconds: float
    error: str | None = None

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"trial": self.number, "settings": self.settings, "value": self.value, "seconds": round(self.seconds, 3), "error": self.error}


@dataclass(frozen=True)
class Tuned:
    """The outcome of a study: the best settings, their objective, and every trial."""

    settings: dict[str, Any]
    value: float
    trials: tuple[Trial, ...]


Objective = Callable[[dict[str, Any]], float]
OnTrial = Callable[[Trial, float | None], None]
"""Called with a trial that ended and the best objective so far."""


def _distribution(name: str, entry: Any) -> BaseDistribution:
    """From what the YAML says: {low, high, log} or {choices}."""
    try:
        if isinstance(entry, Mapping) and set(entry) == {"choices"}:
            return CategoricalDistribution(list(entry["choices"]))
        if not isinstance(entry, Mapping) or not {"low", "high"} <= set(entry) <= {"low", "high", "log"}:
            raise InputError(f"search.{name} is {entry!r}, but must hold low and high (and log: true for a logarithmic scale), or choices.")
        low, high, log = entry["low"], entry["high"], entry.get("log", False)
        if not isinstance(log, bool) or any(isinstance(v, bool) or not isinstance(v, int | float) for v in (low, high)) or not low < high:
            raise InputError(f"search.{name} is {dict(entry)!r}, but low and high must be numbers with low < high, and log true or false.")
        whole = isinstance(low, int) and isinstance(high, int)
        return IntDistribution(int(low), int(high), log=log) if whole else FloatDistribution(float(low), float(high), log=log)
    except (ValueError, TypeError) as error:
        raise InputError(f"search.{name} cannot be searched: {error}") from error


def _extremes(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return [getattr(distribution, "low"), getattr(distribution, "high")]  # noqa: B009 - of all numeric ones, but not of their base class


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    extremes = _extremes(distribution)
    if isinstance(distribution, CategoricalDistribution):
        return any(value == choice and type(value) is type(choice) for choice in extremes)
    return isinstance(value, int | float) and not isinstance(value, bool) and extremes[0] <= value <= extremes[1]


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
    space = {name: _distribution(f"{method.name}.{name}", entry) for name, entry in search.items()}
    for name, distribution in space.items():
        for value in _extremes(distribution):
            method.with_settings({name: value})
        if name not in method.settings or not _contains(distribution, method.settings[name]):
            raise InputError(
                f"method.{method.name}.{name} is {method.settings.get(name)!r}, which search.{method.name}.{name} ({_words(distribution)}) does not "
                "hold. The first trial is the configured setting: widen the search or change the setting."
            )
    return space


def _words(distribution: BaseDistribution) -> str:
    extremes = _extremes(distribution)
    return ", ".join(map(repr, extremes)) if isinstance(distribution, CategoricalDistribution) else f"{extremes[0]:g} to {extremes[1]:g}"


class Study:
    """A study in an SQLite file; one process at a time may work on it."""

    def __init__(self, storage: Path, name: str, *, space: Space, identity: Mapping[str, Any], seed: int) -> None:
        self.path, self.name, self.space, self.seed = storage, name, space, seed
        storage.parent.mkdir(parents=True, exist_ok=True)
        try:
            url = URL.create("sqlite", database=str(storage.resolve())).render_as_string()
            self.storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
            self.study = optuna.create_study(storage=self.storage, study_name=name, load_if_exists=True)
            searched = {key: json.loads(optuna.distributions.distribution_to_json(d)) for key, d in space.items()}
            self._check_identity({**identity, "space": searched, "qsmdl_version": __version__})
            self._bury_killed()
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError, RuntimeError) as error:
            first_line = str(error).splitlines()[0]
            raise InputError(f"{storage} could not be used as a study file: {first_line}. Remove it, or name another with tuning.study.") from error

    def _check_identity(self, identity: dict[str, Any]) -> None:
        """A study belongs to one method, one set of scans and one space; anything else would mix objectives that do not compare."""
        before = self.study.user_attrs.get(_IDENTITY)
        if before is None:
            self.study.set_user_attr(_IDENTITY, identity)
        else:
            now = json.loads(json.dumps(identity))
            check_unchanged(Path(f"{self.path} ({self.name})"), before, now, remedy="name another file with tuning.study")

    def _bury_killed(self) -> None:
        """A trial that still runs belongs to a process that is gone: it does not count, and its settings come again."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.storage.set_trial_user_attr(trial._trial_id, _KILLED, True)
            self.study.tell(trial.number, state=TrialState.FAIL)

    def close(self) -> None:
        """Let go of the file."""
        self.storage.remove_session()
        self.storage.engine.dispose()

    def trials(self) -> list[Trial]:
        """The trials that count, in order: those that ended, well or not."""
        ended = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        return [_trial(number, trial) for number, trial in enumerate((t for t in ended if not t.user_attrs.get(_KILLED)), 1)]

    def step(self, configured: Mapping[str, Any], objective: Objective) -> None:
        """One more trial. An exception that is no failure of the trial (Ctrl-C) leaves it unfinished, to come again."""
        n_before = len(self.trials())
        if n_before == 0 and not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self.study.enqueue_trial({name: configured[name] for name in self.space})
        seed = zlib.crc32(f"{self.seed} {self.name} {n_before}".encode())
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=N_RANDOM_TRIALS)
        trial, begun = self.study.ask(self.space), time.monotonic()
        try:
            value = objective(dict(trial.params))
        except _TRIAL_ERRORS as error:
            trial.set_user_attr(_ERROR, f"{type(error).__name__}: {error}"[:500])
            trial.set_user_attr(_SECONDS, time.monotonic() - begun)
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            trial.set_user_attr(_SECONDS, time.monotonic() - begun)
            self.study.tell(trial, value)


def _trial(number: int, trial: FrozenTrial) -> Trial:
    value = trial.value if trial.state is TrialState.COMPLETE else None
    error = trial.user_attrs.get(_ERROR, "failed") if value is None else None
    return Trial(number, dict(trial.params), value, float(trial.user_attrs.get(_SECONDS, 0.0)), error)


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
    study = Study(storage, name, space=make_space(method, search), identity=identity, seed=seed)
    try:
        while len(done := study.trials()) < n_trials:
            study.step(method.settings, objective)
            if on_trial is not None:
                ended = study.trials()
                on_trial(ended[-1], min((t.value for t in ended if t.value is not None), default=None))
    finally:
        study.close()
    return _best(name, done[:n_trials])


def _best(name: str, trials: list[Trial]) -> Tuned:
    """The first of the best within the budget, so that a study with more trials than asked for gives what one of that size gives."""
    best = min((trial for trial in trials if trial.value is not None), key=lambda trial: trial.value or 0.0, default=None)
    if best is None or best.value is None:
        reasons = "; ".join(dict.fromkeys(str(trial.error) for trial in trials))
        raise InputError(f"All {len(trials)} trials of {name} failed: {reasons}. Change the search space, or raise tuning.trial_minutes.")
    return Tuned(best.settings, best.value, tuple(trials))
