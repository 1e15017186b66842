"""Studies: settings drawn trial after trial, to make an objective small, in an SQLite file that a later call goes on with.

Trials are drawn by optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011). Every trial has a sampler of its own whose seed follows
from the study's seed and the trial's place in the budget, so that a study that was killed and called again takes the same trials as one that was not.
"""

import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
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
from qsmdl.errors import InputError

optuna.logging.set_verbosity(optuna.logging.WARNING)

N_RANDOM_TRIALS = 5
"""Trials before the estimator has enough to go by."""
_KILLED, _IDENTITY, _SECONDS, _ERROR = "killed", "identity", "seconds", "error"
_TRIAL_ERRORS = (InputError, RuntimeError, ArithmeticError, MemoryError)
Space = dict[str, BaseDistribution]


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


Objective = Callable[[dict[str, Any]], float]
OnTrial = Callable[[Trial, float | None], None]
"""Called with a trial that ended and the best objective so far."""


def make_distribution(name: str, entry: Any) -> BaseDistribution:
    """From what the YAML says under a name: {low, high, log} or {choices}. Raises InputError."""
    try:
        if isinstance(entry, Mapping) and set(entry) == {"choices"}:
            return CategoricalDistribution(list(entry["choices"]))
        if not isinstance(entry, Mapping) or not {"low", "high"} <= set(entry) <= {"low", "high", "log"}:
            raise InputError(f"{name} is {entry!r}, but must hold low and high (and log: true for a logarithmic scale), or choices.")
        low, high, log = entry["low"], entry["high"], entry.get("log", False)
        if not isinstance(log, bool) or any(isinstance(v, bool) or not isinstance(v, int | float) for v in (low, high)) or not low < high:
            raise InputError(f"{name} is {dict(entry)!r}, but low and high must be numbers with low < high, and log true or false.")
        whole = isinstance(low, int) and isinstance(high, int)
        return IntDistribution(int(low), int(high), log=log) if whole else FloatDistribution(float(low), float(high), log=log)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name} cannot be searched: {error}") from error


def extremes(distribution: BaseDistribution) -> list[Any]:
    """Both ends of a range, or all choices."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return [getattr(distribution, "low"), getattr(distribution, "high")]  # noqa: B009 - of all numeric ones, but not of their base class


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value can be drawn."""
    ends = extremes(distribution)
    if isinstance(distribution, CategoricalDistribution):
        return any(value == choice and type(value) is type(choice) for choice in ends)
    return isinstance(value, int | float) and not isinstance(value, bool) and ends[0] <= value <= ends[1]


def in_words(distribution: BaseDistribution) -> str:
    """What can be drawn."""
    ends = extremes(distribution)
    return ", ".join(map(repr, ends)) if isinstance(distribution, CategoricalDistribution) else f"{ends[0]:g} to {ends[1]:g}"


class Study:
    """A study in an SQLite file; one process at a time may work on it.

    identity: plain values that say what the objective is, checked when the study goes on; other: how a call names another file, for messages.
    Raises InputError: a study of something else, or an unusable file.
    """

    def __init__(self, storage: Path, name: str, *, space: Space, identity: Mapping[str, Any], seed: int, other: str) -> None:
        self.path, self.name, self.space, self.seed, self.other = storage, name, space, seed, other
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
            raise InputError(f"{storage} could not be used as a study file: {first_line}. Remove it, or name another with {other}.") from error

    def _check_identity(self, identity: dict[str, Any]) -> None:
        """A study belongs to one method, one set of scans and one space; anything else would mix objectives that do not compare."""
        before = self.study.user_attrs.get(_IDENTITY)
        if before is None:
            self.study.set_user_attr(_IDENTITY, identity)
        else:
            now = json.loads(json.dumps(identity))
            check_unchanged(Path(f"{self.path} ({self.name})"), before, now, remedy=f"name another with {self.other}")

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

    def run(self, n_trials: int, objective: Objective, *, first: Mapping[str, Any] | None, on_trial: OnTrial | None = None) -> list[Trial]:
        """The first n_trials trials, failed ones counted: those that the file holds, and what is missing. first: settings of the first."""
        while len(done := self.trials()) < n_trials:
            self.step(objective, first=first)
            if on_trial is not None:
                ended = self.trials()
                on_trial(ended[-1], min((t.value for t in ended if t.value is not None), default=None))
        return done[:n_trials]

    def step(self, objective: Objective, *, first: Mapping[str, Any] | None) -> None:
        """One more trial. An exception that is no failure of the trial (Ctrl-C) leaves it unfinished, to come again."""
        n_before = len(self.trials())
        if first is not None and n_before == 0 and not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self.study.enqueue_trial({name: first[name] for name in self.space})
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


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The first of the best, so that a study with more trials than asked for gives what one of that size gives; None where all failed."""
    return min((trial for trial in trials if trial.value is not None), key=lambda trial: trial.value or 0.0, default=None)
