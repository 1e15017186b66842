"""Studies on an objective that costs nothing."""

import math
import sqlite3

import pytest

from qsmdl.challenge.tuning import tune
from qsmdl.errors import InputError
from qsmdl.methods import Method, fine
from qsmdl.solvers.direct import tkd
from qsmdl.solvers.tv import tv

METHOD = Method("tv", tv, regularisation=8e-5, weighting="noise", n_iterations=20)
N = 7
"""Trials: five at random, then two that the estimator draws."""
SEARCH = {
    "regularisation": {"low": 1e-6, "high": 1e-3, "log": True},
    "n_iterations": {"low": 5, "high": 50},
    "weighting": {"choices": ["noise", "uniform"]},
}


def valley(settings):
    """Smallest at a regularisation of 2e-5 and 30 iterations, for uniform weights."""
    return math.log(settings["regularisation"] / 2e-5) ** 2 + abs(settings["n_iterations"] - 30) / 10 + (settings["weighting"] == "noise")


def study(path, objective=valley, *, n_trials=N, identity=None, method=METHOD, search=SEARCH, seed=0, on_trial=None):
    return tune(
        method, search, objective, storage=path, name="tv Snr1", identity=identity or {"scans": 1}, n_trials=n_trials, seed=seed, on_trial=on_trial
    )


