"""Several processes that train together (`trainer.devices`, `trainer.num_nodes`): which one this is, and what only the first of them does."""

import signal
from collections.abc import Mapping, Sequence
from typing import Any

import lightning
from lightning.pytorch.utilities import rank_zero_only

from qsmdl.errors import InputError

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")
"""Of Lightning. Processes that are spawned or forked hand nothing back but weights, neither their record nor that they were interrupted; strategies
that share the weights out among processes cannot average them.
"""


def is_first_process() -> bool:
    """Whether this process speaks, writes files and scores: rank 0, or one that trains alone. Known from the environment (RANK, LOCAL_RANK,
    SLURM_PROCID) before the trainer is made, from the trainer afterwards.
    """
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def follower_words(words: Sequence[str]) -> list[str]:
    """What the command line of a process other than the first needs besides its words, so that Hydra writes no files: neither its settings nor a log,
    and no folder either, whose name would hold the second in which this process began.
    """
    if is_first_process():
        return []
    wanted = {"hydra.run.dir": ".", "hydra.output_subdir": "null", "hydra/job_logging": "stdout"}
    given = {word.split("=", 1)[0] for word in words}
    return [f"{name}={value}" for name, value in wanted.items() if name not in given]


def started_by_first_process(words: Sequence[str]) -> bool:
    """Whether Lightning started this process from the first one, with the command line of that one and a job name of its own."""
    return any(word.startswith("hydra.job.name=train_ddp_process_") for word in words)


def check_strategy(settings: Mapping[str, Any]) -> None:
    """Raises InputError for settings of `configs/trainer` whose strategy is not one of STRATEGIES."""
    strategy = settings.get("strategy", "auto")
    if strategy not in STRATEGIES:
        raise InputError(f"trainer.strategy is {strategy!r}; it must be one of {', '.join(STRATEGIES)}. Several devices train together with ddp.")


def end_others(trainer: lightning.Trainer) -> None:
    """End the processes that this one has started, after an error: they would wait for its gradients, and heed no other signal meanwhile."""
    launcher = trainer.strategy.launcher
    if launcher is not None:
        launcher.kill(signal.SIGKILL)
