"""python train.py: train a network on simulated phantoms, export its weights, score it on held-out ones."""

import dataclasses
import logging
import os
import sys
import time
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import hydra
import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, open_dict

from qsmdl import __version__
from qsmdl.cli.build import build_recipe, plain
from qsmdl.cli.cache import Cache
from qsmdl.cli.catalogue import config_folder
from qsmdl.cli.errors import reported
from qsmdl.cli.evaluate import evaluate
from qsmdl.cli.label_maps import LabelMaps
from qsmdl.cli.processes import check_strategy, end_others, follower_words, is_first_process, started_by_first_process
from qsmdl.cli.progress import console, stage
from qsmdl.cli.records import Earlier, Guard, begin_record, read_earlier
from qsmdl.data.curriculum import Curriculum
from qsmdl.data.datamodule import PhantomData
from qsmdl.data.inputs import Prior
from qsmdl.errors import InputError
from qsmdl.interrupt import EXIT_INTERRUPTED, end_with_parent
from qsmdl.io.provenance import CARD_ENTRY, seal
from qsmdl.io.weights import halved, save_weights
from qsmdl.networks.build import load_tensors
from qsmdl.training.callbacks import DataWait, PlainProgress, SameStream, SliceLogger, StopCleanly
from qsmdl.training.module import QSMModule
from qsmdl.training.nonfinite import DescribeBatch, KeepBadBatch
from qsmdl.training.records import MakeRecord, RecordKeeper
from qsmdl.validation import check_settings

MODULE_SETTINGS = (
    "n_steps",
    "learning_rate",
    "weight_decay",
    "n_warmup",
    "final_learning_rate_factor",
    "relative",
    "deep_grey",
    "l1",
    "dipole",
    "gradient",
    "compile",
    "checkpoint_blocks",
    "freeze_norm",
)


@dataclasses.dataclass(frozen=True)
class Callbacks:
    """The callbacks of a run, those that are asked afterwards by name."""

    stop: StopCleanly
    wait: DataWait
    all: list[Callback]


def make_data(config: DictConfig) -> PhantomData:
    """The data module of a config."""
    data, phantom, acquisition = plain(config.data), plain(config.phantom), plain(config.acquisition)
    overrides, curriculum, cache = data.pop("validation"), data.pop("curriculum"), Cache.of(data.pop("cache"))
    prior, label_maps = data.pop("prior"), LabelMaps.of(data.pop("label_maps"))
    check_settings("data.prior", Prior, prior)
    check_settings("data", PhantomData, data)
    data["patch_size"] = tuple(data["patch_size"])
    recipe = build_recipe(phantom, acquisition, curriculum=curriculum)
    validation = build_recipe(phantom, acquisition, overrides)
    atlases = label_maps.read(recipe, validation)
    kept = cache.open(recipe, config.seed, atlases)
    return PhantomData(recipe, validation, Prior(**prior), seed=config.seed, atlases=atlases, cache=kept, **data)


def make_module(config: DictConfig) -> QSMModule:
    """The Lightning module of a config, its weights drawn from the seed."""
    settings = {key: value for key, value in plain(config.training).items() if key in MODULE_SETTINGS}
    check_settings("training", QSMModule, settings)
    torch.manual_seed(config.seed)
    module = QSMModule(plain(config.network), **settings)
    prior = Prior(**plain(config.data.prior))
    if module.network.n_priors != prior.n_maps:
        raise InputError(f"network.adapter.n_priors is {module.network.n_priors}, but data.prior makes {prior.n_maps} maps. Make them agree.")
    if ("magnitude" in module.network.channels) != prior.magnitude:
        raise InputError(
            f"data.prior.magnitude is {prior.magnitude}, but network.adapter.channels are {module.network.channels}. Have it in both, or in neither."
        )
    return module


def describe_batches(config: DictConfig, data: PhantomData) -> DescribeBatch:
    """What is told of a batch whose loss is not finite: all that it takes to draw it again."""
    settings = {key: plain(config[key]) for key in ("seed", "phantom", "acquisition", "data", "network", "training")}
    return lambda step, rank, n: {"qsmdl_version": __version__, **data.describe_batch(step, rank, n), "settings": settings}


