"""Network weights: a safetensors file that carries a JSON card (units, scaling, training envelope, provenance) in its metadata.

Pickles run code when they are loaded, so none is ever opened.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from qsmdl.errors import InputError
from qsmdl.io.files import atomic_path

CARD_KEY = "qsmdl_card"
_PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin")
_EXPORT = "Export it to safetensors where it was trained: qsmdl.io.weights.save_weights(path, network.state_dict(), card)"


def _check_name(path: Path) -> None:
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        raise InputError(f"{path} has the name of a pickled checkpoint ({path.suffix}); pickles can run code and are never loaded. {_EXPORT}.")
    if path.suffix != ".safetensors":
        raise InputError(f"{path} does not end in .safetensors, the format of qsmdl's weights. {_EXPORT}.")


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"The tensor {name} of {path} holds NaN or infinite values: the training diverged. Take an earlier checkpoint.")


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with the weights of convolutions in 16 bits, for files of half the size; what a network computes with them has 32 bits all the same.

    What has one axis (biases, what batch norm keeps) stays as it is. Raises InputError for weights that 16 bits cannot hold.
    """
    found = {name: tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
    for name, tensor in found.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"The largest weight of {name} is {float(tensors[name].abs().max()):.3g}, which 16 bits cannot hold. Write 32 bits.")
    return found


def save_weights(path: Path | str, tensors: Mapping[str, Tensor], card: Mapping[str, Any], overwrite: bool = False) -> None:
    """Writes tensors and their card (plain numbers, texts, lists, dicts) to one `.safetensors` file, atomically.

    Raises InputError: wrong suffix, no tensors, non-finite values, a card that JSON cannot hold, an existing target, or the disk refuses.
    """
    path = Path(path)
    _check_name(path)
    if not tensors:
        raise InputError(f"There are no tensors to write to {path}. Pass a network's state_dict().")
    _check_finite(path, tensors)
    try:
        text = json.dumps(dict(card), allow_nan=False, sort_keys=True, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"The card for {path} cannot be written as JSON: {error}. Finite numbers, texts, lists and dicts can.") from error
    # clones: safetensors refuses tensors that share memory
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_path(path, overwrite) as hidden:
        try:
            save_file(plain, hidden, metadata={CARD_KEY: text})
            hidden.chmod(0o644)  # safetensors makes files that only their owner can read
        except SafetensorError as error:  # safetensors wraps the operating system's errors (disk full)
            raise OSError(str(error)) from error


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise InputError(f"{path} could not be read: {error.strerror}. Check the name.") from error
    # A safetensors file begins with the length of its header in eight bytes, which may look like a pickle's first byte, and then a brace.
    if head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[8:] != b"{"):
        raise InputError(f"{path} is a pickle under the name of a safetensors file; pickles can run code and are never loaded. {_EXPORT}.")


def _parse_card(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    text = (metadata or {}).get(CARD_KEY)
    if text is None:
        raise InputError(f"{path} has no card (metadata entry {CARD_KEY!r}), so its units and scaling are unknown. {_EXPORT}.")
    try:
        card = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"The card in {path} is not valid JSON: {error}. {_EXPORT}.") from error
    if not isinstance(card, dict):
        raise InputError(f"The card in {path} is a {type(card).__name__}, but must be a JSON object. {_EXPORT}.")
    return card


def load_weights(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a `.safetensors` file that `save_weights` made: (tensors on the CPU, card).

    Raises InputError naming the file: missing, a pickle (by name or by content), truncated or damaged, without card, with non-finite values.
    """
    path = Path(path)
    _check_name(path)
    _check_magic(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        raise InputError(f"{path} could not be read as safetensors ({error}). It is truncated or damaged: copy or download it again.") from error
    card = _parse_card(path, metadata)
    _check_finite(path, tensors)
    return tensors, card
