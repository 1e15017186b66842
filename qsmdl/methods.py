"""Everything that is compared, behind one face: solver, network, and FINE on top of a network.

A method is a function of a `FieldMap` (first argument) and keywords, returning a `ChiMap`. Four keywords are not settings but are handed over where
a method asks for them: `scan` (all echoes), `orientations` (field maps of the same head at other orientations to B0, on the same grid), `on_step`
(called with step and value, for progress) and `state_path` (where an interrupted method saves what it needs to go on). Three settings are not the
function's but every method's: `unring`, `select` and `select_candidates` (`poststeps`).
"""

import functools
import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from qsmdl.about import About, MethodKind, about, about_of
from qsmdl.adaptation.fidelity import echo_fidelity, field_fidelity
from qsmdl.adaptation.fine import FineInterrupted, FineSettings, FineState, FineStep, fine_tune
from qsmdl.data.inputs import Prior, paste, prepare_inputs
from qsmdl.errors import InputError
from qsmdl.io.provenance import canonical_json, tensors_digest
from qsmdl.io.weights import load_weights, save_weights
from qsmdl.networks.build import build_network, load_tensors
from qsmdl.networks.scaling import PpmAdapter
from qsmdl.plausible import check_local_field
from qsmdl.poststeps import POST_STEPS, PostSteps, run_with_steps
from qsmdl.scan import ChiMap, FieldMap, Outcome, Scan
from qsmdl.validation import check_settings

SHIPPED_WEIGHTS = Path(__file__).parent / "weights" / "quick.safetensors"
"""The small network that comes with the package; its card says what it was trained on."""

OnStep = Callable[[int, float], None]
CONTEXT = ("scan", "orientations", "on_step", "state_path")


class Method:
    """A method with its settings filled in; call it with a field map and, if there is one, the scan it came from."""

    def __init__(self, name: str, function: Callable[..., ChiMap], **settings: Any) -> None:
        self.name, self.function, self.settings = name, function, settings
        self.accepts = frozenset(inspect.signature(function).parameters)
        taken = sorted(self.accepts & set(POST_STEPS))
        if taken:
            raise InputError(f"The function of {name} has a keyword {taken[0]!r}, which is a setting of every method. Call the keyword otherwise.")
        if self.about.parameter and self.about.parameter not in self.accepts:
            raise InputError(f"{name} is said to have the parameter {self.about.parameter!r}, but its function has no such keyword. Correct @about.")
        self._own = {key: value for key, value in settings.items() if key not in POST_STEPS}
        check_settings(name, function, self._own)
        self.steps = PostSteps.of(name, settings, self.about)
        for candidate in self.steps.select_candidates or ():
            check_settings(f"{name}.select_candidates", function, {self.about.parameter: candidate})

    @classmethod
    def from_partial(cls, name: str, built: "functools.partial[ChiMap]") -> "Method":
        """From what a method's YAML builds."""
        return cls(name, built.func, **built.keywords)

    def with_settings(self, settings: Mapping[str, Any]) -> "Method":
        """The same method with some of its settings replaced."""
        return Method(self.name, self.function, **{**self.settings, **settings})

    @property
    def about(self) -> About:
        """What the function says of itself (`about.about`)."""
        return about_of(self.function)

    @property
    def kind(self) -> MethodKind:
        """The challenge's type of algorithm."""
        return self.about.kind

    @property
    def parameter_value(self) -> Any:
        """The setting that `select` varies, as configured; None for a method without one."""
        name = self.about.parameter
        if not name:
            return None
        return self.settings[name] if name in self.settings else inspect.signature(self.function).parameters[name].default

    @property
    def weights_path(self) -> Path | None:
        """The file of the network's weights; None for a method without network."""
        if "checkpoint" not in self.accepts:
            return None
        checkpoint = self.settings.get("checkpoint")
        return SHIPPED_WEIGHTS if checkpoint is None else Path(checkpoint)

    @property
    def reports_steps(self) -> bool:
        """Whether progress can be shown."""
        return "on_step" in self.accepts

    def __call__(
        self,
        field: FieldMap,
        scan: Scan | None = None,
        *,
        orientations: Sequence[FieldMap] = (),
        on_step: OnStep | None = None,
        state_path: Path | None = None,
    ) -> ChiMap:
        """The susceptibility map of a field, with what of `unring` and `select` is switched on.

        Raises InputError for a field that cannot be local, unless the method works from wrapped phase.
        """
        if field.kind == "local" and self.about.input != "wrapped phase":
            check_local_field(field.field_ppm[field.mask], f"The field map of {field.name!r}")
        context = {"scan": scan, "orientations": orientations, "on_step": on_step, "state_path": state_path}
        handed = {k: v for k, v in context.items() if k in self.accepts}

        def run(**changed: Any) -> ChiMap:
            return self.function(field, **{**self._own, **changed}, **handed)

        return run_with_steps(run, field, self.steps, self.about.parameter, self.parameter_value)


def load_network(checkpoint: str | Path | None) -> tuple[PpmAdapter, Prior, Mapping[str, Any]]:
    """A trained network in evaluation mode, its prior and its card, from a safetensors file (None: the shipped weights).

    The card names the architecture among those of `networks.build`; nothing else in the file is interpreted. Raises InputError for anything that is
    not such a file, or whose tensors belong to another architecture.
    """
    path = Path(checkpoint) if checkpoint is not None else SHIPPED_WEIGHTS
    tensors, card = load_weights(path)
    if not isinstance(card.get("network"), dict) or not isinstance(card.get("prior"), dict):
        raise InputError(f"The card of {path} names no network and prior. Export weights with train.py, which writes both.")
    try:
        prior = Prior(**card["prior"])
        network = build_network(card["network"])
        load_tensors(network, tensors)
    except (InputError, TypeError) as error:
        raise InputError(f"{path}: {error}") from error
    return network.eval(), prior, card


