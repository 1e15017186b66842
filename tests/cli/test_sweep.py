"""Trials of trainings: drawn, kept, gone on with, ranked."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import training_pair
from refused_commands import fails

from qsmdl.cli.sweeping import make_space, read_space, run_sweep
from qsmdl.cli.trial import as_word, run_trial, train_apart
from qsmdl.errors import InputError
from qsmdl.io.weights import save_weights

ROOT = Path(__file__).parents[2]
WORDS = ["experiment=unet_quick", "training.n_steps=5"]
SPACE = {"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "network.keywords.width": {"choices": [8, 16, 32]}}


def settings_of(words):
    found = dict(word.split("=", 1) for word in words)
    return float(found["training.learning_rate"]), int(found["network.keywords.width"])


class Trainer:
    """Exports weights whose validation error is smallest at a learning rate of 1e-3 and a width of 32."""

    def __init__(self, stop_at=None, fail_at=()):
        self.calls, self.stop_at, self.fail_at = [], stop_at, fail_at

    def __call__(self, words, folder):
        self.calls.append(list(words))
        number = int(folder.name.removeprefix("trial_"))
        if number == self.stop_at:
            (folder / "checkpoints").mkdir(exist_ok=True)
            (folder / "checkpoints" / "interrupted.ckpt").touch()
            raise KeyboardInterrupt
        if number in self.fail_at:
            raise RuntimeError("train.py ended with status 2: error: it cannot be")
        rate, width = settings_of(words)
        error = 40 + abs(math.log10(rate / 1e-3)) + 32 / width
        save_weights(folder / "weights.safetensors", {"w": torch.ones(1)}, {"training": {"validation_nrmse": error}})


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(json.dumps(SPACE))
    return path


def call(folder, space, n, trainer, *more):
    run_sweep(Namespace(settings=[*WORDS, *more], study=folder, space=str(space), trials=n), trainer)
    return json.loads((folder / "trials.json").read_text())["trials"]


def test_trials_are_trainings_in_their_own_folders_and_ranked(tmp_path, space, capsys):
    trainer = Trainer(fail_at=(3,))
    trials = call(tmp_path / "s", space, 5, trainer)
    values = [trial["value"] for trial in trials]
    assert values[:4] == sorted(values[:4])
    assert values[4] is None
    assert trials[4]["error"] == "RuntimeError: train.py ended with status 2: error: it cannot be"
    for number, words in enumerate(trainer.calls, 1):
        folder = tmp_path / "s" / f"trial_{number:03d}"
        assert words[:2] == WORDS
        assert words[-2:] == ["evaluate=false", f'hydra.run.dir="{folder}"']
        trial = next(t for t in trials if t["trial"] == number)
        assert settings_of(words) == (trial["settings"]["training.learning_rate"], trial["settings"]["network.keywords.width"])
        assert trial["folder"] == folder.name
    first = next(t for t in trials if t["trial"] == 1)  # as configured
    assert first["settings"] == {"training.learning_rate": 3e-3, "network.keywords.width": 16}
    rows = list(csv.DictReader((tmp_path / "s" / "trials.csv").read_text().splitlines()))
    assert [int(row["trial"]) for row in rows] == [t["trial"] for t in trials]
    assert float(rows[0]["validation_nrmse"]) == values[0]
    out, said = capsys.readouterr()
    assert out.index(f"{values[0]:.2f} %") < out.index("failed")
    assert f"The best is trial {trials[0]['trial']}: training.learning_rate=" in said


def test_an_interrupted_sweep_goes_on_to_the_same_trials(tmp_path, space):
    whole = call(tmp_path / "whole", space, 7, Trainer())
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path / "part", space, 7, Trainer(stop_at=6))
    rest = Trainer()
    again = call(tmp_path / "part", space, 7, rest)
    assert [(t["trial"], t["settings"], t["value"]) for t in again] == [(t["trial"], t["settings"], t["value"]) for t in whole]
    assert len(rest.calls) == 2
    # The interrupted trial goes on, the next begins.
    assert rest.calls[0][-1] == as_word("resume", str(tmp_path / "part" / "trial_006" / "checkpoints" / "interrupted.ckpt"))
    assert not any(word.startswith("resume=") for word in rest.calls[1])
    assert call(tmp_path / "part", space, 7, Trainer(stop_at=1)) == again  # only read
    assert len(call(tmp_path / "part", space, 8, Trainer())) == 8


def test_a_killed_trial_begins_anew_and_a_finished_one_is_read(tmp_path):
    folder, trainer = tmp_path / "trial_001", Trainer()
    drawn = {"training.learning_rate": 1e-3, "network.keywords.width": 8}
    folder.mkdir()
    (folder / "trial.json").write_text(json.dumps(drawn))
    (folder / "left.txt").touch()
    assert run_trial(WORDS, drawn, folder, trainer) == 44
    assert not (folder / "left.txt").exists()
    assert run_trial(WORDS, drawn, folder, trainer) == 44
    assert len(trainer.calls) == 1
    assert run_trial(WORDS, drawn | {"network.keywords.width": 16}, folder, trainer) == 42
    (tmp_path / "trial_002").mkdir()
    with pytest.raises(InputError, match="no trial of this study made it"):
        run_trial(WORDS, drawn, tmp_path / "trial_002", trainer)


def test_a_study_of_other_trainings_is_not_continued(tmp_path, space):
    call(tmp_path / "s", space, 1, Trainer())
    with pytest.raises(InputError, match=r"settings\.training\.n_warmup was 10 and is now 3.*--study"):
        call(tmp_path / "s", space, 2, Trainer(), "training.n_warmup=3")


@pytest.mark.parametrize(
    ("entries", "words", "message"),
    [
        ({"training.learning_rat": {"low": 1e-4, "high": 1e-2}}, [], "learning_rat"),
        ({"training.learning_rate": {"low": 1e-2, "high": 1e-4}}, [], r"space\.training\.learning_rate is .*low < high"),
        ({"training.learning_rate": 3}, [], "must hold low and high"),
        ({"seed": {"choices": [0, 1]}}, [], "seed changes the volumes that trainings are validated on"),
        ({"data.validation.peak_snr": {"choices": ["[50,50]"]}}, [], "peak_snr"),
        ({"data.n_validation_volumes": {"low": 1, "high": 4}}, [], "n_validation_volumes changes the volumes"),
        ({"acquisition.oversampling": {"low": 1.0, "high": 2.0}}, [], "oversampling changes the volumes"),
        ({"evaluate": {"choices": [True]}}, [], "evaluate cannot be set in a sweep"),
        (SPACE, ["hydra.run.dir=x"], r"hydra\.run\.dir cannot be set"),
        (SPACE, ["network=nothing"], "could not be read"),
    ],
)
def test_spaces_that_cannot_be_are_refused(entries, words, message):
    with pytest.raises(InputError, match=message):
        make_space([*WORDS, *words], entries)


def test_the_example_space_fits_and_groups_may_be_drawn(tmp_path):
    assert set(make_space(["experiment=unet_quick"], read_space("learning"))) >= {"training.learning_rate"}
    assert make_space(["experiment=none"], {"network": {"choices": ["unet", "unet_quick"]}, "training.l1": {"choices": [0.0, 1.0]}})
    with pytest.raises(InputError, match=r"no such file, nor one of that name in configs/sweep \(learning"):
        read_space("nothing")
    (tmp_path / "empty.yaml").write_text("{}")
    with pytest.raises(InputError, match="names no settings"):
        read_space(str(tmp_path / "empty.yaml"))


def test_arguments_are_checked(tmp_path, space, capsys):
    words = ("sweep", *WORDS, "--study", tmp_path / "s", "--space", space)
    assert "--trials is 0" in fails(capsys, *words, "--trials", "0")
    assert not (tmp_path / "s").exists()
    with pytest.raises(InputError, match=r"All 2 trials failed: RuntimeError: .*it cannot be"):
        call(tmp_path / "t", space, 2, Trainer(fail_at=(1, 2)))


def test_a_training_that_fails_says_why(tmp_path):
    """The process is a real one; its settings are refused before anything is drawn."""
    with pytest.raises(RuntimeError, match=r"status 2: error: .*learning_rate is 2\.0"):
        train_apart(["experiment=unet_quick", "debug=fast", "training.learning_rate=2.0", f"hydra.run.dir={tmp_path}"], tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the training in /proc")
def test_a_real_sweep_is_stopped_and_goes_on(tmp_path):
    """One minute. SIGTERM to the command: its training saves and ends, and the same command goes on from there."""
    (tmp_path / "space.yaml").write_text("training.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}")
    words = [*(word for word in training_pair.SETTINGS if word != "evaluate=false"), "training.validate_every=2"]

    start = [sys.executable, "-c", "from qsmdl.cli.main import main; main()", "sweep", *words, "training.n_steps=40"]
    command = [*start, "--study", str(tmp_path / "s"), "--space", str(tmp_path / "space.yaml"), "--trials", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 300
        while not (tmp_path / "s" / "trial_001" / "checkpoints" / "last.ckpt").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 130
    assert (tmp_path / "s" / "trial_001" / "checkpoints" / "interrupted.ckpt").exists()
    again = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    trials = json.loads((tmp_path / "s" / "trials.json").read_text())["trials"]
    assert [trial["error"] for trial in trials] == [None, None]
    assert trials[0]["value"] <= trials[1]["value"]
    assert "interrupted after step" in (tmp_path / "s" / "trial_001" / "output.log").read_text()
    assert "The best is trial" in again.stderr
