"""The only normalisation in qsmdl: ppm to network units and back by one fixed constant."""

from typing import Literal

import torch
from torch import Tensor, nn

from qsmdl.errors import InputError
from qsmdl.networks.data_term import Physics

Channel = Literal["field", "prior", "weight", "mask", "magnitude"]
CHANNELS: tuple[Channel, ...] = ("field", "prior", "weight", "mask", "magnitude")
N_MAGNITUDE_MAPS = 3


class PpmAdapter(nn.Module):
    """Wraps a network so that ppm go in and ppm come out.

    network: [batch, n_channels, x, y, z] to [batch, 1, x, y, z], or one that `needs_physics` and is handed the data term too; channels: what it is
    fed, in this order ("prior" stands for all `n_priors` of them, "magnitude" for three: first and last echo and R2*, which may be missing); scale:
    network units per ppm (10: the tissue range of +-0.1 ppm becomes +-1); residual: the output is added to the first prior, an inversion of the
    field, so that the network refines physics instead of learning it; rest: which of the priors (from 0) is the field that a data term still has to
    explain, None: all of it. No statistics of any data set
    are involved: the same map in gives the same map out, whatever it was trained on.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        channels: tuple[Channel, ...] = ("field", "prior", "weight"),
        n_priors: int = 3,
        scale: float = 10.0,
        residual: bool = True,
        rest: int | None = None,
    ) -> None:
        super().__init__()
        unknown = [c for c in channels if c not in CHANNELS]
        if unknown or not channels:
            raise InputError(f"channels are {tuple(channels)}; choose from {', '.join(CHANNELS)}, at least one.")
        if not 0 < float(scale) < 1e6:
            raise InputError(f"scale is {scale}; it must be a positive number of network units per ppm.")
        if rest is not None and not 0 <= int(rest) < int(n_priors):
            raise InputError(f"rest is {rest}; it must be the number of one of the {n_priors} priors, from 0, or null for the whole field.")
        self.network = network
        self.rest = None if rest is None else int(rest)
        self.channels, self.n_priors = tuple(channels), int(n_priors)
        self.residual = bool(residual)
        self.register_buffer("scale", torch.tensor(float(scale)))

    @property
    def needs_physics(self) -> bool:
        """Whether the network has data steps inside."""
        return bool(getattr(self.network, "needs_physics", False))

    def forward(
        self,
        field_ppm: Tensor,
        prior_ppm: Tensor,
        mask: Tensor,
        weight: Tensor,
        magnitude: Tensor | None = None,
        physics: Physics | None = None,
    ) -> Tensor:
        """Susceptibility in ppm, 0 outside the mask. All arguments and the result are [batch, 1, x, y, z] (prior and magnitude: more channels); field
        and prior in ppm, weight with mean 1, magnitude relative. A network that is fed the magnitude gets zeros where it is None. physics: for
        networks with data steps inside, which raise InputError without it.
        """
        scale = self.get_buffer("scale")
        inputs = {"field": field_ppm * scale, "prior": prior_ppm * scale, "weight": weight, "mask": mask.to(field_ppm.dtype)}
        if "magnitude" in self.channels:
            inputs["magnitude"] = field_ppm.new_zeros((len(field_ppm), N_MAGNITUDE_MAPS, *field_ppm.shape[2:])) if magnitude is None else magnitude
        arguments = [torch.cat([inputs[c] for c in self.channels], dim=1)]
        if self.needs_physics:
            rest = field_ppm if self.rest is None else prior_ppm[:, self.rest : self.rest + 1]
            arguments.append(self.network.data_term(rest.float() * scale, mask, weight, scale, physics))  # type: ignore[operator]
        output: Tensor = self.network(*arguments).float() / scale
        if self.residual:
            output = output + prior_ppm[:, :1]
        return output * mask

    def last_layers(self) -> list[nn.Module]:
        """The last convolutional part of the network, which a fit at test time may be restricted to: what the network's own `last_layers()` names,
        all of it where it has none.
        """
        named = getattr(self.network, "last_layers", None)
        return list(named()) if callable(named) else [self.network]

    @property
    def n_parameters(self) -> int:
        """Number of trained numbers."""
        return sum(p.numel() for p in self.parameters())
