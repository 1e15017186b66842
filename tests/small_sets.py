"""Fixed sets of tiny volumes, and ways to tamper with them."""

import json
import os
from pathlib import Path

from hydra import compose, initialize_config_dir
from safetensors.torch import load_file, save_file

from qsmdl.cli.catalogue import config_folder
from qsmdl.cli.main import main
from qsmdl.io.fixed_set import volume_path
from qsmdl.io.provenance import tensors_digest
from qsmdl.io.volume_file import CARD_KEY, read_card

HEADS = ("experiment=none", "debug=fast")
"""The first generator's heads at 5 mm."""
EFFECTS = (f"acquisition.engine.effects.{name}.probability=1" for name in ("offset", "background", "erosion", "wraps", "slab"))
SHAPES = (
    "experiment=none",
    "phantom=engine",
    "acquisition=engine",
    "phantom.engine.max_voxels=15000",
    "phantom.engine.kinds={head:0,shapes:1,texture:0,label_map:0}",
    "data.patch_size=[12,9,10]",
    "data.n_workers=0",
    *EFFECTS,
)
"""Shapes of the engine with effects that a volume does not show but its drawn parameters tell."""


def fill(folder: Path, n: int, words: tuple[str, ...], *options: str) -> Path:
    """`qsmdl simulate FOLDER --set N`."""
    main(["simulate", str(folder), "--set", str(n), *options, *words])
    return folder


def config_of(words: tuple[str, ...], *more: str):
    """A training's configuration."""
    with initialize_config_dir(version_base=None, config_dir=os.fspath(config_folder())):
        return compose("train", overrides=[*words, *more])


def doctor(folder: Path, number: int, **tensors) -> None:
    """Puts other values into a volume, and everything in order that its own file tells of them."""
    path = volume_path(folder, number)
    changed, card = {**load_file(path), **tensors}, read_card(path)
    card["tensors"] = tensors_digest(changed)
    save_file(changed, path, metadata={CARD_KEY: json.dumps(card, sort_keys=True)})
