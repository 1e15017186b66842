"""Networks from plain settings: the only way a stored network comes back to life. Names outside the table are refused, nothing is imported by
name.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from qsmdl.errors import InputError
from qsmdl.networks.resnet import ResNet3d
from qsmdl.networks.scaling import N_MAGNITUDE_MAPS, PpmAdapter
from qsmdl.networks.unet import UNet3d
from qsmdl.networks.unrolled import PROXIMAL, Unrolled

ARCHITECTURES: dict[str, type[nn.Module]] = {"unet": UNet3d, "resnet": ResNet3d, "unrolled": Unrolled}
INITIAL_VALUES = frozenset({"zero_head", "step_size"})
"""Keywords that say which values the weights begin with, not what the network is."""


def build_network(settings: Mapping[str, Any]) -> PpmAdapter:
    """A network from its settings.

    settings: {"architecture": name in `ARCHITECTURES`, "adapter": keywords of `PpmAdapter`, "keywords": keywords of the architecture}. The number of
    input channels follows from the adapter's channels.
    """
    name = settings.get("architecture")
    if name not in ARCHITECTURES:
        raise InputError(f"The architecture is {name!r}; known are {', '.join(ARCHITECTURES)}.")
    adapter = dict(settings.get("adapter", {}))
    adapter["channels"] = tuple(adapter.get("channels", ("field", "prior", "weight")))
    try:
        several = {"prior": int(adapter.get("n_priors", 3)), "magnitude": N_MAGNITUDE_MAPS}
        n_channels = sum(several.get(channel, 1) for channel in adapter["channels"])
        network = ARCHITECTURES[name](in_channels=n_channels, **dict(settings.get("keywords", {})))
        return PpmAdapter(network, **adapter)
    except TypeError as error:
        raise InputError(f"The settings of the architecture {name!r} do not fit it: {error}. Compare them with configs/network.") from error


def _with_defaults(target: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a target will have, those it was not given included. None says that something is not there: such settings may come to be
    known later without making other networks of those that have none.
    """
    parameters = inspect.signature(target).parameters.values()
    every = {p.name: p.default for p in parameters if p.default is not p.empty} | dict(settings)
    return {key: value for key, value in every.items() if value is not None and key not in INITIAL_VALUES}


def architecture_fingerprint(settings: Mapping[str, Any]) -> str:
    """A hash of what a network is, whatever its weights: 16 hexadecimal digits of the SHA-256 of its architecture, adapter and keywords.

    settings: as for `build_network`. Defaults that are spelt out or left out, and the initial values of the weights, make no difference. Raises
    InputError for settings that build no network.
    """
    build_network(settings)
    name = str(settings["architecture"])
    keywords = _with_defaults(ARCHITECTURES[name], settings.get("keywords", {}))
    keywords.pop("in_channels", None)  # follows from the adapter
    if keywords.get("proximal") in PROXIMAL:
        keywords = _with_defaults(PROXIMAL[keywords["proximal"]], keywords)
        keywords.pop("in_channels", None)
        first = dict(keywords.get("first") or {})
        keywords["first"] = {k: v for k, v in first.items() if k not in INITIAL_VALUES and keywords.get(k) != v}
    described = {"architecture": name, "adapter": _with_defaults(PpmAdapter, settings.get("adapter", {})), "keywords": keywords}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy stored tensors into a network; refuses a checkpoint of another architecture and names what differs."""
    own = network.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    reshaped = [
        f"{k}: {tuple(tensors[k].shape)} stored, {tuple(own[k].shape)} needed"
        for k in own.keys() & tensors.keys()
        if tensors[k].shape != own[k].shape
    ]
    if missing or extra or reshaped:
        first = [*(f"{k} is missing" for k in missing[:2]), *(f"{k} is not part of it" for k in extra[:2]), *sorted(reshaped)[:2]]
        raise InputError(
            f"The checkpoint belongs to another architecture: {len(missing)} tensors missing, {len(extra)} unknown, {len(reshaped)} of another shape "
            f"({'; '.join(first)}). Use the network settings it was trained with."
        )
    network.load_state_dict(dict(tensors))
