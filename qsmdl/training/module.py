"""The Lightning module around a network."""

import math
from collections.abc import Sized
from typing import Any, Self, cast

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from qsmdl.errors import InputError
from qsmdl.networks.build import build_network
from qsmdl.networks.data_term import Physics
from qsmdl.networks.economy import checkpoint_blocks as recompute_blocks
from qsmdl.networks.economy import compile_convolutions, compiler_errors, keep_statistics, not_compiled
from qsmdl.scan import Batch
from qsmdl.training.losses import dipole_consistency, gradient_difference, masked_l1, nrmse, relative_error
from qsmdl.training.nonfinite import NonFiniteError

_REMEDY = "Lower training.learning_rate, or use trainer.precision=32-true."


def warmup_cosine(step: int, *, n_warmup: int, n_steps: int, final: float) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine down to `final`, which it keeps."""
    if step < n_warmup:
        return (step + 1) / n_warmup
    progress = min((step - n_warmup) / max(n_steps - n_warmup, 1), 1.0)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


class QSMModule(lightning.LightningModule):
    """Supervised training of a network on simulated phantoms.

    network: the plain settings of `networks.build_network` (kept in the checkpoint, so that it holds plain values only); the loss is
    relative * relative error + deep_grey * relative error in the deep grey matter + (l1 * masked L1 + dipole * dipole consistency + gradient *
    gradient difference, in ppm) * the adapter's scale; optimiser AdamW (Loshchilov and Hutter 2019) with warm-up and cosine decay over `n_steps`.
    Validation logs the mean NRMSE over the phantoms as `val/nrmse`. compile: the network's convolutional parts, in training (`networks.economy`);
    checkpoint_blocks: recompute them in the backward pass.
    freeze_norm: batch norm normalises by its running statistics in training, too, and leaves them as they are, so that the network is trained as it
    will be used; for the last part of a training, from weights whose statistics are settled (`networks.economy.keep_statistics`).
    """

    def __init__(
        self,
        network: dict[str, Any],
        *,
        n_steps: int,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-5,
        n_warmup: int = 20,
        final_learning_rate_factor: float = 0.02,
        relative: float = 0.0,
        deep_grey: float = 0.0,
        l1: float = 1.0,
        dipole: float = 0.5,
        gradient: float = 0.1,
        compile: bool = False,  # noqa: A002 - the name of the setting
        checkpoint_blocks: bool = False,
        freeze_norm: bool = False,
    ) -> None:
        super().__init__()
        weights = {"relative": relative, "deep_grey": deep_grey, "l1": l1, "dipole": dipole, "gradient": gradient, "weight_decay": weight_decay}
        for name, value in weights.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InputError(f"{name} is {value!r}; it must be a number of at least 0.")
        if not isinstance(learning_rate, int | float) or not 0 < learning_rate < 1:
            raise InputError(f"learning_rate is {learning_rate!r}; it must be a number between 0 and 1.")
        if relative + l1 + dipole + gradient == 0:
            raise InputError("No loss sees the whole of a patch; at least one of relative, l1, dipole and gradient must be positive.")
        self.save_hyperparameters()
        self.network = build_network(network)
        if checkpoint_blocks:
            recompute_blocks(self.network)
        if compile:
            compile_convolutions(self.network)
        if freeze_norm:
            keep_statistics(self.network)  # refused here where there are none
        self.example_input_array = None

    def train(self, mode: bool = True) -> Self:
        """As everywhere, but for statistics that are to stay."""
        super().train(mode)
        if self.hparams.get("freeze_norm"):
            keep_statistics(self.network)
        return self

    def forward(self, batch: Batch) -> Tensor:
        """Susceptibility in ppm [batch, 1, x, y, z]."""
        echoes = (batch.get("rad_per_ppm"), batch.get("echo_share"), batch.get("echo_phase_rad"))
        physics = Physics(batch["voxel_size_mm"], batch["b0_direction"], *echoes)
        known = (batch["field_ppm"], batch["prior_ppm"], batch["mask"], batch["weight"])
        chi: Tensor = self.network(*known, batch.get("magnitude"), physics)
        return chi

    def loss(self, chi_ppm: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum and its unweighted parts, by name; parts of weight 0 are not computed."""
        truth, mask, weights = batch["chi_ppm"], batch["mask"], self.hparams
        parts: dict[str, Tensor] = {}
        if weights["relative"]:
            parts["relative"] = relative_error(chi_ppm, truth, mask)
        if weights.get("deep_grey"):  # checkpoints of before have none
            parts["deep_grey"] = relative_error(chi_ppm, truth, batch["deep_grey"])
        if weights["l1"]:
            parts["l1_ppm"] = masked_l1(chi_ppm, truth, mask)
        if weights["dipole"]:
            parts["dipole_ppm"] = dipole_consistency(chi_ppm, truth, mask, batch["weight"], batch["voxel_size_mm"], batch["b0_direction"])
        if weights["gradient"]:
            parts["gradient_ppm"] = gradient_difference(chi_ppm, truth, mask)
        scale = self.network.get_buffer("scale")
        weighted = [weights[name.removesuffix("_ppm")] * part * (scale if name.endswith("_ppm") else 1) for name, part in parts.items()]
        return sum(weighted, chi_ppm.new_zeros(())), parts

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """One step; stops with the step's number if the loss is not finite, before it can spoil the weights: in all processes that train together, or
        those where it is finite would wait for the others' gradients.
        """
        with compiler_errors(self.hparams["compile"]):
            chi = self(batch)
        loss, parts = self.loss(chi, batch)
        if not self._in_all_processes(bool(torch.isfinite(loss))):
            where = f"is {loss.item()}" if not torch.isfinite(loss) else "of another process is not finite"
            raise NonFiniteError(f"The loss {where} at step {self.global_step}. {_REMEDY}", here=not torch.isfinite(loss))
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}": part for name, part in parts.items()})
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop before a step along a gradient that is not finite, although the loss is. Processes that train together share theirs by now."""
        if self.trainer.scaler is not None:
            return  # of float16 training, which leaves such steps out and goes on with a smaller scale
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])
        if not torch.isfinite(norm):
            raise NonFiniteError(f"The norm of the gradient is {norm.item()} at step {self.global_step}. {_REMEDY}")

    def validation_step(self, batch: Batch, batch_index: int) -> Tensor:
        """The reconstruction of one validation phantom, for callbacks that draw it.

        Processes that train together share the phantoms out. Where these do not come out even, Lightning repeats the first ones, which then count
        nothing: the means are those of one process. (Lightning takes the mean over processes of their numbers of phantoms too, and rounds it: as
        multiples of the number of processes they survive.)
        """
        with not_compiled(self.hparams["compile"]):
            chi: Tensor = self(batch)
        n_phantoms = len(cast(Sized, cast(DataLoader[Batch], self.trainer.val_dataloaders).dataset))
        n_processes = self.trainer.world_size
        count = n_processes if batch_index * n_processes + self.global_rank < n_phantoms else 0
        self.log("val/nrmse", nrmse(chi, batch["chi_ppm"], batch["mask"]), prog_bar=True, batch_size=count, sync_dist=True)
        self.log("val/nrmse_prior", nrmse(batch["prior_ppm"][:, :1], batch["chi_ppm"], batch["mask"]), batch_size=count, sync_dist=True)
        return chi

    def _in_all_processes(self, decision: bool) -> bool:
        return decision if self._trainer is None else bool(self.trainer.strategy.reduce_boolean_decision(decision))

    def configure_optimizers(self) -> Any:
        """AdamW, with the learning rate set at every step."""
        settings = self.hparams
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings["learning_rate"], weight_decay=settings["weight_decay"], betas=(0.9, 0.99)
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: warmup_cosine(
                step, n_warmup=settings["n_warmup"], n_steps=settings["n_steps"], final=settings["final_learning_rate_factor"]
            ),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
