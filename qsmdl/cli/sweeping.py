"""What `qsmdl sweep` does: the space, the study, the table."""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from qsmdl.challenge.record import LOCK, alone
from qsmdl.challenge.study import Space, Study, Trial, best_of, contains, extremes, make_distribution
from qsmdl.cli.build import build_recipe, plain
from qsmdl.cli.catalogue import config_folder, read_yaml
from qsmdl.cli.progress import console, stage
from qsmdl.cli.trial import Train, as_word, run_trial, train_apart
from qsmdl.errors import InputError
from qsmdl.io.files import write_json, write_text

STUDY = "study.db"
_OWN = ("evaluate", "resume", "hydra")
"""Settings that the sweep sets itself."""
_IDENTITY = ("seed", "phantom", "acquisition", "data", "network", "training", "trainer", "start_from")
"""Parts of a training's configuration that its result depends on."""
_NAME = "validation NRMSE"


def _compose(words: Sequence[str]) -> DictConfig:
    try:
        with initialize_config_dir(version_base=None, config_dir=os.fspath(config_folder())):
            return compose("train", overrides=list(words))
    except HydraException as error:
        raise InputError(f"The settings of the trainings could not be read: {str(error).splitlines()[0]} (in {' '.join(words)})") from error


def _judged_on(config: DictConfig) -> dict[str, Any]:
    """What the objective of a training depends on besides its weights: the volumes that it is validated on."""
    data = plain(config.data)
    recipe = build_recipe(plain(config.phantom), plain(config.acquisition), data["validation"])
    maps = data["label_maps"] if recipe.draws_label_maps else None
    return {"recipe": recipe.digest, "seed": config.seed, "n_volumes": data["n_validation_volumes"], "label_maps": maps}


def read_space(name: str) -> dict[str, Any]:
    """A space by the path of its YAML, or by its name in configs/sweep. Raises InputError where there is neither, or nothing in it."""
    known = config_folder() / "sweep" / f"{name}.yaml"
    path = Path(name) if Path(name).is_file() else known
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in known.parent.glob("*.yaml")))
        raise InputError(f"--space is {name}, but there is no such file, nor one of that name in configs/sweep ({names}).")
    found = read_yaml(path)
    if not found:
        raise InputError(f"{path} names no settings. It needs one or more, as in training.learning_rate: {{low: 1e-4, high: 1e-2, log: true}}.")
    return found


def make_space(words: Sequence[str], entries: Mapping[str, Any]) -> Space:
    """Distributions of settings. Raises InputError: a setting that trainings do not have or that the sweep sets itself, one that changes what they
    are validated on, or an entry that is no range and no choices.
    """
    for word in [*words, *entries]:
        key = word.split("=", 1)[0].lstrip("+~")
        if any(key == own or key.startswith(f"{own}.") for own in _OWN):
            raise InputError(f"{key} cannot be set in a sweep, which sets it itself. Leave it out.")
    space = {key: make_distribution(f"space.{key}", entry) for key, entry in entries.items()}
    judged_on = _judged_on(_compose(words))
    for key, distribution in space.items():
        for value in extremes(distribution):
            if _judged_on(_compose([*words, as_word(key, value)])) != judged_on:
                raise InputError(f"{key} changes the volumes that trainings are validated on, so their errors would not compare. Leave it out.")
    return space


def _configured(config: DictConfig, space: Space) -> dict[str, Any] | None:
    """The settings as they are, for the first trial; None where they lie outside the space."""
    found = {key: plain(OmegaConf.select(config, key)) for key in space}
    return found if all(contains(space[key], value) for key, value in found.items()) else None


def _say(trial: Trial, best: float | None, n_trials: int) -> None:
    ended = f"{trial.value:.2f}" if trial.value is not None else f"failed ({trial.error})"
    settings = ", ".join(f"{key} {_short(value)}" for key, value in trial.settings.items())
    so_far = "" if best is None else f", best {best:.2f}"
    console.print(f"  trial {trial.number} of {n_trials}: {ended}{so_far}; {settings}; {trial.seconds:.0f} s", highlight=False, markup=False)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The best first, failed ones last."""
    return sorted(trials, key=lambda trial: (trial.value is None, trial.value or 0.0, trial.number))


def _report(folder: Path, ranked: Sequence[Trial], space: Space) -> None:
    """trials.json, trials.csv, and the table."""
    rows = [{**trial.to_plain(), "folder": trial_folder(folder, trial.number).name} for trial in ranked]
    write_json(folder / "trials.json", {"objective": _NAME, "unit": "%", "trials": rows}, overwrite=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "validation_nrmse", *space, "seconds", "error"])
    table = Table(box=SIMPLE_HEAD)
    for name in ("trial", _NAME, *space, "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for trial in ranked:
        drawn = [trial.settings.get(key) for key in space]
        writer.writerow([trial.number, trial.value, *drawn, round(trial.seconds, 1), trial.error])
        ended = "failed" if trial.value is None else f"{trial.value:.2f} %"
        table.add_row(str(trial.number), ended, *(_short(value) for value in drawn), f"{trial.seconds:.0f} s")
    write_text(folder / "trials.csv", text.getvalue(), overwrite=True)
    Console(file=sys.stdout, highlight=False, soft_wrap=True).print(table)


def trial_folder(folder: Path, number: int) -> Path:
    """Where a trial trains."""
    return folder / f"trial_{number:03d}"


def run_sweep(arguments: argparse.Namespace, train: Train = train_apart) -> None:
    """The trials that are missing, then the table. train: what trains. Raises InputError as `make_space` and `Study`, and where all trials failed."""
    if arguments.trials < 1:
        raise InputError(f"--trials is {arguments.trials}; it must be at least 1.")
    words, folder, n_trials = list(arguments.settings), arguments.study.resolve(), arguments.trials
    space, config = make_space(words, read_space(arguments.space)), _compose(words)
    identity = {"settings": json.loads(json.dumps({key: plain(config[key]) for key in _IDENTITY}))}
    with alone(folder / LOCK):
        study = Study(folder / STUDY, "sweep", space=space, identity=identity, seed=config.seed, other="--study")

        def objective(settings: dict[str, Any]) -> float:
            return run_trial(words, settings, trial_folder(folder, len(study.trials()) + 1), train)

        try:
            with stage(f"Sweeping {', '.join(space)}: {n_trials} trials in {folder}"):
                first = _configured(config, space)
                trials = study.run(n_trials, objective, first=first, on_trial=lambda trial, best: _say(trial, best, n_trials))
        finally:
            study.close()
        _report(folder, _ranked(trials), space)
    best = best_of(trials)
    if best is None:
        raise InputError(f"All {n_trials} trials failed: {'; '.join(dict.fromkeys(str(trial.error) for trial in trials))} See {folder}.")
    console.print(f"The best is trial {best.number}: {' '.join(as_word(key, value) for key, value in best.settings.items())}", highlight=False)
