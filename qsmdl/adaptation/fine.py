"""FINE: fidelity imposed network edit, test-time fine-tuning of a network's weights with the physics as the loss."""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qsmdl.adaptation.ensemble import View, run_ensemble
from qsmdl.adaptation.fidelity import Fidelity
from qsmdl.adaptation.penalties import NetworkPrior, total_variation
from qsmdl.adaptation.settings import FineSettings, use_bfloat16
from qsmdl.errors import InputError
from qsmdl.interrupt import DeferredInterrupt
from qsmdl.networks.scaling import PpmAdapter
from qsmdl.scan import Outcome

Arguments = tuple[Tensor, ...]


@dataclass(frozen=True)
class FineStep:
    """One step's numbers: objective (fidelity + penalties), whitened residual variance (nan if the noise is not known), seconds since the start."""

    number: int
    objective: float
    whitened: float
    seconds: float


@dataclass(frozen=True, eq=False)
class FineState:
    """Everything a fit needs to go on: tensors (weights, Adam's moments, best map and the weights that made it) and plain numbers."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


@dataclass(frozen=True, eq=False)
class FineResult:
    """chi_ppm [1, 1, x, y, z]: the best iterate; outcome: steps, reason, whitened residual of that iterate and the objective's curve; state: to go
    on later; network: the fitted one, with the weights of the best iterate.
    """

    chi_ppm: Tensor
    outcome: Outcome
    state: FineState
    network: PpmAdapter


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
    weights: dict[str, Tensor] = field(default_factory=dict)
    curve: list[float] = field(default_factory=list)
    seconds: float = 0.0


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
    views: Sequence[View] = (),
    state: FineState | None = None,
    on_step: Callable[[FineStep], None] | None = None,
) -> FineResult:
    """Fit a copy of a network to one scan (Zhang et al., NeuroImage 2020): minimise fidelity + tv_weight * TV + prior_weight * prior over its weights
    with Adam.

    inputs: field and prior in ppm, mask and weight, each [1, 1, x, y, z] on the fidelity's box, and whatever else the network is fed; views: how the
    network is run (`ensemble.views_of`), one a step in turn, so that the weights suit all of them; none: on the inputs as they are. state: of an
    earlier, interrupted fit to the same data with the same objective.

    The loaded network is left untouched; normalisation layers stay in evaluation mode. Blocks of the network are recomputed in the backward pass, so
    the memory grows with the volume times the width, not with the depth. The objective of a step is that of the map before its update, so the map
    returned is the very one that was measured. Raises FineInterrupted on Ctrl-C, after finishing the step, and InputError if the loss is not finite.
    """
    tuned = copy.deepcopy(network).eval()
    mask, views = inputs[2], tuple(views) or (lambda net: net(*inputs),)
    _set_checkpointing(tuned, mask.numel(), settings.memory_gib)
    _freeze(tuned, settings)
    half = use_bfloat16(settings.precision, mask.device)
    with torch.autocast(mask.device.type, dtype=torch.bfloat16, enabled=half):
        penalties = _Penalties.of(settings, tuned, views, inputs, voxel_size_mm)
    optimiser = torch.optim.Adam([p for p in tuned.parameters() if p.requires_grad], lr=settings.learning_rate)
    best, step = _restore(tuned, optimiser, state, _identity(settings, views))
    begun = time.monotonic()
    started = begun - best.seconds
    with DeferredInterrupt() as interrupt, torch.enable_grad():
        while True:
            with torch.autocast(mask.device.type, dtype=torch.bfloat16, enabled=half):
                chi = views[step % len(views)](tuned)
            misfit = fidelity(chi)
            objective = misfit.loss + penalties(chi)
            if not torch.isfinite(objective):
                raise InputError(
                    f"FINE's loss is {float(objective.detach())} at step {step}. Lower method.learning_rate (now {settings.learning_rate:g})."
                )
            _record(best, float(objective.detach()), misfit.whitened, chi, tuned)
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
    return _finish(tuned, optimiser, best, step, reason, _identity(settings, views))


@dataclass(frozen=True, eq=False)
class _Penalties:
    """What is added to the fidelity of a map."""

    settings: FineSettings
    mask: Tensor
    voxel_size_mm: tuple[float, float, float]
    prior: NetworkPrior | None

    @classmethod
    def of(
        cls, settings: FineSettings, untouched: nn.Module, views: Sequence[View], inputs: Arguments, voxel_size_mm: tuple[float, float, float]
    ) -> "_Penalties":
        mask, weight = inputs[2], inputs[3]
        prior = NetworkPrior(run_ensemble([untouched], views).mean_ppm, mask, weight) if settings.prior_weight else None
        return cls(settings, mask, voxel_size_mm, prior)

    def __call__(self, chi_ppm: Tensor) -> Tensor:
        total = chi_ppm.new_zeros(())
        if self.settings.tv_weight:
            total = total + self.settings.tv_weight * total_variation(chi_ppm, self.mask, self.voxel_size_mm)
        return total if self.prior is None else total + self.settings.prior_weight * self.prior(chi_ppm)


def _freeze(network: PpmAdapter, settings: FineSettings) -> None:
    """Leave only the weights that are to be fitted trainable."""
    if settings.trained == "all":
        return
    chosen = {id(p) for module in network.last_layers() for p in module.parameters()}
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in chosen)


def _identity(settings: FineSettings, views: Sequence[View]) -> dict[str, Any]:
    """What must be the same for a fit to go on: its objective, and what it fits."""
    return {"tv_weight": settings.tv_weight, "prior_weight": settings.prior_weight, "trained": settings.trained, "n_views": len(views)}


def _finish(tuned: PpmAdapter, optimiser: torch.optim.Adam, best: _Best, step: int, reason: str | None, identity: Mapping[str, Any]) -> FineResult:
    if best.chi_ppm is None:
        raise InputError("FINE ended without a map; this cannot happen after a first step.")
    outcome = Outcome(step, reason or "interrupted", best.whitened if math.isfinite(best.whitened) else best.objective, tuple(best.curve))
    # The last measured objective is measured again when the fit goes on.
    state = _state(tuned, optimiser, best, step, identity)
    tuned.load_state_dict(best.weights, strict=False)
    result = FineResult(best.chi_ppm, outcome, state, tuned)
    if reason is None:
        raise FineInterrupted(result)
    return result


def _record(best: _Best, objective: float, whitened: Tensor | None, chi: Tensor, network: nn.Module) -> None:
    best.curve.append(objective)
    if objective < best.objective:
        best.objective, best.chi_ppm = objective, chi.detach().clone()
        best.weights = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}
        best.whitened = math.nan if whitened is None else float(whitened)


def _set_checkpointing(network: nn.Module, n_voxels: int, memory_gib: float) -> None:
    """Recompute blocks where keeping about 20 float32 activations of the finest level of each network inside, an estimate, would need too much."""
    able = [module for module in network.modules() if hasattr(module, "checkpoint_blocks")]
    n_uses = max((getattr(module, "n_uses", 1) for module in network.modules()), default=1)
    width = n_uses * sum(next(p.shape[0] for p in module.parameters()) for module in able)
    for module in able:
        setattr(module, "checkpoint_blocks", 20 * 4 * width * n_voxels > memory_gib * 2**30)  # noqa: B010 - not a module's own type


def _state(network: nn.Module, optimiser: torch.optim.Adam, best: _Best, step: int, identity: Mapping[str, Any]) -> FineState:
    tensors = {f"network.{name}": value.detach().clone() for name, value in network.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.weights.items()}
    for i, (_, moments) in enumerate(sorted(optimiser.state_dict()["state"].items())):
        tensors |= {f"adam.{i}.{name}": value.clone() for name, value in moments.items()}
    if best.chi_ppm is not None:
        tensors["best_chi_ppm"] = best.chi_ppm
    whitened = best.whitened if math.isfinite(best.whitened) else None  # JSON has no nan
    numbers = {"step": step, "objective": best.objective, "whitened": whitened, "curve": best.curve[:-1], "seconds": best.seconds}
    return FineState(tensors, numbers | {"fit": dict(identity)})


def _part(tensors: Mapping[str, Tensor], prefix: str, device: torch.device) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value.to(device) for name, value in tensors.items() if name.startswith(prefix)}


def _restore(network: nn.Module, optimiser: torch.optim.Adam, state: FineState | None, identity: Mapping[str, Any]) -> tuple[_Best, int]:
    if state is None:
        return _Best(), 0
    numbers, device = state.numbers, next(network.parameters()).device
    if numbers.get("fit") != identity:
        raise InputError(f"The saved FINE state is of a fit with {numbers.get('fit')}, not {dict(identity)}. Resume with the settings of its start.")
    try:
        network.load_state_dict(_part(state.tensors, "network.", device))
    except RuntimeError as error:
        raise InputError(f"The saved FINE state belongs to another network: {error}. Resume with the checkpoint it was started from.") from error
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in state.tensors.items():
        if name.startswith("adam."):
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = value
    if moments:
        optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    whitened = math.nan if numbers["whitened"] is None else float(numbers["whitened"])
    curve, chi = [float(v) for v in numbers["curve"]], state.tensors.get("best_chi_ppm")
    best = _Best(
        float(numbers["objective"]),
        whitened,
        None if chi is None else chi.to(device),
        _part(state.tensors, "best.", device),
        curve,
        float(numbers["seconds"]),
    )
    return best, int(numbers["step"])
