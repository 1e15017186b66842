"""Stopping and going on must not change the result."""

import os
import signal

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf

from qsmdl.cli import train as train_module
from qsmdl.cli.build import config_folder
from qsmdl.errors import InputError
from qsmdl.io.weights import load_weights
from qsmdl.methods import load_network

pytestmark = [
    pytest.mark.usefixtures("fast_heads"),
    # Lightning's own: no loader workers, checkpoints in a folder that exists, resuming within a stream, its use of a renamed torch class
    pytest.mark.filterwarnings(
        "ignore::UserWarning:lightning", "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:.*does not have many workers"
    ),
]


def config(*overrides):
    with initialize_config_dir(version_base=None, config_dir=os.fspath(config_folder())):
        return compose(
            "train", overrides=["debug=fast", "data.validation.voxel_size_mm=[6.0,6.0]", "acquisition.voxel_size_mm=[6.0,6.0]", *overrides]
        )


class InterruptAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


class CrashAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.step:
            raise OSError("power cut")


@pytest.fixture
def with_callback(monkeypatch):
    """Runs `fit` with one more callback."""
    original = train_module.make_callbacks

    def run(callback, *arguments):
        def make(*args):
            callbacks = original(*args)
            callbacks.all.insert(0, callback)
            return callbacks

        with monkeypatch.context() as patch:
            patch.setattr(train_module, "make_callbacks", make)
            train_module.fit(*arguments)

    return run


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path, with_callback):
    whole = load_weights(train_module.fit(config(), tmp_path / "whole"))[0]
    with pytest.raises(SystemExit) as stop:
        with_callback(InterruptAt(3), config(), tmp_path / "part")
    assert stop.value.code == 130
    interrupted = tmp_path / "part" / "checkpoints" / "interrupted.ckpt"
    assert torch.load(interrupted, weights_only=True)["global_step"] == 4  # the running step was finished
    same(whole, load_weights(train_module.fit(config(f"resume={interrupted}"), tmp_path / "resumed"))[0])


def test_a_run_may_end_before_its_schedule(tmp_path, with_callback):
    """Its weights are those of the longer run at that step, to go on from; an interruption at another step changes nothing."""
    with pytest.raises(SystemExit):
        with_callback(InterruptAt(2), config(), tmp_path / "part")
    at_three = torch.load(tmp_path / "part" / "checkpoints" / "interrupted.ckpt", weights_only=True)
    tensors, card = load_weights(train_module.fit(config("training.stop_after=3"), tmp_path / "short"))
    assert (at_three["global_step"], card["training"]["steps_done"], card["record"]["n_steps"]) == (3, 3, 3)
    same(tensors, {name: at_three["state_dict"][f"network.{name}"] for name in tensors})
    with pytest.raises(SystemExit):
        with_callback(InterruptAt(1), config("training.stop_after=3"), tmp_path / "again")
    resumed = config(f"resume={tmp_path / 'again' / 'checkpoints' / 'interrupted.ckpt'}", "training.stop_after=3")
    same(tensors, load_weights(train_module.fit(resumed, tmp_path / "resumed"))[0])


@pytest.mark.parametrize("value", ["7", "-1", "true", "1.5"])
def test_a_run_cannot_end_after_its_schedule(tmp_path, value):
    with pytest.raises(InputError, match=rf"training\.stop_after is {value.capitalize()}; it must be a whole number from 0"):
        train_module.fit(config("training.n_steps=6", f"training.stop_after={value}"), tmp_path)


def test_a_crashed_run_resumes_from_its_last_validation(tmp_path, with_callback):
    whole = load_weights(train_module.fit(config(), tmp_path / "whole"))[0]
    with pytest.raises(OSError, match="power cut"):
        with_callback(CrashAt(4), config(), tmp_path / "part")
    last = tmp_path / "part" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    same(whole, load_weights(train_module.fit(config(f"resume={last}"), tmp_path / "resumed"))[0])


def test_exported_weights_bring_their_card(tmp_path):
    path = train_module.fit(config("training.n_steps=2"), tmp_path)
    network, prior, card = load_network(path)
    assert prior.regularisations == (0.012, 0.003, 0.05)
    assert not network.training
    assert card["training"]["steps_done"] == 2
    assert card["recipe"]["voxel_size_mm"] == [6.0, 6.0]
    assert card["training"]["seed"] == 0
    assert "no ground truth" in card["training"]["data"]


def test_another_architecture_is_refused(tmp_path):
    train_module.fit(config("training.n_steps=2"), tmp_path / "a")
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    with pytest.raises(InputError, match="another architecture"):
        train_module.fit(config(f"resume={last}", "network.keywords.width=6"), tmp_path / "b")
    with pytest.raises(InputError, match="no such file"):
        train_module.fit(config("resume=missing.ckpt"), tmp_path / "c")


def test_a_pickle_is_not_executed_on_resume(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (os.fspath(tmp_path / "executed"),))

    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": Evil()}, path)
    with pytest.raises(InputError, match=r"evil\.ckpt"):
        train_module.fit(config(f"resume={path}"), tmp_path / "run")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learning_rate=abc", "training.learning_rate is 'abc'"),
        ("data.batch_size=2.5", "data.batch_size is 2.5"),
        ("data.patch_size=[16,16]", "data.patch_size"),
        ("acquisition.peak_snr=[300,30]", "low <= high"),
        ("phantom.contrast=sim3", "sim3"),
        ("network.architecture=vnet", "known are unet"),
        ("data.prior.regularisations=[-1,1,1]", "positive"),
        ("data.prior.regularisations=[0.01]", "n_priors is 3"),
    ],
)
def test_wrong_values_are_named_before_training(tmp_path, override, message):
    with pytest.raises(InputError, match=message):
        train_module.fit(config(override), tmp_path)


def test_no_hidden_configuration_survives_in_the_checkpoint(tmp_path):
    train_module.fit(config("training.n_steps=2"), tmp_path)
    hyper = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["hyper_parameters"]
    assert not any(OmegaConf.is_config(v) for v in hyper.values())
    assert hyper["network"]["architecture"] == "unet"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_may_go_on_compiled(tmp_path, with_callback):
    """Checkpoints and weights fit with and without, averaging and validation work, and the result differs by rounding alone."""
    small = ("network.keywords.width=2", "network.keywords.depth=1", "trainer.precision=32-true")
    whole = load_weights(train_module.fit(config(*small), tmp_path / "whole"))[0]
    with pytest.raises(OSError, match="power cut"):
        with_callback(CrashAt(4), config(*small), tmp_path / "part")
    last = tmp_path / "part" / "checkpoints" / "last.ckpt"
    faster = ("training.compile=true", "training.checkpoint_blocks=true", f"resume={last}")
    found, card = load_weights(train_module.fit(config(*small, *faster), tmp_path / "resumed"))
    assert (card["training"]["compile"], card["training"]["checkpoint_blocks"]) == (True, True)
    assert whole.keys() == found.keys()
    for name in whole:
        assert torch.allclose(whole[name], found[name], rtol=1e-3, atol=1e-5), name
    network, _, _ = load_network(tmp_path / "resumed" / "weights.safetensors")
    assert not network.network.checkpoint_blocks
