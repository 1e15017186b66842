"""What `qsmdl replay` does: the batch, the weights, the layers."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from qsmdl.cli.filling import one_thread
from qsmdl.cli.progress import stage
from qsmdl.cli.train import make_data, make_module
from qsmdl.data.datamodule import PhantomData
from qsmdl.errors import InputError
from qsmdl.io.files import read_json
from qsmdl.io.fixed_set import plain_of
from qsmdl.networks.activations import Activation, watched
from qsmdl.scan import Batch
from qsmdl.training.module import QSMModule

_KEYS = {"settings": dict, "volumes": list, "batch": int, "rank": int, "n_processes": int, "precision": str, "checkpoint": str}
_SETTINGS = {"seed", "phantom", "acquisition", "data", "network", "training"}
_AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Replay:
    """What was found. inputs: maps of the batch; weights: tensors of the network that are not finite; layers: outputs in the order of the calls;
    gradients: that are not finite, known where the loss is finite.
    """

    inputs: tuple[Activation, ...]
    weights: tuple[Activation, ...]
    layers: tuple[Activation, ...]
    loss: float
    gradients: tuple[Activation, ...]

    @property
    def first(self) -> Activation | None:
        """The first layer whose output is not finite."""
        return next((layer for layer in self.layers if layer.n_nonfinite), None)


def read_told(path: Path) -> dict[str, Any]:
    """What a training told of a batch. Raises InputError for another file."""
    told: dict[str, Any] = read_json(path)
    fits = isinstance(told, dict) and all(isinstance(told.get(key), kind) for key, kind in _KEYS.items())
    if not fits or not told["settings"].keys() >= _SETTINGS:
        raise InputError(f"{path} is no batch that a training told. Name a nonfinite_step_STEP_rank_RANK.json in the folder of one.")
    return told


def draw_again(told: Mapping[str, Any], data: PhantomData) -> Batch:
    """The batch that was told. Raises InputError where its volumes would be drawn as others now: by another version, or of other label maps."""
    place = {"rank": told["rank"], "world_size": told["n_processes"]}
    now = plain_of(data.describe_batch(told["batch"], **place))
    if now["volumes"] != told["volumes"]:
        raise InputError(
            f"The volumes of batch {told['batch']} are drawn otherwise now than in the training, which qsmdl {told.get('qsmdl_version')} ran. Replay "
            "it with that version, and with the same label maps (data.label_maps.folder)."
        )
    stream = data.stream(**place)
    if data.render_on is not None:
        with data.render_on:
            return stream.batch(told["batch"])
    with one_thread() if data.n_workers else nullcontext():
        return stream.batch(told["batch"])


def load_state(module: QSMModule, path: Path) -> None:
    """The weights that a checkpoint goes on with, not their average. Raises InputError for one that is not there or does not fit."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(checkpoint.get("current_model_state", checkpoint["state_dict"]))
    except (OSError, UnpicklingError, EOFError, KeyError, RuntimeError, AttributeError) as error:
        raise InputError(f"{path} could not be read as a checkpoint of this training: {error}. Name another with --checkpoint.") from error


def _precision(name: str, device: torch.device) -> AbstractContextManager[Any]:
    if name not in _AUTOCAST:
        raise InputError(f"The precision is {name!r}; a batch can be replayed in {', '.join(_AUTOCAST)}. Pass one with --precision.")
    dtype = _AUTOCAST[name]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def _place(name: str) -> torch.device:
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise InputError(f"--device is {name}, but torch cannot use it: {str(error).splitlines()[0]} Pass --device cpu.") from error


def _bad(tensors: Mapping[str, Tensor]) -> tuple[Activation, ...]:
    everything = (Activation.of(name, "", tensor) for name, tensor in tensors.items())
    return tuple(found for found in everything if found.n_nonfinite)


def send_through(module: QSMModule, batch: Batch, *, precision: str = "32-true", device: str = "cpu") -> Replay:
    """A training batch through a network as in training: forward, and backward where the loss is finite."""
    place = _place(device)
    module = module.to(place).train()
    there: Any = {name: value.to(place) for name, value in batch.items() if isinstance(value, Tensor)}
    inputs = tuple(Activation.of(name, "", value) for name, value in there.items())
    weights = _bad(module.network.state_dict())
    with _precision(precision, place), watched(module.network) as layers:
        loss, _ = module.loss(module(there), there)
    gradients: tuple[Activation, ...] = ()
    if torch.isfinite(loss):
        torch.autograd.backward(loss)
        gradients = _bad({name: p.grad for name, p in module.network.named_parameters() if p.grad is not None})
    return Replay(inputs, weights, tuple(layers), float(loss.detach()), gradients)


def _table(title: str, rows: Sequence[Activation]) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    for name, justify in (("", "left"), ("", "left"), ("shape", "left"), ("not finite", "right"), ("largest", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(row.name, row.kind, " x ".join(map(str, row.shape)), str(row.n_nonfinite), f"{row.largest:.4g}")
    return table


def _verdict(found: Replay) -> str:
    if (first := found.first) is not None:
        size = torch.Size(first.shape).numel()
        return f"The first activation that is not finite: {first.name} ({first.kind}), {first.n_nonfinite} of {size} values."
    if found.gradients:
        return f"All activations are finite, the loss is {found.loss:.4g}; the gradient of {found.gradients[0].name} is not finite."
    if found.loss != found.loss or abs(found.loss) == float("inf"):
        return f"All activations of layers are finite, but the loss is {found.loss}."
    return (
        f"Everything is finite here, the loss is {found.loss:.4g}: training had another device, precision, or batch (of all processes), or what is "
        "computed is not the same each time (replay it again)."
    )


def _print(told: Mapping[str, Any], found: Replay) -> None:
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    numbers = ", ".join(str(volume.get("number")) for volume in told["volumes"])
    console.print(f"Batch {told['batch']} of rank {told['rank']} of {told['n_processes']}: of volumes {numbers}, seed {told['settings'].get('seed')}")
    console.print(_table("Batch", found.inputs))
    if found.weights:
        console.print(_table("Weights that are not finite", found.weights))
    console.print(_table("Layers, in the order of their calls", found.layers))
    if found.gradients:
        console.print(_table("Gradients that are not finite", found.gradients))
    console.print(_verdict(found))


def run_replay(arguments: argparse.Namespace) -> None:
    """Draw, load, send through, tell."""
    told = read_told(arguments.file)
    config: DictConfig = OmegaConf.create(told["settings"])
    # Layers inside a compiled graph cannot be watched, and recomputed ones would be told twice.
    config.training.compile = config.training.checkpoint_blocks = False
    with stage(f"Drawing batch {told['batch']} again"):
        module = make_module(config)
        load_state(module, arguments.checkpoint or arguments.file.parent / told["checkpoint"])
        batch = draw_again(told, make_data(config))
    _print(told, send_through(module, batch, precision=arguments.precision or told["precision"], device=arguments.device))
