"""The weights that come with the package, and networks from weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qsmdl.about import ShippedNetwork
from qsmdl.data.inputs import Prior
from qsmdl.errors import InputError
from qsmdl.io.weights import load_weights
from qsmdl.networks.build import build_network, load_tensors
from qsmdl.networks.scaling import PpmAdapter

_FOLDER = Path(__file__).parents[1] / "weights"
SHIPPED_WEIGHTS = _FOLDER / "quick.safetensors"
"""The small network that comes with the package; its card says what it was trained on."""
FLAGSHIP_WEIGHTS = _FOLDER / "flagship.safetensors"
"""The network of the methods `flagship` and `flagship_fine`, where it comes with the package."""
DENOISER_WEIGHTS = _FOLDER / "denoiser.safetensors"
"""That of `pnp`, where it comes with the package."""


def shipped_path(name: ShippedNetwork) -> Path:
    """Where the weights of a network lie that comes with the package, if it does."""
    return {"quick": SHIPPED_WEIGHTS, "flagship": FLAGSHIP_WEIGHTS, "denoiser": DENOISER_WEIGHTS}[name]


def shipped_weights(name: ShippedNetwork) -> Path:
    """The same. Raises InputError where they do not come with this version."""
    path = shipped_path(name)
    if not path.is_file():
        raise InputError(
            f"The weights of the {name} network ({path}) do not come with this version of qsmdl. Give the method weights of your own: "
            "checkpoint=PATH, a .safetensors file of train.py."
        )
    return path


def load_network(checkpoint: str | Path | None, shipped: ShippedNetwork = "quick") -> tuple[PpmAdapter, Prior, Mapping[str, Any]]:
    """A trained network in evaluation mode, its prior and its card, from a safetensors file (None: the shipped weights
    of that name).

    The card names the architecture among those of `networks.build`; nothing else in the file is interpreted. Raises InputError for anything that is
    not such a file, or whose tensors belong to another architecture.
    """
    path = Path(checkpoint) if checkpoint is not None else shipped_weights(shipped)
    tensors, card = load_weights(path)
    prior = _prior_of(card, path)
    try:
        network = build_network(card["network"])
        load_tensors(network, tensors)
    except (InputError, TypeError) as error:
        raise InputError(f"{path}: {error}") from error
    return network.eval(), prior, card


def load_prior(path: Path) -> Prior:
    """What a network is fed, from its file alone. Raises InputError as `load_network`."""
    return _prior_of(load_weights(path)[1], path)


def _prior_of(card: Mapping[str, Any], path: Path) -> Prior:
    if not isinstance(card.get("network"), dict) or not isinstance(card.get("prior"), dict):
        raise InputError(f"The card of {path} names no network and prior. Export weights with train.py, which writes both.")
    try:
        return Prior(**card["prior"])
    except (InputError, TypeError) as error:
        raise InputError(f"{path}: {error}") from error
