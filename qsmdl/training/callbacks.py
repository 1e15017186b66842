"""Lightning callbacks: stopping cleanly, slices in TensorBoard, progress where there is no terminal, and how long the trainer waits for data."""

import sys
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from qsmdl.interrupt import DeferredInterrupt
from qsmdl.scan import Batch


class StopCleanly(Callback):
    """On Ctrl-C or SIGTERM finishes the running step, saves everything to `path`, and ends training; `interrupted` tells afterwards. A signal to one
    of several processes that train together stops all of them after the same step.

    Must come before weight averaging among the callbacks: that one overwrites the current weights with their average when training ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.interrupted = False
        self._deferred = DeferredInterrupt()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start listening."""
        self._deferred.__enter__()

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Ask the trainer to stop if a signal came, to whichever process."""
        if trainer.strategy.reduce_boolean_decision(self._deferred.requested, all=False):
            self.interrupted = trainer.should_stop = True

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save, and let go of the signals."""
        if self.interrupted:
            trainer.save_checkpoint(self.path, weights_only=False)  # everything, not only the network
        self._deferred.__exit__(None, None, None)

    def on_exception(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException) -> None:
        """Let go of the signals."""
        self._deferred.__exit__(None, None, None)


class SameStream(Callback):
    """Says so where a resumed run goes on with another number of processes or loader workers: then the volumes that it draws from here on are not
    those that it would have drawn without the stop.
    """

    def __init__(self, n_workers: int) -> None:
        self.n_workers, self.n_processes = n_workers, 1

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Count the processes."""
        self.n_processes = trainer.world_size

    def state_dict(self) -> dict[str, Any]:
        """What the stream of volumes depends on besides recipe and seed."""
        return {"n_processes": self.n_processes, "n_workers": self.n_workers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare."""
        if state_dict != self.state_dict():
            before, now = (f"{s['n_processes']} x {s['n_workers']}" for s in (state_dict, self.state_dict()))
            sys.stderr.write(f"note: the run had {before} processes x loader workers, now {now}; from here on it draws other volumes\n")


def slice_sheet(volumes: list[Tensor], window_ppm: float = 0.1) -> Tensor:
    """Three orthogonal middle slices (rows) of volumes [x, y, z] in ppm (columns) as one grey image [1, height, width] in 0 to 1, window
    +-`window_ppm`.
    """
    rows = []
    for axis in (2, 1, 0):
        slices = [v.select(axis, v.shape[axis] // 2).float().T.flip(0) for v in volumes]
        rows.append(torch.cat(slices, dim=1))
    width = max(r.shape[1] for r in rows)
    padded = [torch.nn.functional.pad(r, (0, width - r.shape[1]), value=-window_ppm) for r in rows]
    return ((torch.cat(padded) + window_ppm) / (2 * window_ppm)).clamp(0, 1).unsqueeze(0)


class SliceLogger(Callback):
    """Writes reconstruction, truth and error of the first validation phantoms (those of the first process) to TensorBoard, all at +-0.1 ppm."""

    def __init__(self, n_phantoms: int = 2, window_ppm: float = 0.1) -> None:
        self.n_phantoms, self.window_ppm = n_phantoms, window_ppm

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Draw."""
        writer = getattr(trainer.logger, "experiment", None)
        skipped = trainer.sanity_checking or not trainer.is_global_zero or batch_idx >= self.n_phantoms
        if skipped or writer is None or not hasattr(writer, "add_image"):
            return
        recon, truth = outputs[0, 0].detach().cpu(), batch["chi_ppm"][0, 0].cpu()
        number = batch_idx * trainer.world_size
        writer.add_image(f"phantom_{number}/recon_truth_error", slice_sheet([recon, truth, recon - truth], self.window_ppm), trainer.global_step)


class PlainProgress(Callback):
    """A line of text every few seconds, for logs and pipes, where a progress bar would draw rubbish."""

    def __init__(self, every_s: float = 10.0, n_steps: int = 0) -> None:
        self.every_s, self.n_steps = every_s, n_steps
        self._last = self._start = time.monotonic()

    def _say(self, trainer: lightning.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        shown = {k: float(v) for k, v in trainer.callback_metrics.items() if k in ("train/loss", "val/nrmse", "val/nrmse_prior")}
        values = "  ".join(f"{k} {v:.4g}" for k, v in shown.items())
        sys.stderr.write(f"  step {trainer.global_step}/{self.n_steps}  {time.monotonic() - self._start:.0f} s  {values}\n")
        sys.stderr.flush()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._last = self._start = time.monotonic()

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Speak if it is time."""
        if time.monotonic() - self._last >= self.every_s:
            self._last = time.monotonic()
            self._say(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The last word."""
        self._say(trainer)


class DataWait(Callback):
    """Measures the share of training time spent waiting for batches: `data_wait_share`, logged, with `samples_per_s`. The first batch, for which a
    whole volume must be rendered, is told apart as `first_batch_s`. Of several processes that train together the first measures itself; patches are
    those of all. Time that a process waits for gradients of another, whose batch was late, counts as work.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.first_batch_s = self._waited = self._worked = 0.0
        self._n, self._n_processes = 0, 1
        self._mark = time.perf_counter()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._n_processes = trainer.world_size
        self._mark = time.perf_counter()

    def on_train_batch_start(self, *args: Any) -> None:
        """A batch has come."""
        now = time.perf_counter()
        if self._n == 0:
            self.first_batch_s = now - self._mark
        else:
            self._waited += now - self._mark
        self._mark = now

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any) -> None:
        """A step is done."""
        now = time.perf_counter()
        self._worked += now - self._mark
        self._mark = now
        self._n += 1
        if self._n % 10 == 0:
            pl_module.log_dict({"data/wait_share": self.data_wait_share, "data/samples_per_s": self.samples_per_s})

    def on_validation_end(self, *args: Any) -> None:
        """Validation is not waiting."""
        self._mark = time.perf_counter()

    @property
    def data_wait_share(self) -> float:
        """Share of the time between the first and the last batch that was spent waiting."""
        return self._waited / max(self._waited + self._worked, 1e-9)

    @property
    def samples_per_s(self) -> float:
        """Training patches per second."""
        return self._n * self._n_processes * self.batch_size / max(self._waited + self._worked, 1e-9)
