"""The training record in Lightning's checkpoints."""

from collections.abc import Callable, Mapping
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from qsmdl.io.provenance import CARD_ENTRY, seal

MakeRecord = Callable[[int], dict[str, Any]]
"""The unsealed record of a training after so many steps."""
_STATES = ("state_dict", "current_model_state")
"""Averaged weights (validated, exported) and those that training goes on with."""


def checkpoint_tensors(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in a checkpoint that its record is sealed with."""
    return {f"{state}.{name}": tensor for state in _STATES for name, tensor in checkpoint.get(state, {}).items()}


class RecordKeeper(Callback):
    """Writes the sealed record into every checkpoint. Must come after weight averaging among the callbacks, which exchanges the weights in it."""

    def __init__(self, make_record: MakeRecord) -> None:
        self.make_record = make_record

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Seal."""
        checkpoint[CARD_ENTRY] = seal(self.make_record(trainer.global_step), checkpoint_tensors(checkpoint))
