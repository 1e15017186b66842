"""The flagship: a network run under several symmetries of the physics, whose spread is an uncertainty; and the same after a fit to the scan."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from qsmdl.about import about
from qsmdl.adaptation.ensemble import Ensemble, run_ensemble, views_of
from qsmdl.adaptation.settings import FineSettings
from qsmdl.data.inputs import NetworkInputs, Prior, paste, prepare_inputs, ringing_of
from qsmdl.data.symmetry import Symmetry, parse_symmetries
from qsmdl.errors import InputError
from qsmdl.methods.doubts import doubts_of
from qsmdl.methods.fitting import FidelityKind, Fit
from qsmdl.methods.method import OnStep
from qsmdl.methods.weights import load_network
from qsmdl.poststeps import consistent
from qsmdl.scan import ChiMap, FieldMap, Outcome, Scan

SYMMETRIES = ("identity", "flip_x", "flip_y", "flip_x+flip_y")
"""Without the sign flip: a network that is fed the magnitude has learned how texture goes along with it, which holds for one sign only
(docs/flagship.md, entry 3)."""


def _members(symmetries: tuple[str, ...], uncertainty: bool) -> tuple[Symmetry, ...]:
    members = parse_symmetries(symmetries)
    if uncertainty and len(members) < 2:
        raise InputError(f"uncertainty is true, but symmetries is {list(symmetries)}: one map has no spread. Name a second one, or set it to false.")
    return members


def _map_of(
    found: Ensemble,
    inputs: NetworkInputs,
    prior: Prior,
    card: Mapping[str, Any],
    field: FieldMap,
    scan: Scan | None,
    outcome: Outcome,
    *,
    uncertainty: bool,
    final_solve: bool,
) -> ChiMap:
    spread = paste(found.std_ppm, inputs, field) if uncertainty and found.std_ppm is not None else None
    chi = ChiMap(field.geometry, paste(found.mean_ppm, inputs, field), field.mask, outcome, spread)
    if final_solve:
        chi = consistent(chi, field, ringing_of(inputs, prior, field))
    doubts = (*chi.outcome.doubts, *doubts_of(card, field, scan, chi.chi_ppm))
    return dataclasses.replace(chi, outcome=dataclasses.replace(chi.outcome, doubts=doubts))


@about(kind="deep learning", reference="Wang et al., Neurocomputing 2019 (test-time augmentation)", weights="flagship")
@torch.no_grad()
def flagship(
    field: FieldMap,
    *,
    scan: Scan | None = None,
    checkpoint: str | Path | None = None,
    symmetries: tuple[str, ...] = SYMMETRIES,
    uncertainty: bool = True,
    final_solve: bool = True,
) -> ChiMap:
    """The mean of a network's maps over symmetries of the dipole model, and their standard deviation in each voxel as an uncertainty.

    scan: for networks that are fed the magnitude or the echoes. checkpoint: a safetensors file of train.py, None for the shipped flagship.
    symmetries: "identity", or one or more of flip_x, flip_y, flip_z and sign joined by "+" (`data.symmetry`); the network is run once for each.
    uncertainty: keep the standard deviation, which needs two symmetries at least (docs/adaptation.md tells what it does not see). final_solve:
    correct the mean at the end, so that it explains the field together with the ringing that the start lost (`poststeps.consistent`).
    """
    members = _members(symmetries, uncertainty)
    network, prior, card = load_network(checkpoint, "flagship")
    field, scan, doubts = prior.corrected(field, scan)
    inputs = prepare_inputs(field, prior, scan)
    found = run_ensemble([network.to(field.field_ppm.device)], views_of(inputs, members))
    outcome = Outcome(found.n_members, f"mean of {found.n_members} passes", 0.0, doubts=doubts)
    return _map_of(found, inputs, prior, card, field, scan, outcome, uncertainty=uncertainty, final_solve=final_solve)


@about(kind="deep learning", input="all echoes", reference="Zhang et al., FINE, NeuroImage 2020", weights="flagship")
def flagship_fine(
    field: FieldMap,
    *,
    scan: Scan | None = None,
    checkpoint: str | Path | None = None,
    symmetries: tuple[str, ...] = SYMMETRIES,
    uncertainty: bool = True,
    final_solve: bool = True,
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
    """The flagship after FINE (Zhang et al., NeuroImage 2020): its weights are fitted to this one scan, seen under one symmetry a step in turn, and
    the fitted network's maps are averaged over all symmetries.

    checkpoint, symmetries, uncertainty, final_solve: as for `flagship`; the rest as for `fine`. The uncertainty is the spread of the fitted network's
    maps.
    """
    members = _members(symmetries, uncertainty)
    settings = FineSettings(
        n_steps, learning_rate, tv_weight, target, patience, min_decrease, time_budget_s, precision, memory_gib, prior_weight, trained
    )
    fit = Fit.of(load_network(checkpoint, "flagship"), field, scan, fidelity, settings, members)
    result = fit.run(on_step, state_path)
    found, residual = fit.ensemble(result)
    outcome = dataclasses.replace(result.outcome, residual=residual, doubts=fit.doubts)
    return _map_of(found, fit.inputs, fit.prior, fit.card, fit.field, fit.scan, outcome, uncertainty=uncertainty, final_solve=final_solve)