@about(kind="deep learning", reference="Ronneberger et al. 2015; Yoon et al., QSMnet, NeuroImage 2018")
@torch.no_grad()
def unet(field: FieldMap, *, scan: Scan | None = None, checkpoint: str | Path | None = None) -> ChiMap:
    """One pass of a trained network over the whole volume (the mask's bounding box).

    scan: for networks that are fed the magnitude, which do without where there is none. checkpoint: a safetensors file of train.py, None for the
    shipped weights. The whole command peaked at 2.4 GB on a scan of 164 x 205 x 205 with width 16.
    """
    network, prior, _ = load_network(checkpoint)
    network = network.to(field.field_ppm.device)
    inputs = prepare_inputs(field, prior, scan)
    return ChiMap(field.geometry, paste(network(*inputs.arguments), inputs, field), field.mask, Outcome(1, "one pass", 0.0))


@about(kind="deep learning", input="all echoes", reference="Zhang et al., FINE, NeuroImage 2020")
def fine(
    field: FieldMap,
    *,
    scan: Scan | None = None,
    checkpoint: str | Path | None = None,
    fidelity: Literal["echoes", "field"] = "echoes",
    n_steps: int = 100,
    learning_rate: float = 1e-3,
    tv_weight: float = 0.0,
    target: float = 1.0,
    patience: int = 20,
    min_decrease: float = 0.005,
    time_budget_s: float = 1500.0,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    memory_gib: float = 6.0,
    on_step: OnStep | None = None,
    state_path: Path | None = None,
) -> ChiMap:
    """FINE (Zhang et al., NeuroImage 2020): the weights of a trained network are fitted to this one scan, with the physics as the loss.

    checkpoint: the network to start from, as for `unet`; fidelity: "echoes" (all echoes' phases, which must start at 0 at TE = 0; without a scan the
    field is taken) or "field"; the rest: `adaptation.fine.FineSettings`. state_path: where Ctrl-C leaves the state, and from where the same fit goes
    on if the file exists (more steps or time may be given; another network, scan, fidelity or tv_weight is refused).
    """
    if fidelity not in ("echoes", "field"):
        raise InputError(f"fidelity is {fidelity!r}; it must be 'echoes' or 'field'.")
    settings = FineSettings(n_steps, learning_rate, tv_weight, target, patience, min_decrease, time_budget_s, precision, memory_gib)
    network, prior, _ = load_network(checkpoint)
    network = network.to(field.field_ppm.device)
    inputs = prepare_inputs(field, prior, scan)
    if fidelity == "echoes" and scan is not None and field.noise_ppm is not None:
        data = echo_fidelity(scan, field, inputs.box, inputs.geometry)
    else:
        data = field_fidelity(field, inputs.box, inputs.geometry)

    def identity() -> dict[str, Any]:
        echoes = {} if scan is None else {"magnitude": scan.magnitude, "phase_rad": scan.phase_rad}
        measured = tensors_digest({"field_ppm": field.field_ppm, "mask": field.mask, **echoes})
        return {"weights": tensors_digest(network.state_dict()), "data": measured, "fidelity": fidelity, "tv_weight": tv_weight}

    state = _load_state(state_path, identity)
    report = None if on_step is None else lambda step: on_step(step.number, _shown(step))
    try:
        result = fine_tune(
            network, inputs.arguments, data.to(field.field_ppm.device), settings, field.geometry.voxel_size_mm, state=state, on_step=report
        )
    except FineInterrupted as stop:
        if state_path is not None:
            _save_state(state_path, stop.result.state, identity())
            stop.state_path = state_path
        raise
    if state_path is not None:
        Path(state_path).unlink(missing_ok=True)
    return ChiMap(field.geometry, paste(result.chi_ppm, inputs, field), field.mask, result.outcome)


def _shown(step: FineStep) -> float:
    return step.objective if math.isnan(step.whitened) else step.whitened


def _seal(tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{tensors_digest(tensors)} {canonical_json(card)}".encode()).hexdigest()


def _save_state(path: Path, state: FineState, identity: Mapping[str, Any]) -> None:
    """identity: of the fit, which alone may go on from here."""
    card = {"fine_state": state.numbers, "identity": dict(identity)}
    save_weights(path, state.tensors, card | {"seal": _seal(state.tensors, card)}, overwrite=True)


def _load_state(path: Path | None, identity: Callable[[], Mapping[str, Any]]) -> FineState | None:
    """Raises InputError for a state that was changed, or belongs to a fit of another network, to other data, or with another objective."""
    if path is None or not Path(path).exists():
        return None
    tensors, card = load_weights(path)
    if not isinstance(card.get("fine_state"), dict) or not isinstance(card.get("identity"), dict):
        raise InputError(f"{path} holds no state of an interrupted FINE. Remove it to start anew.")
    if card.get("seal") != _seal(tensors, {key: card[key] for key in ("fine_state", "identity")}):
        raise InputError(f"{path} was changed after an interrupted FINE wrote it. Remove it to start anew.")
    differs = [key for key, value in identity().items() if card["identity"].get(key) != value]
    if differs:
        raise InputError(f"{path} is the state of another fit (other {', '.join(differs)}). Call FINE as before to go on, or remove it.")
    return FineState(tensors, card["fine_state"])
