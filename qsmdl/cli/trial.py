"""One trial of `qsmdl sweep`: a run of train.py in a folder of its own."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from qsmdl.errors import InputError
from qsmdl.interrupt import EXIT_INTERRUPTED, DeferredInterrupt, end_with_parent
from qsmdl.io.files import read_json, write_json
from qsmdl.io.weights import load_weights

SETTINGS = "trial.json"
OUTPUT = "output.log"
WEIGHTS = "weights.safetensors"
Train = Callable[[Sequence[str], Path], None]
"""Trains with the words of a command line into a folder. Raises RuntimeError where that fails, KeyboardInterrupt where it was stopped."""
_TAIL_BYTES = 20000


def as_word(key: str, value: Any) -> str:
    """A drawn setting as train.py takes it."""
    return f"{key}={json.dumps(value)}"


def _last_words(folder: Path) -> str:
    """What a training said in the end: its error, if it told one."""
    with (folder / OUTPUT).open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("error: ")]
    return (told or lines or ["it said nothing"])[-1]


def train_apart(words: Sequence[str], folder: Path) -> None:
    """train.py in a process of its own, with its output in output.log. Ctrl-C or SIGTERM lets it finish its step and save."""
    command = [sys.executable, "-m", "qsmdl.cli.train", *words]
    # A session of its own: Ctrl-C in a terminal would reach it twice, and a second one asks to stop at once.
    with (folder / OUTPUT).open("ab") as output, DeferredInterrupt() as interrupt:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, preexec_fn=end_with_parent)  # noqa: S603
        try:
            asked = False
            while process.poll() is None:
                if interrupt.requested and not asked:
                    process.terminate()
                    asked = True
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if interrupt.requested or process.returncode == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if process.returncode != 0:
        raise RuntimeError(f"train.py ended with status {process.returncode}: {_last_words(folder)}")


def _begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """The folder of a trial, emptied of what belongs to other settings or was not ended well."""
    if folder.exists():
        if not (folder / SETTINGS).is_file():
            raise InputError(f"{folder} exists, but no trial of this study made it. Name another folder with --study.")
        same = read_json(folder / SETTINGS) == settings
        if same and ((folder / WEIGHTS).exists() or (folder / "checkpoints" / "interrupted.ckpt").exists()):
            return
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_json(folder / SETTINGS, dict(settings))


def validation_error(path: Path) -> float:
    """The validation NRMSE in the card of exported weights. Raises InputError where it has none."""
    _, card = load_weights(path)
    error = card.get("training", {}).get("validation_nrmse")
    if not isinstance(error, int | float):
        raise InputError(f"The card of {path} tells no validation_nrmse: training ended before the first validation. Lower training.validate_every.")
    return float(error)


def run_trial(words: Sequence[str], settings: Mapping[str, Any], folder: Path, train: Train) -> float:
    """Train with drawn settings; returns the validation NRMSE. A training that was interrupted goes on, one that has its weights is only read."""
    _begin(folder, settings)
    if not (folder / WEIGHTS).exists():
        interrupted = folder / "checkpoints" / "interrupted.ckpt"
        drawn = [as_word(key, value) for key, value in settings.items()]
        going_on = [as_word("resume", str(interrupted))] if interrupted.exists() else []
        train([*words, *drawn, "evaluate=false", as_word("hydra.run.dir", str(folder)), *going_on], folder)
    return validation_error(folder / WEIGHTS)
