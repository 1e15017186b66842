"""Everything that is compared, behind one face: solver, network, FINE on top of a network, and ensembles of a network's maps."""

from qsmdl.methods.ensembles import flagship, flagship_fine
from qsmdl.methods.fitting import fine
from qsmdl.methods.method import CONTEXT, Method, OnStep
from qsmdl.methods.network import unet
from qsmdl.methods.plugged import pnp
from qsmdl.methods.weights import FLAGSHIP_WEIGHTS, SHIPPED_WEIGHTS, load_network, shipped_weights

__all__ = [
    "CONTEXT",
    "FLAGSHIP_WEIGHTS",
    "SHIPPED_WEIGHTS",
    "Method",
    "OnStep",
    "fine",
    "flagship",
    "flagship_fine",
    "load_network",
    "pnp",
    "shipped_weights",
    "unet",
]
