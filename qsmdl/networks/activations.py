"""What happens inside a network: the size of every layer's output, and whether it is finite."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Activation:
    """The output of a layer, or any other tensor. largest: magnitude among its finite values."""

    name: str
    kind: str
    shape: tuple[int, ...]
    n_nonfinite: int
    largest: float

    @staticmethod
    def of(name: str, kind: str, values: Tensor) -> "Activation":
        """Of a tensor of any type."""
        wide = values.detach().float()
        finite = torch.isfinite(wide)
        n_nonfinite = wide.numel() - int(finite.sum())
        largest = float(torch.where(finite, wide.abs(), 0).max()) if wide.numel() else 0.0
        return Activation(name, kind, tuple(values.shape), n_nonfinite, largest)


@contextmanager
def watched(network: nn.Module) -> Iterator[list[Activation]]:
    """Within the context, every call of a layer (a module without parts) adds its output to the list, in the order of the calls."""
    seen: list[Activation] = []

    def look(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            seen.append(Activation.of(name, type(module).__name__, output))

    layers = [(name, module) for name, module in network.named_modules() if not any(True for _ in module.children())]
    handles = [module.register_forward_hook(partial(look, name)) for name, module in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