def outcome(tuned):
    return tuned.settings, tuned.value, [(trial.number, trial.settings, trial.value, trial.error) for trial in tuned.trials]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study of seven trials that nobody interrupted."""
    return study(tmp_path_factory.mktemp("whole") / "s.db")


def test_the_budget_is_kept_and_the_first_trial_is_the_configured_setting(whole):
    assert [trial.number for trial in whole.trials] == list(range(1, N + 1))
    assert whole.trials[0].settings == {"regularisation": 8e-5, "n_iterations": 20, "weighting": "noise"}
    assert whole.value == min(trial.value for trial in whole.trials) < whole.trials[0].value
    assert valley(whole.settings) == whole.value
    assert isinstance(whole.settings["n_iterations"], int)


@pytest.mark.parametrize("n_before", [0, 6])
def test_a_killed_study_goes_on_to_the_same_result(tmp_path, whole, n_before):
    """The kill comes in the middle of a trial, which leaves it unfinished in the file."""
    calls = []

    def killed(settings):
        calls.append(settings)
        if len(calls) > n_before:
            raise KeyboardInterrupt
        return valley(settings)

    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "s.db", killed)
    rest = []
    again = study(tmp_path / "s.db", lambda settings: rest.append(settings) or valley(settings))
    assert outcome(again) == outcome(whole)
    assert len(rest) == N - n_before


def test_a_complete_study_is_only_read_and_a_larger_budget_goes_on(tmp_path, whole):
    small = study(tmp_path / "s.db", n_trials=3)
    assert outcome(small)[2] == outcome(whole)[2][:3]
    assert outcome(study(tmp_path / "s.db", lambda _: pytest.fail("a trial ran"), n_trials=3)) == outcome(small)
    assert outcome(study(tmp_path / "s.db")) == outcome(whole)
    assert outcome(study(tmp_path / "s.db", n_trials=3)) == outcome(small)


def test_another_seed_tries_other_settings(tmp_path, whole):
    other = study(tmp_path / "s.db", seed=1, n_trials=2)
    assert outcome(other)[2][0] == outcome(whole)[2][0]
    assert outcome(other)[2][1] != outcome(whole)[2][1]


def test_failed_trials_count_and_are_recorded(tmp_path):
    seen = []

    def fragile(settings):
        if settings["weighting"] == "noise":
            raise InputError("weights of noise are refused")
        return valley(settings)

    tuned = study(tmp_path / "s.db", fragile, on_trial=lambda trial, best: seen.append((trial.value, best)))
    failed = [trial for trial in tuned.trials if trial.value is None]
    assert len(tuned.trials) == N
    assert 0 < len(failed) < N
    assert failed[0].error == "InputError: weights of noise are refused"
    assert tuned.settings["weighting"] == "uniform"
    assert seen[0] == (None, None)
    assert seen[-1][1] == tuned.value
    with pytest.raises(InputError, match=r"All 3 trials of tv Snr1 failed: .*refused"):
        study(tmp_path / "t.db", lambda _: fragile({"weighting": "noise"}), n_trials=3)


def test_a_study_of_something_else_is_not_continued(tmp_path):
    study(tmp_path / "s.db", n_trials=2)
    with pytest.raises(InputError, match=r"s\.db \(tv Snr1\) belongs to a run with other settings: scans was 1 and is now 2"):
        study(tmp_path / "s.db", identity={"scans": 2})
    narrow = {"regularisation": {"low": 1e-5, "high": 1e-4}}
    with pytest.raises(InputError, match="other settings"):
        study(tmp_path / "s.db", lambda _: 1.0, search=narrow)


def test_a_study_of_another_version_is_not_continued(tmp_path, monkeypatch):
    """Its solvers may have been others."""
    study(tmp_path / "s.db", n_trials=1)
    monkeypatch.setattr("qsmdl.challenge.study.__version__", "99")
    with pytest.raises(InputError, match=r"qsmdl_version was .* and is now '99'.* or name another with tuning\.study"):
        study(tmp_path / "s.db")


def test_a_folder_may_have_any_name(tmp_path):
    """The name of the file is part of a URL for SQLite."""
    folder = tmp_path / "q?mode=ro %41#x"
    assert outcome(study(folder / "s.db", n_trials=2)) == outcome(study(folder / "s.db", lambda _: pytest.fail("a trial ran"), n_trials=2))
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert [path.name for path in folder.iterdir()] == ["s.db"]


def test_files_that_are_no_study(tmp_path):
    (tmp_path / "text.db").write_text("hello, this is not a database" * 100)
    with pytest.raises(InputError, match=r"text\.db could not be used as a study file"):
        study(tmp_path / "text.db")
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("create table studies (a integer)")
    connection.close()
    with pytest.raises(InputError, match=r"other\.db could not be used as a study file"):
        study(tmp_path / "other.db")


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"regularization": {"low": 1e-6, "high": 1e-3}}, "did you mean 'regularisation'"),
        ({"regularisation": {"low": 1e-3, "high": 1e-6}}, "low < high"),
        ({"regularisation": {"low": 1e-3}}, "must hold low and high"),
        ({"regularisation": {"low": "a", "high": "b"}}, "must be numbers"),
        ({"regularisation": {"low": 0.0, "high": 1.0, "log": True}}, "cannot be searched"),
        ({"weighting": {"choices": []}}, "cannot be searched"),
        ({"weighting": {"choices": ["uniform", "even"]}}, r"weighting is 'even'"),
        ({"n_iterations": {"low": 5.0, "high": 50.0}}, "must be int"),
        ({"regularisation": {"low": 1e-3, "high": 1e-2}}, r"method\.tv\.regularisation is 8e-05, which search\.tv\.regularisation \(0\.001 to 0\.0"),
        ({"penalty": {"low": 1e-3, "high": 1e-2}}, r"method\.tv\.penalty is None"),
        (5, r"search\.tv is 5, but must hold settings"),
    ],
)
def test_spaces_that_do_not_fit_are_named(tmp_path, search, message):
    with pytest.raises(InputError, match=message):
        study(tmp_path / "s.db", search=search)
    assert not list(tmp_path.iterdir())


def test_of_a_network_only_the_schedule_is_tuned(tmp_path):
    method = Method("fine", fine, n_steps=20, learning_rate=1e-3, tv_weight=0.0)
    allowed = {"n_steps": {"low": 5, "high": 50}, "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    assert study(tmp_path / "s.db", lambda s: abs(s["n_steps"] - 30), method=method, search=allowed, n_trials=3).value <= 10
    with pytest.raises(InputError, match=r"search\.fine would tune tv_weight against the truth"):
        study(tmp_path / "t.db", method=method, search=allowed | {"tv_weight": {"low": 0.0, "high": 1.0}})


def test_budgets_are_positive(tmp_path):
    method, search = Method("tkd", tkd, threshold=0.2), {"threshold": {"low": 0.02, "high": 0.4}}
    for n_trials in (0, -1, 2.5):
        with pytest.raises(InputError, match="at least one trial"):
            study(tmp_path / "s.db", method=method, search=search, n_trials=n_trials)
