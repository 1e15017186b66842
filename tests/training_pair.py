"""One of two processes that train together: `python training_pair.py FOLDER` with the environment that torchrun would set.

Trains three times with the same settings, whole, stopped by a signal to the second process alone, and gone on with, and leaves in FOLDER what each
process drew and which weights it ended with.
"""

import os
import signal
import sys
import warnings
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback

SAMPLES = [  # tiny volumes of the engine, half a second each
    "phantom=engine",
    "acquisition=engine",
    "debug=fast",
    "phantom.engine.kinds={texture:1,head:0,shapes:0,label_map:0}",
    "phantom.field_of_view_mm=[50,45,40]",
    "acquisition.engine.protocol.voxel_size_mm=[2.5,3.0]",
    "data.validation.engine=same",
]
SETTINGS = [
    *SAMPLES,
    "data.batch_size=1",
    "data.batches_per_volume=2",
    "data.n_validation_volumes=3",
    "network.keywords.norm=none",
    "training.n_steps=4",
    "training.validate_every=2",
    "trainer.precision=32-true",
    "evaluate=false",
]


def config(*overrides):
    from qsmdl.cli.catalogue import config_folder

    with initialize_config_dir(version_base=None, config_dir=os.fspath(config_folder())):
        return compose("train", overrides=[*SETTINGS, *overrides])


class SignalAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


class Watch:
    """What `cli.train.fit` draws and ends with."""

    def __init__(self, patch):
        from qsmdl.cli import train
        from qsmdl.data import stream

        self.drawn, self.modules, self.trainers, self.extra = [], [], [], []
        self.seed_of = stream.volume_seed
        makers = train.make_module, train.make_callbacks, train.make_trainer
        patch(stream, "volume_seed", self._draw)
        patch(train, "make_module", lambda c: self._keep(self.modules, makers[0](c)))
        patch(train, "make_callbacks", lambda *a: self._add(makers[1](*a)))
        patch(train, "make_trainer", lambda *a: self._keep(self.trainers, makers[2](*a)))

    def _draw(self, name, seed, index):
        self.drawn.append(index)
        return self.seed_of(name, seed, index)

    @staticmethod
    def _keep(everything, one):
        everything.append(one)
        return one

    def _add(self, callbacks):
        callbacks.all[:0] = self.extra
        return callbacks

    def fit(self, settings, folder, *extra):
        """What a training ended with, as plain values; status: that of the process if it was stopped."""
        from qsmdl.cli import train

        self.drawn, self.extra, status = [], extra, None
        try:
            train.train(settings, folder)
        except SystemExit as stop:
            status = stop.code
        return {
            "drawn": self.drawn,
            "status": status,
            "validation": float(self.trainers[-1].callback_metrics["val/nrmse"]),
            "weights": {name: tensor.clone() for name, tensor in self.modules[-1].network.state_dict().items()},
        }


def main(folder):
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rank = os.environ["RANK"]
    watch, pair = Watch(setattr), ("trainer.devices=2", "trainer.strategy=ddp")
    found = {"whole": watch.fit(config(*pair), folder / "whole")}
    stopper = [SignalAt(2)] if rank == "1" else []
    found["stopped"] = watch.fit(config(*pair), folder / "stopped", *stopper)
    found["resumed"] = watch.fit(config(*pair, f"resume={folder / 'stopped' / 'checkpoints' / 'interrupted.ckpt'}"), folder / "resumed")
    torch.save(found, folder / f"process_{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