def make_callbacks(config: DictConfig, folder: Path, make_record: MakeRecord, describe: DescribeBatch) -> Callbacks:
    """Stopping cleanly comes first: it must save before the averaged weights replace the current ones. The record is sealed after averaging."""
    training = config.training
    stop, wait = StopCleanly(folder / "checkpoints" / "interrupted.ckpt"), DataWait(config.data.batch_size)
    everything: list[Callback] = [
        stop,
        KeepBadBatch(folder, describe),
        EMAWeightAveraging(decay=training.ema_decay),
        RecordKeeper(make_record),
        wait,
        SameStream(config.data.n_workers),
        SliceLogger(),
        LearningRateMonitor(logging_interval="step"),
        ModelCheckpoint(folder / "checkpoints", filename="best", monitor="val/nrmse", save_last=True, enable_version_counter=False),
        TQDMProgressBar() if sys.stderr.isatty() else PlainProgress(n_steps=steps_of(config)),
    ]
    if training.early_stopping:
        everything.append(EarlyStopping("val/nrmse", patience=training.early_stopping))
    return Callbacks(stop, wait, everything)


def steps_of(config: DictConfig) -> int:
    """After how many steps training ends: those of its schedule, or `training.stop_after`."""
    n_steps, stop_after = config.training.n_steps, config.training.stop_after
    if isinstance(stop_after, bool) or not isinstance(stop_after, int) or not 0 <= stop_after <= n_steps:
        raise InputError(f"training.stop_after is {stop_after!r}; it must be a whole number from 0 (never) up to training.n_steps, {n_steps}.")
    return int(stop_after or n_steps)


def make_trainer(config: DictConfig, folder: Path, callbacks: list[Callback]) -> lightning.Trainer:
    """One endless epoch, cut into stretches of `validate_every` steps: a stream has no natural end, and loaders keep their heads between
    validations.
    """
    n_steps, settings = steps_of(config), plain(config.trainer)
    check_strategy(settings)
    if settings["precision"] == "auto":
        # Half precision pays only where the processor computes in it; elsewhere it is emulated, and slower than float32.
        settings["precision"] = "bf16-mixed" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "32-true"
    return lightning.Trainer(
        **settings,
        max_steps=n_steps,
        max_epochs=-1,
        limit_train_batches=n_steps,
        val_check_interval=min(config.training.validate_every, n_steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        logger=TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False),
        default_root_dir=folder,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
    )


def make_card(config: DictConfig, data: PhantomData, trainer: lightning.Trainer, seconds: float) -> dict[str, Any]:
    """What goes with the weights: how to build the network, what it may be fed, what it was trained on."""
    nrmse, recipe = trainer.callback_metrics.get("val/nrmse"), data.recipe
    n_volumes = data.sources(trainer.global_step)[0]["n_volumes"]
    envelope = recipe.at(max(n_volumes - 1, 0)).envelope  # a curriculum may not have come to its end
    if not (config.data.prior.magnitude or config.data.prior.echoes):
        del envelope["n_echoes"]  # a network that is fed the field map alone does not know of echoes
    return {
        "qsmdl_version": __version__,
        "network": plain(config.network),
        "prior": plain(config.data.prior),
        "units": "ppm in, ppm out; field = D chi, phase = +2 pi gamma B0 TE field",
        "envelope": envelope,
        "recipe": recipe.to_plain(),
        "recipe_digest": recipe.digest,
        "training": {
            **plain(config.training),
            "seed": config.seed,
            "steps_done": trainer.global_step,
            "batch_size": config.data.batch_size,
            "n_processes": trainer.world_size,
            "patch_size": plain(config.data.patch_size),
            "seconds": round(seconds, 1),
            "validation_nrmse": None if nrmse is None else round(float(nrmse), 3),
            "data": "phantoms generated by qsmdl only; no measured scan, no ground truth of any challenge",
        },
        "licence": "Apache-2.0",
    }


def _check_resume(path: str | None) -> str | None:
    if path is not None and not Path(path).is_file():
        raise InputError(f"resume is {path!r}, but there is no such file. Name a checkpoint of an earlier run, as checkpoints/last.ckpt.")
    return path


def _begin_with(module: QSMModule, earlier: Earlier) -> None:
    if earlier.tensors is not None:
        load_tensors(module.network, earlier.tensors)


