"""FINE as a method: a network fitted to one scan."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qsmdl.about import about
from qsmdl.adaptation.ensemble import Ensemble, run_ensemble, views_of
from qsmdl.adaptation.fidelity import Fidelity, echo_fidelity, field_fidelity
from qsmdl.adaptation.fine import FineInterrupted, FineResult, FineStep, fine_tune
from qsmdl.adaptation.settings import FineSettings
from qsmdl.data.inputs import NetworkInputs, Prior, paste, prepare_inputs
from qsmdl.data.symmetry import IDENTITY, Symmetry
from qsmdl.errors import InputError
from qsmdl.io.provenance import tensors_digest
from qsmdl.methods.doubts import doubts_of
from qsmdl.methods.fit_state import load_state, save_state
from qsmdl.methods.method import OnStep
from qsmdl.methods.weights import load_network
from qsmdl.networks.scaling import PpmAdapter
from qsmdl.scan import ChiMap, FieldMap, Scan

FidelityKind = Literal["echoes", "field"]


@dataclass(frozen=True, eq=False)
class Fit:
    """A network and the scan that it is fitted to, corrected as its prior wants it. prior, card: the network's; fidelity: of its map beside the
    ringing that its start lost; symmetries: under which it is run, one a step in turn; doubts: of the correction.
    """

    network: PpmAdapter
    prior: Prior
    card: Mapping[str, Any]
    field: FieldMap
    scan: Scan | None
    inputs: NetworkInputs
    fidelity_kind: FidelityKind
    fidelity: Fidelity
    settings: FineSettings
    symmetries: tuple[Symmetry, ...]
    doubts: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        loaded: tuple[PpmAdapter, Prior, Mapping[str, Any]],
        field: FieldMap,
        scan: Scan | None,
        fidelity: FidelityKind,
        settings: FineSettings,
        symmetries: Sequence[Symmetry] = (IDENTITY,),
    ) -> "Fit":
        """loaded: of `load_network`. Raises InputError for a fidelity that there is none of."""
        if fidelity not in ("echoes", "field"):
            raise InputError(f"fidelity is {fidelity!r}; it must be 'echoes' or 'field'.")
        network, prior, card = loaded
        device = field.field_ppm.device
        field, scan, doubts = prior.corrected(field, scan)
        inputs = prepare_inputs(field, prior, scan)
        if fidelity == "echoes" and scan is not None and field.noise_ppm is not None:
            data = echo_fidelity(scan, field, inputs.box, inputs.geometry)
        else:
            data = field_fidelity(field, inputs.box, inputs.geometry)
        data = data.to(device)
        ringing = inputs.ringing_ppm(prior)
        data = data if ringing is None else data.beside(ringing)
        return cls(network.to(device), prior, card, field, scan, inputs, fidelity, data, settings, tuple(symmetries), doubts)

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a fit to go on from a saved state."""
        scan, field = self.scan, self.field
        echoes = {} if scan is None else {"magnitude": scan.magnitude, "phase_rad": scan.phase_rad}
        return {
            "weights": tensors_digest(self.network.state_dict()),
            "data": tensors_digest({"field_ppm": field.field_ppm, "mask": field.mask, **echoes}),
            "fidelity": self.fidelity_kind,
            "ringing": self.inputs.ringing_ppm(self.prior) is not None,
            "tv_weight": self.settings.tv_weight,
            "prior_weight": self.settings.prior_weight,
            "trained": self.settings.trained,
            "symmetries": [symmetry.name for symmetry in self.symmetries],
        }

    def run(self, on_step: OnStep | None, state_path: Path | None) -> FineResult:
        """The fit, on from the state at state_path if there is one. An interruption leaves the state there, a finished fit removes it."""
        state = load_state(state_path, lambda: self.identity)
        try:
            result = fine_tune(
                self.network,
                self.inputs.arguments,
                self.fidelity,
                self.settings,
                self.field.geometry.voxel_size_mm,
                views=views_of(self.inputs, self.symmetries),
                state=state,
                on_step=None if on_step is None else lambda step: on_step(step.number, _shown(step)),
            )
        except FineInterrupted as stop:
            if state_path is not None:
                save_state(state_path, stop.result.state, self.identity)
                stop.state_path = state_path
            raise
        if state_path is not None:
            Path(state_path).unlink(missing_ok=True)
        return result

    def whole(self, result: FineResult) -> ChiMap:
        """The best iterate on the whole grid."""
        chi_ppm = paste(result.chi_ppm, self.inputs, self.field)
        outcome = dataclasses.replace(result.outcome, doubts=(*self.doubts, *doubts_of(self.card, self.field, self.scan, chi_ppm)))
        return ChiMap(self.field.geometry, chi_ppm, self.field.mask, outcome)

    def ensemble(self, result: FineResult) -> tuple[Ensemble, float]:
        """The fitted network under all symmetries, and the whitened residual variance of their mean (the loss where the noise is not known)."""
        found = run_ensemble([result.network], views_of(self.inputs, self.symmetries))
        misfit = self.fidelity(found.mean_ppm)
        return found, float(misfit.loss if misfit.whitened is None else misfit.whitened)


def _shown(step: FineStep) -> float:
    return step.objective if math.isnan(step.whitened) else step.whitened


@about(kind="deep learning", input="all echoes", reference="Zhang et al., FINE, NeuroImage 2020")
def fine(
    field: FieldMap,
    *,
    scan: Scan | None = None,
    checkpoint: str | Path | None = None,
    fidelity: FidelityKind = "echoes",
    n_steps: int = 100,
    learning_rate: float = 1e-3,
    tv_weight: float = 0.0,
    target: float = 1.0,
    patience: int = 20,
    min_decrease: float = 0.005,
    time_budget_s: float = 1500.0,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    memory_gib: float = 6.0,
    prior_weight: float = 0.0,
    trained: Literal["all", "last"] = "all",
    on_step: OnStep | None = None,
    state_path: Path | None = None,
) -> ChiMap:
    """FINE (Zhang et al., NeuroImage 2020): the weights of a trained network are fitted to this one scan, with the physics as the loss.

    checkpoint: the network to start from, as for `unet`; fidelity: "echoes" (all echoes' phases, which must start at 0 at TE = 0; without a scan the
    field is taken) or "field"; the rest: `adaptation.settings.FineSettings`. state_path: where Ctrl-C leaves the state, and from where the same fit
    goes on if the file exists (more steps or time may be given; another network, scan, fidelity, penalty or choice of weights is refused).
    """
    settings = FineSettings(
        n_steps, learning_rate, tv_weight, target, patience, min_decrease, time_budget_s, precision, memory_gib, prior_weight, trained
    )
    fit = Fit.of(load_network(checkpoint), field, scan, fidelity, settings)
    return fit.whole(fit.run(on_step, state_path))
