"""Networks from plain settings: the only way a stored network comes back to life. Names outside the table are refused, nothing is imported by
name.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from qsmdl.errors import InputError
from qsmdl.networks.scaling import PpmAdapter
from qsmdl.networks.unet import UNet3d

ARCHITECTURES: dict[str, type[nn.Module]] = {"unet": UNet3d}


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
        n_channels = sum(int(adapter.get("n_priors", 3)) if channel == "prior" else 1 for channel in adapter["channels"])
        network = ARCHITECTURES[name](in_channels=n_channels, **dict(settings.get("keywords", {})))
        return PpmAdapter(network, **adapter)
    except TypeError as error:
        raise InputError(f"The settings of the architecture {name!r} do not fit it: {error}. Compare them with configs/network.") from error


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