def _tell_curriculum(data: PhantomData, n_steps: int) -> None:
    """Say so where training ended before its curriculum did."""
    course, n_volumes = data.recipe.curriculum, data.sources(n_steps)[0]["n_volumes"]
    if isinstance(course, Curriculum) and n_volumes <= course.until:
        console.print(f"  note: {n_volumes} volumes were drawn, but the curriculum ends at number {course.until}; the card tells how far it came")


def _run(trainer: lightning.Trainer, module: QSMModule, data: PhantomData, resume: str | None) -> None:
    try:
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    except BaseException:
        end_others(trainer)
        raise


def fit(config: DictConfig, folder: Path) -> Path:
    """Train, and export the averaged weights; returns the exported file. Ends the process with status 130 after an interruption that was saved.

    Of several processes that train together all come here; the first one exports, and alone says that it was interrupted, since a launcher ends all
    processes where one of the others fails.
    """
    resume, guard = _check_resume(config.resume), Guard.of(config)
    data, module = make_data(config), make_module(config)
    earlier = read_earlier(resume, config.start_from, guard)
    _begin_with(module, earlier)
    make_record = begin_record(guard, data, plain(config.network), earlier)
    callbacks = make_callbacks(config, folder, make_record, describe_batches(config, data))
    trainer = make_trainer(config, folder, callbacks.all)
    console.print(f"Training {module.network.n_parameters:,} weights for {steps_of(config)} steps; TensorBoard: tensorboard --logdir {folder}")
    begun = time.monotonic()
    try:
        _run(trainer, module, data, resume)
    except RuntimeError as error:
        if resume and "state_dict" in str(error):
            raise InputError(f"{resume} belongs to another architecture: {error}. Resume with the network settings of that run.") from error
        raise
    except (UnpicklingError, KeyError, EOFError) as error:
        if resume:
            raise InputError(
                f"{resume} could not be read as a checkpoint of a run: {error}. It is damaged, or holds objects, which are never loaded."
            ) from error
        raise
    if callbacks.stop.interrupted and not is_first_process():
        sys.exit(0)
    if callbacks.stop.interrupted:
        sys.stderr.write(f"interrupted after step {trainer.global_step}; go on with resume={callbacks.stop.path}; exit status {EXIT_INTERRUPTED}\n")
        sys.exit(EXIT_INTERRUPTED)
    console.print(f"  {callbacks.wait.samples_per_s:.2f} patches/s, {100 * callbacks.wait.data_wait_share:.1f} % of the time waiting for data")
    _tell_curriculum(data, trainer.global_step)
    path = folder / "weights.safetensors"
    if not is_first_process():
        return path
    card, tensors = make_card(config, data, trainer, time.monotonic() - begun), module.network.state_dict()
    tensors = halved(tensors) if config.training.half_weights else tensors
    save_weights(path, tensors, card | {CARD_ENTRY: seal(make_record(trainer.global_step), tensors)})
    return path


def train(config: DictConfig, folder: Path) -> None:
    """Train and, if wanted, score on held-out phantoms with the weights just made."""
    # Lightning's tips and device reports are noise in a log that people read.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message="Grad strides do not match")  # of 1 x 1 x 1 convolutions in several processes; costs nothing
    console.quiet = not is_first_process()
    with stage("Training"):
        path = fit(config, folder)
    if not config.evaluate or not is_first_process():
        return
    with open_dict(config):
        config.data = config.held_out
        config.allow_unattested = config.guard.allow_unattested  # weights that were marked knowingly are scored, and their rows marked
        for name in ("unet", "fine", "flagship", "flagship_fine"):
            if name in config.method and config.method[name].checkpoint is None:
                config.method[name].checkpoint = os.fspath(path)
    evaluate(config, folder)


@hydra.main(version_base=None, config_path=os.fspath(config_folder()), config_name="train")
def _main(config: DictConfig) -> Any:
    with reported():
        train(config, Path(HydraConfig.get().runtime.output_dir))


def main() -> None:
    """Entry point of train.py."""
    if started_by_first_process(sys.argv[1:]):
        end_with_parent()
    sys.argv += follower_words(sys.argv[1:])
    _main()


if __name__ == "__main__":
    main()
