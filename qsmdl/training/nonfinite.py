"""A loss or gradient that is not finite: the batch is told so that it can be drawn again (`qsmdl replay`), and the state before it is kept."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.io.files import write_json

DescribeBatch = Callable[[int, int, int], dict[str, Any]]
"""What the training batch of a number is drawn from, for a rank of so many processes, as plain values."""
CHECKPOINT = "nonfinite.ckpt"


class NonFiniteError(InputError):
    """Training stopped before a step that would have spoilt the weights. here: whether this process is where it happened."""

    def __init__(self, message: str, *, here: bool = True) -> None:
        super().__init__(message)
        self.here = here


class KeepBadBatch(Callback):
    """On a `NonFiniteError` writes the state before the step to checkpoints/nonfinite.ckpt, to go on from, and what its batch is drawn from to
    nonfinite_step_STEP_rank_RANK.json. Of several processes that train together each tells its own batch, if it was that one.
    """

    def __init__(self, folder: Path, describe: DescribeBatch) -> None:
        self.folder, self.describe = folder, describe
        self._before: list[tuple[Tensor, Tensor]] = []

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any) -> None:
        """Keep the statistics of batch norm, which the forward pass changes."""
        self._before = [(buffer, buffer.clone()) for buffer in pl_module.buffers()]

    def on_exception(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException) -> None:
        """Keep state and batch."""
        if not isinstance(exception, NonFiniteError):
            return
        for buffer, before in self._before:
            buffer.copy_(before)
        step, rank = trainer.global_step, trainer.global_rank
        trainer.save_checkpoint(self.folder / "checkpoints" / CHECKPOINT, weights_only=False)  # by all processes, or it would wait
        if exception.here:
            path = self.folder / f"nonfinite_step_{step}_rank_{rank}.json"
            told = {"message": str(exception), "checkpoint": f"checkpoints/{CHECKPOINT}", "precision": str(trainer.precision)}
            write_json(path, told | self.describe(step, rank, trainer.world_size), overwrite=True)
            sys.stderr.write(f"the batch is told in {path}; look into it with: qsmdl replay {path}\n")
