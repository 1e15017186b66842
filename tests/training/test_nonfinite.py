"""Training stops before a step that is not finite, and leaves behind what it takes to look into it and to go on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_pair
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback
from refused_commands import fails

from qsmdl.cli import replaying
from qsmdl.cli import train as train_module
from qsmdl.cli.build import config_folder
from qsmdl.cli.main import main
from qsmdl.errors import InputError
from qsmdl.io.weights import load_weights
from qsmdl.networks.activations import watched
from qsmdl.training.nonfinite import NonFiniteError

pytestmark = [
    pytest.mark.usefixtures("fast_heads"),
    pytest.mark.filterwarnings(
        "ignore::UserWarning:lightning", "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:.*does not have many workers"
    ),
]
SMALL = (
    "debug=fast",
    "data.validation.voxel_size_mm=[6.0,6.0]",
    "acquisition.voxel_size_mm=[6.0,6.0]",
    "data.batches_per_volume=2",
    "trainer.precision=32-true",
)
POISONED = "network.encoder.1.3"
STEP = 4


def config(*overrides):
    with initialize_config_dir(version_base=None, config_dir=os.fspath(config_folder())):
        return compose("train", overrides=[*SMALL, *overrides])


class Poison(Callback):
    """An infinite weight before a step."""

    def on_train_batch_start(self, trainer, module, batch, batch_index):
        if trainer.global_step == STEP:
            self.batch = {name: value.clone() for name, value in batch.items()}
            module.get_submodule(f"network.{POISONED}").weight.data[1, 0, 0, 1, 2] = torch.inf


class InfiniteLoss(Callback):
    """A loss that is infinite once, for a reason outside the network."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch

    def on_train_batch_start(self, trainer, module, batch, batch_index):
        if trainer.global_step == STEP:
            loss = module.loss
            self.monkeypatch.setattr(module, "loss", lambda *a: (torch.inf * loss(*a)[0], {}))


class InfiniteGradient(Callback):
    def on_after_backward(self, trainer, module):
        if trainer.global_step == STEP:
            module.network.network.head.bias.grad[0] = torch.nan


@pytest.fixture
def with_callback(monkeypatch):
    original = train_module.make_callbacks

    def run(callback, *arguments):
        def make(*args):
            callbacks = original(*args)
            callbacks.all.insert(0, callback)
            return callbacks

        with monkeypatch.context() as patch:
            patch.setattr(train_module, "make_callbacks", make)
            return train_module.fit(*arguments)

    return run


@pytest.fixture
def poisoned(tmp_path, with_callback):
    poison = Poison()
    with pytest.raises(NonFiniteError, match=r"The loss is nan at step 4\. Lower training\.learning_rate"):
        with_callback(poison, config(), tmp_path / "run")
    return tmp_path / "run" / "nonfinite_step_4_rank_0.json", poison.batch


def test_the_batch_is_told_and_drawn_again(poisoned, capsys):
    path, batch = poisoned
    told = json.loads(path.read_text())
    assert (told["stream"], told["seed"], told["batch"], told["rank"], told["n_processes"], told["precision"]) == ("train", 0, STEP, 0, 1, "32-true")
    assert [volume["number"] for volume in told["volumes"]] == [2, 1]
    assert told["volumes"][0]["drawn"]["voxel_size_mm"] == [6.0, 6.0, 6.0]
    again = replaying.draw_again(told, train_module.make_data(config("data.batches_per_volume=2")))
    assert again.keys() == batch.keys()
    assert all(torch.equal(again[name], batch[name]) for name in batch)
    main(["replay", str(path)])
    out, said = capsys.readouterr()
    assert "Batch 4 of rank 0 of 1: of volumes 2, 1, seed 0" in out
    assert f"The first activation that is not finite: {POISONED} (Conv3d)" in out
    assert f"{POISONED}.weight" in out.split("Weights that are not finite")[1].split("Layers")[0]
    assert f"qsmdl replay {path}" not in said


def test_every_layer_is_looked_at_in_order(poisoned):
    path, _ = poisoned
    told = replaying.read_told(path)
    module = train_module.make_module(config())
    replaying.load_state(module, path.parent / told["checkpoint"])
    batch = replaying.draw_again(told, train_module.make_data(config()))
    found = replaying.send_through(module, batch)
    names = [layer.name for layer in found.layers]
    assert names[0] == "network.encoder.0.0"
    assert names[-1] == "network.head"
    assert len(set(names)) > 20
    assert not any(layer.n_nonfinite for layer in found.layers[: names.index(POISONED)])
    assert 0 < found.first.n_nonfinite < torch.Size(found.first.shape).numel()
    assert found.weights[0].n_nonfinite == 1
    assert not any(value.n_nonfinite for value in found.inputs)
    assert found.loss != found.loss


