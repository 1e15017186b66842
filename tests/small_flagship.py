"""Weights of a tiny network for the flagship's methods."""

import torch

from qsmdl.io.weights import save_weights
from qsmdl.networks.build import build_network

NETWORK = {"architecture": "unet", "adapter": {}, "keywords": {"width": 2, "depth": 1, "zero_head": True}}


def save(path, **card):
    """Untrained, but perturbed: it has an opinion of its own, which is not symmetric."""
    torch.manual_seed(0)
    network = build_network(NETWORK)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    save_weights(path, network.state_dict(), {"network": NETWORK, "prior": {"regularisations": [0.012, 0.003, 0.05]}, **card})
    return path
