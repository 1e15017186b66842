"""What a fit at test time may be told."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from qsmdl.errors import InputError

Precision = Literal["auto", "float32", "bfloat16"]
Trained = Literal["all", "last"]


@dataclass(frozen=True)
class FineSettings:
    """When and how a network is fitted.

    n_steps: at most; learning_rate: of Adam (FINE used 1e-4 for a network of 26 M weights; small networks move with more); tv_weight: of mean
    |grad chi| in the mask (ppm/mm), added to the fidelity; target: whitened residual variance at which the discrepancy principle stops (Morozov
    1966); patience and min_decrease: stagnation is when the best objective fell by less than this fraction over `patience` steps; time_budget_s: no
    step is begun that would end later than this; precision: of the network's convolutions, "auto" takes bfloat16 where the device computes in it (the
    fidelity is in float32 always); memory_gib: where the activations would need more than this, blocks are recomputed in the backward pass;
    prior_weight: of the relative departure from the untouched network's map (`penalties.NetworkPrior`), added to the fidelity; trained: which weights
    are fitted, "all" or those of the network's `last_layers()`.
    """

    n_steps: int = 100
    learning_rate: float = 1e-3
    tv_weight: float = 0.0
    target: float = 1.0
    patience: int = 20
    min_decrease: float = 0.005
    time_budget_s: float = 1500.0
    precision: Precision = "auto"
    memory_gib: float = 6.0
    prior_weight: float = 0.0
    trained: Trained = "all"

    def __post_init__(self) -> None:
        for name, low in {"n_steps": 1, "patience": 1}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(f"{name} is {value!r}; it must be a whole number of at least {low}.")
        for name, kind in (("precision", Precision), ("trained", Trained)):
            if getattr(self, name) not in get_args(kind):
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(get_args(kind))}.")
        for name in ("learning_rate", "tv_weight", "target", "min_decrease", "time_budget_s", "memory_gib", "prior_weight"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InputError(f"{name} is {value!r}; it must be a finite number of at least 0.")
        if not 0 < self.learning_rate <= 1 or self.time_budget_s == 0:
            raise InputError(
                f"learning_rate is {self.learning_rate} and time_budget_s {self.time_budget_s}; both must be positive, the rate at most 1."
            )


def use_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether convolutions run in bfloat16. "auto": where the device has it in hardware; emulated, it is slower than float32."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