def test_hooks_are_gone_afterwards(poisoned):
    module = train_module.make_module(config())
    with watched(module.network) as seen:
        pass
    assert seen == []
    assert not any(m._forward_hooks for m in module.modules())


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_who_goes_on_comes_to_the_same_weights(tmp_path, with_callback, monkeypatch, kind, capsys):
    """What is kept is the state before the step, statistics of batch norm included: with the cause gone, all is as if nothing had been."""
    whole = load_weights(train_module.fit(config(), tmp_path / "whole"))[0]
    callback = InfiniteLoss(monkeypatch) if kind == "loss" else InfiniteGradient()
    with pytest.raises(NonFiniteError, match=r"The loss is inf at step 4" if kind == "loss" else r"norm of the gradient is nan at step 4"):
        with_callback(callback, config(), tmp_path / "run")
    kept = tmp_path / "run" / "checkpoints" / "nonfinite.ckpt"
    assert torch.load(kept, weights_only=True)["global_step"] == STEP
    resumed = load_weights(train_module.fit(config(f"resume={kept}"), tmp_path / "resumed"))[0]
    assert whole.keys() == resumed.keys()
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name
    file = tmp_path / "run" / "nonfinite_step_4_rank_0.json"
    assert f"qsmdl replay {file}" in capsys.readouterr().err
    main(["replay", str(file)])
    assert "Everything is finite here" in capsys.readouterr().out


def test_gradients_that_are_not_finite_are_found():
    module = train_module.make_module(config())
    data = train_module.make_data(config())
    batch = data.stream().batch(0)
    with torch.no_grad():
        module.network.network.head.weight.fill_(1e-3)
    module.network.network.head.bias.register_hook(lambda gradient: gradient * torch.inf)
    found = replaying.send_through(module, batch)
    assert found.first is None
    assert [g.name for g in found.gradients] == ["network.head.bias"]
    assert "the gradient of network.head.bias is not finite" in replaying._verdict(found)


def test_what_cannot_be_replayed_is_refused(poisoned, tmp_path, capsys):
    path, _ = poisoned
    assert "is no batch that a training told" in fails(capsys, "replay", _edited(path, lambda t: t.pop("volumes")))
    assert "is no batch that a training told" in fails(capsys, "replay", _edited(path, lambda t: t["settings"].pop("network")))
    assert "drawn otherwise now" in fails(capsys, "replay", _edited(path, lambda t: t["volumes"][0]["drawn"].update(peak_snr=1.0)))
    assert "precision is '64-true'" in fails(capsys, "replay", path, "--precision", "64-true")
    assert "--device is nowhere" in fails(capsys, "replay", path, "--device", "nowhere")
    assert "could not be read as a checkpoint" in fails(capsys, "replay", path, "--checkpoint", tmp_path / "none.ckpt")
    with pytest.raises(InputError, match="could not be read"):
        replaying.read_told(tmp_path / "none.json")


def _edited(path, edit):
    told = json.loads(path.read_text())
    edit(told)
    target = path.with_name("edited.json")
    target.write_text(json.dumps(told))
    return target


@pytest.mark.slow
def test_two_processes_tell_their_own_batches(tmp_path):
    """Half a minute. The loss is weighted until it overflows; both stop, each tells the batch of its own volumes, and one state is kept."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [*training_pair.SETTINGS, "trainer.devices=2", "trainer.strategy=ddp", "training.l1=1e300", f"hydra.run.dir={tmp_path / 'run'}"]
    command = [sys.executable, str(root / "train.py"), *words]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    assert "error: The loss is inf at step 0" in ended.stderr
    told = [json.loads((tmp_path / "run" / f"nonfinite_step_0_rank_{rank}.json").read_text()) for rank in (0, 1)]
    assert [[volume["number"] for volume in one["volumes"]] for one in told] == [[0], [1]]
    assert [(one["rank"], one["n_processes"]) for one in told] == [(0, 2), (1, 2)]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["nonfinite.ckpt"]
    main(["replay", str(tmp_path / "run" / "nonfinite_step_0_rank_1.json")])
