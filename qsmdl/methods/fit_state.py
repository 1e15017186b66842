"""Where an interrupted FINE leaves its state, and who may go on from it."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from qsmdl.adaptation.fine import FineState
from qsmdl.errors import InputError
from qsmdl.io.provenance import canonical_json, tensors_digest
from qsmdl.io.weights import load_weights, save_weights


def _seal(tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{tensors_digest(tensors)} {canonical_json(card)}".encode()).hexdigest()


def save_state(path: Path, state: FineState, identity: Mapping[str, Any]) -> None:
    """identity: of the fit, which alone may go on from here."""
    card = {"fine_state": state.numbers, "identity": dict(identity)}
    save_weights(path, state.tensors, card | {"seal": _seal(state.tensors, card)}, overwrite=True)


def load_state(path: Path | None, identity: Callable[[], Mapping[str, Any]]) -> FineState | None:
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
