"""FINE: fidelity imposed network edit, test-time fine-tuning of a network's weights with the physics as the loss."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from qsmdl.adaptation.fidelity import Fidelity
from qsmdl.errors import InputError
from qsmdl.interrupt import DeferredInterrupt
from qsmdl.networks.scaling import PpmAdapter
from qsmdl.physics.derivatives import Gradient
from qsmdl.scan import Outcome

Arguments = tuple[Tensor, ...]
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class FineSettings:
    """When and how a network is fitted.

    n_steps: at most; learning_rate: of Adam (FINE used 1e-4 for a network of 26 M weights; small networks move with more); tv_weight: of mean
    |grad chi| in the mask (ppm/mm), added to the fidelity; target: whitened residual variance at which the discrepancy principle stops (Morozov
    1966); patience and min_decrease: stagnation is when the best objective fell by less than this fraction over `patience` steps; time_budget_s: no
    step is begun that would end later than this; precision: of the network's convolutions, "auto" takes bfloat16 where the device computes in it (the
    fidelity is in float32 always); memory_gib: where the activations would need more than this, blocks are recomputed in the backward pass.
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

    def __post_init__(self) -> None:
        for name, low in {"n_steps": 1, "patience": 1}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(f"{name} is {value!r}; it must be a whole number of at least {low}.")
        if self.precision not in get_args(Precision):
            raise InputError(f"precision is {self.precision!r}; it must be one of {', '.join(get_args(Precision))}.")
        for name in ("learning_rate", "tv_weight", "target", "min_decrease", "time_budget_s", "memory_gib"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InputError(f"{name} is {value!r}; it must be a finite number of at least 0.")
        if not 0 < self.learning_rate <= 1 or self.time_budget_s == 0:
            raise InputError(
                f"learning_rate is {self.learning_rate} and time_budget_s {self.time_budget_s}; both must be positive, the rate at most 1."
            )


@dataclass(frozen=True)
class FineStep:
    """One step's numbers: objective (fidelity + TV), whitened residual variance (nan if the noise is not known), seconds since the start."""

    number: int
    objective: float
    whitened: float
    seconds: float


@dataclass(frozen=True, eq=False)
class FineState:
    """Everything a fit needs to go on: tensors (weights, Adam's moments, best map) and plain numbers."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


@dataclass(frozen=True, eq=False)
class FineResult:
    """chi_ppm [1, 1, x, y, z]: the best iterate; outcome: steps, reason, whitened residual of that iterate and the objective's curve; state: to go
    on later.
    """

    chi_ppm: Tensor
    outcome: Outcome
    state: FineState


class FineInterrupted(Exception):  # noqa: N818 - not an error: the state is complete
    """Ctrl-C between two steps; carries the state."""

    def __init__(self, result: FineResult) -> None:
        super().__init__(f"stopped after {result.outcome.n_steps} steps")
        self.result = result
        self.state_path: Path | None = None
        """Where the state was saved, by whoever did."""


@dataclass
class _Best:
    objective: float = math.inf
    whitened: float = math.nan
    chi_ppm: Tensor | None = None
    curve: list[float] = field(default_factory=list)
    seconds: float = 0.0


def total_variation(chi_ppm: Tensor, mask: Tensor, voxel_size_mm: tuple[float, float, float]) -> Tensor:
    """Mean over the mask of |grad chi| (sum over axes, ppm/mm), differences across the mask's border left out."""
    gradient = Gradient(voxel_size_mm, boundary="neumann")
    inside = (gradient(mask.float()) == 0) & mask.unsqueeze(-4)
    mean: Tensor = (gradient(chi_ppm).abs() * inside).sum() / mask.sum()
    return mean


def _stop_reason(best: _Best, step: int, settings: FineSettings, step_seconds: float) -> str | None:
    """Why to stop after a step, or None. The order is that of importance: a fit that has reached the noise did not stagnate."""
    if best.whitened <= settings.target:
        return f"discrepancy: whitened residual variance {best.whitened:.3f} <= {settings.target:g}"
    if step >= settings.n_steps:
        return f"max steps ({settings.n_steps})"
    if best.seconds + step_seconds > settings.time_budget_s:
        return f"time budget ({settings.time_budget_s:g} s)"
    curve = best.curve
    if len(curve) > settings.patience:
        before, now = min(curve[: -settings.patience]), min(curve)
        if now > before * (1 - settings.min_decrease):
            return f"stagnation: less than {100 * settings.min_decrease:g} % in {settings.patience} steps"
    return None


def fine_tune(
    network: PpmAdapter,
    inputs: Arguments,
    fidelity: Fidelity,
    settings: FineSettings,
    voxel_size_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    *,
    state: FineState | None = None,
    on_step: Callable[[FineStep], None] | None = None,
) -> FineResult:
    """Fit a copy of a network to one scan (Zhang et al., NeuroImage 2020): minimise fidelity + tv_weight * TV over its weights with Adam.

    inputs: field and prior in ppm, mask and weight, each [1, 1, x, y, z] on the fidelity's box; state: of an earlier, interrupted fit to the same
    data. The loaded network is left untouched; normalisation layers stay in evaluation mode. Blocks of the network are recomputed in the backward
    pass, so the memory grows with the volume times the width, not with the depth. The objective of a step is that of the map before its update, so
    the map returned is the very one that was measured. Raises FineInterrupted on Ctrl-C, after finishing the step, and InputError if the loss is not
    finite.
    """
    tuned = copy.deepcopy(network).eval()
    mask = inputs[2]
    _set_checkpointing(tuned, mask.numel(), settings.memory_gib)
    half = use_bfloat16(settings.precision, mask.device)
    optimiser = torch.optim.Adam([p for p in tuned.parameters() if p.requires_grad], lr=settings.learning_rate)
    best, step = _restore(tuned, optimiser, state)
    begun = time.monotonic()
    started = begun - best.seconds
    with DeferredInterrupt() as interrupt, torch.enable_grad():
        while True:
            with torch.autocast(mask.device.type, dtype=torch.bfloat16, enabled=half):
                chi = tuned(*inputs)
            misfit = fidelity(chi)
            objective = misfit.loss + (settings.tv_weight * total_variation(chi, mask, voxel_size_mm) if settings.tv_weight else 0)
            if not torch.isfinite(objective):
                raise InputError(
                    f"FINE's loss is {float(objective.detach())} at step {step}. Lower method.learning_rate (now {settings.learning_rate:g})."
                )
            _record(best, float(objective.detach()), misfit.whitened, chi)
            best.seconds = time.monotonic() - started
            if on_step:
                on_step(FineStep(step, best.curve[-1], math.nan if misfit.whitened is None else float(misfit.whitened), best.seconds))
            # From one measurement to the next is a backward and a forward pass; after the first forward pass alone, four of it are assumed.
            seconds = time.monotonic() - begun
            reason = _stop_reason(best, step, settings, seconds if step else 4 * seconds)
            begun = time.monotonic()
            if reason or interrupt.requested:
                break
            optimiser.zero_grad(set_to_none=True)
            objective.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            step += 1
    return _finish(tuned, optimiser, best, step, reason)


def _finish(tuned: nn.Module, optimiser: torch.optim.Adam, best: _Best, step: int, reason: str | None) -> FineResult:
    if best.chi_ppm is None:
        raise InputError("FINE ended without a map; this cannot happen after a first step.")
    outcome = Outcome(step, reason or "interrupted", best.whitened if math.isfinite(best.whitened) else best.objective, tuple(best.curve))
    # The last measured objective is measured again when the fit goes on.
    result = FineResult(best.chi_ppm, outcome, _state(tuned, optimiser, best, step))
    if reason is None:
        raise FineInterrupted(result)
    return result


def _record(best: _Best, objective: float, whitened: Tensor | None, chi: Tensor) -> None:
    best.curve.append(objective)
    if objective < best.objective:
        best.objective, best.chi_ppm = objective, chi.detach().clone()
        best.whitened = math.nan if whitened is None else float(whitened)


def use_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether convolutions run in bfloat16. "auto": where the device has it in hardware; emulated, it is slower than float32."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _set_checkpointing(network: nn.Module, n_voxels: int, memory_gib: float) -> None:
    """Recompute blocks where keeping about 20 float32 activations of the finest level, an estimate, would need too much."""
    for module in network.modules():
        if hasattr(module, "checkpoint_blocks"):
            width = next(p.shape[0] for p in module.parameters())
            setattr(module, "checkpoint_blocks", 20 * 4 * width * n_voxels > memory_gib * 2**30)  # noqa: B010 - not a module's own type


def _state(network: nn.Module, optimiser: torch.optim.Adam, best: _Best, step: int) -> FineState:
    tensors = {f"network.{name}": value.detach().clone() for name, value in network.state_dict().items()}
    for i, (_, moments) in enumerate(sorted(optimiser.state_dict()["state"].items())):
        tensors |= {f"adam.{i}.{name}": value.clone() for name, value in moments.items()}
    if best.chi_ppm is not None:
        tensors["best_chi_ppm"] = best.chi_ppm
    whitened = best.whitened if math.isfinite(best.whitened) else None  # JSON has no nan
    numbers = {"step": step, "objective": best.objective, "whitened": whitened, "curve": best.curve[:-1], "seconds": best.seconds}
    return FineState(tensors, numbers)


def _restore(network: nn.Module, optimiser: torch.optim.Adam, state: FineState | None) -> tuple[_Best, int]:
    if state is None:
        return _Best(), 0
    own = {name.removeprefix("network."): value for name, value in state.tensors.items() if name.startswith("network.")}
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        raise InputError(f"The saved FINE state belongs to another network: {error}. Resume with the checkpoint it was started from.") from error
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in state.tensors.items():
        if name.startswith("adam."):
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = value
    if moments:
        optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    numbers: Mapping[str, Any] = state.numbers
    whitened = math.nan if numbers["whitened"] is None else float(numbers["whitened"])
    curve = [float(v) for v in numbers["curve"]]
    best = _Best(float(numbers["objective"]), whitened, state.tensors.get("best_chi_ppm"), curve, float(numbers["seconds"]))
    return best, int(numbers["step"])
