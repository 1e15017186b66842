"""Training with less memory (blocks recomputed in the backward pass) or in less time (compiled convolutions), by any network that says which of its
modules can: by an attribute `checkpoint_blocks`, and by a class attribute `compilable` that is true.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qsmdl.errors import InputError


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norm changes copies of its running statistics, which have seen this batch already."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({name: buffer if buffer is None else buffer.clone() for name, buffer in norm._buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """block(x), whose inner activations are not kept but computed again in the backward pass (gradient checkpointing: Chen et al., arXiv 2016)."""
    if torch.compiler.is_compiling():
        # A compiled graph does not repeat what changes buffers.
        compiled: Tensor = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
        return compiled
    output: Tensor = torch.utils.checkpoint.checkpoint(
        block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(block))
    )
    return output


def checkpoint_blocks(network: nn.Module) -> None:
    """Has every part of a network that can recompute its blocks do so. Raises InputError where none can."""
    able = [module for module in network.modules() if hasattr(module, "checkpoint_blocks")]
    if not able:
        raise InputError("training.checkpoint_blocks is true, but no part of this network can recompute its blocks. Set it to false.")
    for module in able:
        module.checkpoint_blocks = True  # type: ignore[assignment]


def keep_statistics(network: nn.Module) -> None:
    """Has batch norm normalise by its running statistics, and leave them as they are, until the network's `train` is called again.

    With batches of a few patches the statistics of a batch are noisy, and a network that was trained by them is another one when the running ones
    take their place (Wu and Johnson, arXiv:2105.07576, 2021). Raises InputError for a network without batch norm.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        raise InputError("training.freeze_norm is true, but this network has no batch norm. Set it to false.")
    for norm in norms:
        norm.eval()


def _compilable(network: nn.Module) -> Iterator[nn.Module]:
    if getattr(network, "compilable", False):
        yield network
        return
    for child in network.children():
        yield from _compilable(child)


def compile_convolutions(network: nn.Module) -> None:
    """Has the convolutional parts of a network compiled (`torch.compile`) when they are first called. Modules keep their names, so weights fit with
    and without; copies are not compiled. Raises InputError where no part can be compiled.
    """
    parts = list(_compilable(network))
    if not parts:
        raise InputError("training.compile is true, but no part of this network can be compiled. Set it to false.")
    for part in parts:
        part.compile()


@contextmanager
def compiler_errors(compiled: bool) -> Iterator[None]:
    """Makes a sentence of what the compiler raises at the first call of a compiled network."""
    if not compiled:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    try:
        yield
    except TorchDynamoException as error:
        raise InputError(
            f"training.compile is true, but this network could not be compiled: {str(error).splitlines()[0]}. On CPUs a C++ compiler is needed (g++, "
            "or what the variable CXX names), on GPUs Triton. Install it, or set training.compile=false."
        ) from error


@contextmanager
def not_compiled(compiled: bool) -> Iterator[None]:
    """Runs a compiled network as it is written: whole volumes differ in size, and each size would be compiled anew."""
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        yield
